"""Asking a training to leave: which reason gives which exit status, and that only the process asked listens."""

import os
import signal
import time

import pytest

from steps.training.interrupt import StopRequest


@pytest.fixture
def request_(monkeypatch):
    """The class StopRequest, with nothing requested."""
    for name in ("RUN_DEADLINE", "RUN_STOP_FILE"):
        monkeypatch.delenv(name, raising=False)
    return StopRequest


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals(request_, number, status):
    stop = request_()
    assert stop.poll() == 0
    os.kill(os.getpid(), number)
    assert stop.poll() == status


def test_the_deadline(request_, monkeypatch):
    monkeypatch.setenv("RUN_DEADLINE", str(time.time() + 1000))
    assert request_().poll() == 0
    monkeypatch.setenv("RUN_DEADLINE", str(time.time() - 1))
    assert request_().poll() == 75


def test_the_stop_file(request_, monkeypatch, tmp_path):
    monkeypatch.setenv("RUN_STOP_FILE", str(tmp_path / "stop"))
    stop = request_()
    assert stop.poll() == 0
    (tmp_path / "stop").touch()
    assert stop.poll() == 75


def test_a_forked_process_does_not_answer_for_the_training(request_):
    stop = request_()
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(stop.poll())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert stop.poll() == 0

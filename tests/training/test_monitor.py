"""The progress lines of a training."""

import errno
import os

import pytest
from tensorboard.summary.writer import record_writer

from steps.training import monitor


@pytest.mark.parametrize(
    "seconds, text",
    [(5, "5 s left"), (89, "89 s left"), (150, "2.5 min left"), (700, "12 min left"), (9000, "2.5 h left")],
)
def test_the_time_left_is_told_in_a_fitting_unit(seconds, text):
    assert monitor.time_left(seconds) == text


def test_the_time_left_is_reckoned_from_this_run_alone(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    shown = monitor.Monitor(tmp_path, epochs=10)
    shown.start(step=50)  # half of the training was done by an earlier run
    for step in range(4):
        now[0] += 30
        shown.update(50 + step, 5, 0.5 + step / 50, {"ctc": 1.0}, 10, 1e-3, 0.5, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert "left" not in lines[0]
    assert lines[-1].endswith("11 min left")  # 0.06 of it took 90 s, 0.44 is left


def test_a_full_disk_is_told_with_its_place_and_not_by_a_thread(tmp_path, monkeypatch, capsys):
    """TensorBoard writes in a thread, whose traceback would be all that the end of a log shows."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shown = monitor.Monitor(tmp_path, epochs=1)
    shown.start(step=0)
    monkeypatch.setattr(record_writer.RecordWriter, "write", fail)
    dev = {"loss": 1.0, "wer": 1.0, "cer": 1.0, "example": "a"}
    with pytest.raises(OSError) as error:
        shown.dev(1, "now", dev)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "tensorboard"))
    assert capsys.readouterr().err == ""
    with pytest.raises(OSError, match="tensorboard"):
        shown.close()
    assert capsys.readouterr().err == ""

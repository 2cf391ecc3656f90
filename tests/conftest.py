"""Fixtures that several test folders share."""

import os
import signal
from pathlib import Path

import pytest
from throwaway_slurm import ThrowawaySlurm, missing

HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGPIPE: signal.SIG_IGN}
HANDLERS |= dict.fromkeys((signal.SIGHUP, signal.SIGTERM), signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """Each test begins with Python's own handlers, whatever nohup or a training in this process left."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def an4_dir():
    """Folder of the AN4 corpus, from the environment variable AN4_DIR; without it the test is skipped."""
    value = os.environ.get("AN4_DIR")
    if not value:
        pytest.skip("AN4_DIR is not set: needs the AN4 corpus")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"AN4_DIR={value} is not a folder")
    return folder


@pytest.fixture(scope="module")
def slurm():
    """A running Slurm; skipped where it is not installed, a failure there if REQUIRE_SLURM=1."""
    if lacking := missing():
        message = f"slurm-wlm and munge are not installed ({', '.join(lacking)} not found)"
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    cluster = ThrowawaySlurm()
    yield cluster
    cluster.close()


# The longest files first, so that no process is left alone with one at the end; behind test_chain.py those that wait for its run.
LONGEST = ["test_chain.py", "test_public_corpora.py", "test_own_corpora.py", "test_programs.py", "test_distributed.py"]
LONGEST += ["test_chain_slurm.py", "test_slurm.py", "test_chain_killed.py"]


def pytest_collection_modifyitems(items):
    """The longest files first. Tests of a GPU only where there is one."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    of_a_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if of_a_gpu:
        # Here, because most test files do without.
        import torch

        if not torch.cuda.is_available():
            for item in of_a_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))

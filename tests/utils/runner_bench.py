"""What the tests of both job runners share."""

import time


def body(path):
    """Lines of a log between header and footer."""
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ") and lines[-1].startswith("# Ended with status")
    return [line for line in lines if not line.startswith("#")]


def wait_until(condition, limit_s=60.0):
    """Wait until condition() holds; a failure after `limit_s`."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.02)

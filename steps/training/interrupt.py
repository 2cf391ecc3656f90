"""Requests to stop a training: signals, a deadline, a stop file. Polled once per update."""

import os
import signal
import time
from pathlib import Path


class StopRequest:
    """Watches for reasons to save and stop.

    SIGTERM, the clock passing RUN_DEADLINE (seconds since 1970) and the file RUN_STOP_FILE appearing request exit status 75
    ("run me again"); SIGINT requests 130. Handlers act only in the process that installed them.
    """

    def __init__(self):
        self.status = 0
        self._pid = os.getpid()
        self._deadline_s = float(os.environ.get("RUN_DEADLINE", "inf"))
        self._stop_file = os.environ.get("RUN_STOP_FILE")
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number, _frame):
        if os.getpid() == self._pid:
            self.status = 130 if number == signal.SIGINT else 75

    def poll(self) -> int:
        """The exit status requested; 0 while training may go on."""
        late = time.time() > self._deadline_s or (self._stop_file and Path(self._stop_file).exists())
        return self.status or (75 if late else 0)

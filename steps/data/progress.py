"""Progress lines of programs that go through the utterances of a data folder."""

import time

from steps.core.cli import say

REPORT_EVERY_S = 5.0


class Progress:
    """Reports progress every few seconds. Args: total: utterances.   frame_shift_ms: of the features that are counted."""

    def __init__(self, total: int, frame_shift_ms: float):
        self.total, self.done, self.frames = total, 0, 0
        self.shift_s = frame_shift_ms / 1000
        self.start_s = self.reported_s = time.monotonic()

    def add(self, frames: int) -> None:
        """Count one utterance."""
        self.done += 1
        self.frames += frames
        now_s = time.monotonic()
        if now_s - self.reported_s >= REPORT_EVERY_S or self.done == self.total:
            self.reported_s = now_s
            hours = self.frames * self.shift_s / 3600
            rate = hours * 3600 / max(now_s - self.start_s, 1e-6)
            say(f"utterance {self.done}/{self.total} {hours:.2f} h, {rate:.0f} x real time")

"""What SenseVoice hears and is asked besides (arXiv 2407.04051), as sherpa-onnx feeds its ONNX file: several frames as one, brought to
zero mean, and in front of them four prompts, of which language and text style are chosen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steps.core.cli import UserError

KIND = "sense_voice_ctc"
# frames in front of those of the sound: language, feeling, event, style
PROMPTS = 4
# most frames that may be heard as one
WIDEST = 16


class SenseVoice:
    """Its inputs from feature frames.

    Args:   meta: of the ONNX file.   where: for messages.
    Attributes: window, shift: frames heard as one, and from one of these to the next.   asked: language (whichever it hears) and style
            (words as spoken, without punctuation or digits).   blank_id: output of the blank, which its tokens.txt calls otherwise.
    Raises: UserError for metadata that is missing or wrong.
    """

    def __init__(self, meta: Mapping[str, str], where: str | Path):
        self.where, self.meta = where, meta
        self.window, self.shift = self._number("lfr_window_size"), self._number("lfr_window_shift")
        if not 1 <= self.shift <= self.window <= WIDEST:
            raise UserError(
                f"{where}: {self.window} frames heard as one, every {self.shift}: at most {WIDEST} are read here"
            )
        self.asked = [self._number("lang_auto"), self._number("without_itn")]
        self.blank_id = self._number("blank_id") if "blank_id" in meta else 0
        self.offset, self.scale = self._numbers("neg_mean"), self._numbers("inv_stddev")
        if len(self.offset) != len(self.scale) or len(self.offset) % self.window:
            raise UserError(f"{where}: neg_mean and inv_stddev in its metadata do not fit {self.window} frames")
        self.dim = len(self.offset) // self.window

    def _text(self, name: str) -> str:
        if name not in self.meta:
            raise UserError(
                f"{self.where}: a {KIND} without {name} in its metadata; take the file that sherpa-onnx reads"
            )
        return self.meta[name]

    def _number(self, name: str) -> int:
        text = self._text(name)
        if not text.isascii() or not text.isdecimal() or len(text) > 6:
            raise UserError(f"{self.where}: {name} in its metadata is {text[:40]!r}, not a number")
        return int(text)

    def _numbers(self, name: str) -> np.ndarray:
        try:
            values = np.array([float(text) for text in self._text(name).split(",")], np.float32)
        except ValueError:
            values = np.array([np.nan])
        if not np.isfinite(values).all():
            raise UserError(f"{self.where}: {name} in its metadata is no list of numbers")
        return values

    def stack(self, feats: np.ndarray) -> np.ndarray:
        """Frames heard as one, each around every `shift`-th; beyond the ends the first and the last one stand. Args: feats (T, D), T > 0.

        Returns: (ceil(T / shift), D * window) float32.
        """
        centres = np.arange(0, len(feats), self.shift)
        rows = centres[:, None] + np.arange(self.window) - (self.window - 1) // 2
        stacked = feats[rows.clip(0, len(feats) - 1)].reshape(len(centres), -1)
        return (stacked + self.offset) * self.scale

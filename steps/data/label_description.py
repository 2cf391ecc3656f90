"""What a file of labels says of itself: who said it, and what of it was kept."""

from dataclasses import dataclass, field

from steps.core.config import LATER, check


@dataclass(frozen=True)
class LabelConfig:
    """What is kept of what teachers say (conf/label.yaml).

    keep: log-probabilities per frame, at most; null: all.   threshold: the least probability that is kept, 0..1 (the best unit
    always is).   hidden_layers: blocks whose outputs are stored, too, counted from 0 (last: -1).   hidden_codes: bytes for each
    frame of such an output, codes of as many codebooks (state_codes.py); null: the states themselves, two bytes a number.
    """

    keep: int | None = 8
    threshold: float = 1e-3
    hidden_layers: list[int] = field(default_factory=list)
    hidden_codes: int | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check(self.keep is None or self.keep >= 1, "keep must be at least 1, or null for all")
        check(0 <= self.threshold < 1, "threshold must be in [0, 1)")
        check(self.hidden_codes is None or 1 <= self.hidden_codes <= 64, "hidden_codes must be 1 to 64, or null")
        check(not self.hidden_codes or bool(self.hidden_layers), "hidden_codes needs hidden_layers")


@dataclass(frozen=True)
class Description:
    """Who said it, and what was kept.

    teacher: folder name.   identity: hash of its content.   features: what it hears.   dev_wer: percent, where it is known.
    places: of the stored outputs among those of front end (0) and blocks.   inputs: hash of the utterances and the files they
    were read from.
    """

    teacher: str
    identity: str
    features: dict
    vocabulary: list[str]
    frame_shift_ms: float
    depth: int
    width: int
    dev_wer: float | None
    settings: LabelConfig
    places: list[int]
    part: int
    num_parts: int
    inputs: str

    def __post_init__(self) -> None:
        check(2 <= len(self.vocabulary) <= 1 << 18, "vocabulary must hold 2 to 262144 units")
        check(0 < self.frame_shift_ms <= 1000, "frame_shift_ms must be above 0 and at most 1000")
        check(1 <= self.part <= self.num_parts, "part must be 1 to num_parts")
        check(
            0 <= self.width < 1 << 20 and all(0 <= place <= self.depth < 1 << 16 for place in self.places),
            "no such layers",
        )

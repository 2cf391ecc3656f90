"""Which blocks of a finished model a student begins with."""

from dataclasses import dataclass

from steps.core.cli import UserError
from steps.core.config import check


@dataclass(frozen=True)
class InheritConfig:
    """Blocks of the model of --init, or of the teacher, that a student begins with; front end and output layer it has whole.

    layers: `spread`, evenly, first and last among them (distil-whisper, Gandhi et al. 2023, arXiv:2311.00430, section 3.1), or
    `first` (DistilHuBERT, Chang et al. 2022, arXiv:2110.01900).   count: how many.   blocks: these instead, counted from 0
    (last: -1).
    """

    layers: str = "spread"
    count: int | None = None
    blocks: list[int] | None = None

    def __post_init__(self) -> None:
        check(self.layers in ("spread", "first"), "layers must be spread or first")
        check((self.count is None) != (self.blocks is None), "give either count or blocks")
        check(self.count is None or self.count >= 1, "count must be at least 1")
        check(self.blocks != [], "blocks is empty")

    def kept(self, total: int, name: str) -> list[int]:
        """Indices of the blocks, rising. Args: total: that the model has; name: of it.  Raises: UserError when they are not there."""
        if self.blocks is not None:
            if wrong := [block for block in self.blocks if not -total <= block < total]:
                raise UserError(f"inherit: blocks: there is no block {wrong[0]}; {name} has {total}")
            places = [block % total for block in self.blocks]
            if places != sorted(set(places)):
                raise UserError(f"inherit: blocks: {self.blocks} do not rise; a student keeps the order of {name}")
            return places
        assert self.count is not None
        if self.count > total:
            raise UserError(f"inherit: count: {self.count} blocks, but {name} has {total}")
        step = 1 if self.layers == "first" else (total - 1) / max(1, self.count - 1)
        return [round(place * step) for place in range(self.count)]

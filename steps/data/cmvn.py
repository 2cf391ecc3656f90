"""Corpus mean and standard deviation of each feature bin, which become part of the model."""

import json
import math
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError


def read_cmvn(path: str | Path, dim: int) -> dict[str, Any]:
    """Read `cmvn.json`. Args: dim: bins expected.  Returns: {"frames", "mean", "std"}.  Raises: MissingInput, UserError."""
    if not Path(path).is_file():
        raise MissingInput(f"{path}: no such file; steps.combine_features --cmvn makes it (stage 1)")
    try:
        cmvn = json.loads(Path(path).read_text(encoding="utf-8"))
        mean, std = [float(x) for x in cmvn["mean"]], [float(x) for x in cmvn["std"]]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise UserError(f"{path}: not a file of mean and std; run stage 1 again") from None
    if not len(mean) == len(std) == dim:
        raise UserError(f"{path}: has {len(mean)} bins, the feature settings {dim}; run stage 1 again")
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise UserError(f"{path}: means must be finite and deviations > 0; run stage 1 again")
    return {"frames": cmvn.get("frames"), "mean": mean, "std": std}

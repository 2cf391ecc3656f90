"""JSON from strangers: bounded, and an object."""

import json
from pathlib import Path
from typing import Any

from steps.core.cli import UserError
from steps.core.limits import read_limited, show


def read_json(path: str | Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object. Args: most_bytes: that the file may have.   Raises: OSError; UserError when it is anything else."""
    try:
        value = json.loads(read_limited(path, most_bytes, "JSON file of a model"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({str(error)[:100]}); copy the model again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, not {show(value)}; copy the model again")
    return value

"""Versions behind the numbers: of the runtimes as the decodings recorded them, of the rest as the report runs."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.core.provenance import VERSION
from steps.core.tables import SHOWN
from steps.scoring.collect import decode_folder
from steps.scoring.results import RUNTIMES
from steps.scoring.sources import read_facts
from steps.scoring.streaming import chunk_lengths
from steps.scoring.streaming import decode_folder as chunk_folder

# what counts errors and draws intervals
OF_THE_REPORT = ("numpy", "scipy", "jiwer", "RapidFuzz")
# who ran it, by package and version
Ran = dict[str, dict[str, list[str]]]


def read_runtimes(
    exp: str | Path, models: Sequence[str], sets: Sequence[str], benchmark: Mapping[str, Any] | None = None
) -> Ran:
    """Versions of the runtimes, and what each of them ran: models, and the benchmark. Args: benchmark: content of benchmark.json.

    Raises: UserError.
    """
    found: Ran = {}
    for model in models:
        folders = [decode_folder(exp, model, name, runtime) for name in sets for runtime in RUNTIMES]
        folders += [chunk_folder(exp, model, name, ms) for name in sets for ms in chunk_lengths(exp, model, name)]
        for folder in folders:
            _add(found, read_facts(folder).get("runtime"), model)
    host = (benchmark or {}).get("host")
    timed = host.get("versions") if isinstance(host, dict) else None
    if isinstance(timed, dict):
        # the one of its packages that it times
        _add(found, {"onnxruntime": timed.get("onnxruntime")}, "the benchmark")
    return found


def _add(found, recorded, who):
    for name in RUNTIMES:
        version = recorded.get(name) if isinstance(recorded, dict) else None
        if isinstance(version, str):
            names = found.setdefault(name, {}).setdefault(version, [])
            names += [who] if who not in names else []


def versions(ran: Ran) -> dict[str, str]:
    """Versions by name; runtimes that no decoding names and packages that are not installed are left out."""
    found = {"slim_asr": VERSION, "python": platform.python_version()}
    # not those that are installed now
    found |= {name: " and ".join(sorted(ran[name])) for name in RUNTIMES if name in ran}
    for name in OF_THE_REPORT:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version_notes(ran: Ran) -> list[dict[str, str]]:
    """A note for each runtime that ran in several versions, in the form of `warnings.find_warnings`."""
    found = []
    for name, by_version in ran.items():
        if len(by_version) > 1:
            parts = [f"{version} ({_names(by_version[version])})" for version in sorted(by_version)]
            text = f"Several versions of {name} are behind these numbers: {', '.join(parts)}. "
            text += "Texts of quantized models and speeds depend on it: decode and time everything with one."
            found.append({"level": "note", "text": text})
    return found


def _names(names):
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")

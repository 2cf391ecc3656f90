"""The parts that `steps.label_data` wrote, put together."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.cli import MissingInput, UserError
from steps.core.datadir import read_data_dir
from steps.core.outdir import sha256_file, write_json
from steps.core.tables import counted
from steps.data.labels import FILE, REMEDY, Labels, part_name

PART = re.compile(r"labels\.([1-9]\d*)\.([1-9]\d*)\.bin")


def forget_others(out: str | Path, teachers: int, part: int) -> None:
    """Remove what an earlier run with more teachers left of a part. Args: out: folder of the labels; teachers: how many there are."""
    for path in Path(out).glob(f"labels.*.{part}.bin"):
        if (match := PART.fullmatch(path.name)) and int(match[1]) > teachers:
            # first, because it names that file
            (path.parent / FILE).unlink(missing_ok=True)
            path.unlink()


def combine(out: str | Path, data: str | Path, num_parts: int) -> str:
    """Write labels.json, after checking that every utterance is there exactly once and that all parts were made alike.

    Files of other parts and teachers, left by an earlier run, are removed.

    Args:    out: folder of the labels.   data: data folder.
    Returns: one line: utterances, hours, size.   Raises: MissingInput, UserError.
    """
    out = Path(out)
    found = {
        match[0]: (int(match[1]), int(match[2]))
        for path in out.glob("labels.*")
        if (match := PART.fullmatch(path.name))
    }
    teachers = max((teacher for teacher, part in found.values() if part == 1), default=0)
    if not teachers:
        raise MissingInput(f"{out / part_name(1, 1)}: no such file; {REMEDY}")
    utt_ids = [utt.utt_id for utt in read_data_dir(data, check_audio=False, need_text=False)]
    files: dict[str, dict[str, Any]] = {}
    hours = 0.0
    for teacher in range(1, teachers + 1):
        labels = Labels(out, teacher, num_parts)
        own = labels.description
        if own.num_parts != num_parts:
            raise UserError(
                f"{out}: labels of {own.num_parts} parts, not {num_parts}; give --num-shards {own.num_parts}"
            )
        missing = np.flatnonzero(labels.find(utt_ids) < 0)
        if missing.size or len(labels) != len(utt_ids):
            what = (
                f"{missing.size} of {data} are missing" if missing.size else f"{len(labels)}, {data} has {len(utt_ids)}"
            )
            raise UserError(f"{out}: labels of utterances: {what}; {REMEDY} for every part")
        hours = int(labels.frames(np.arange(len(labels))).sum()) * own.frame_shift_ms / 3.6e6
        for part in range(1, num_parts + 1):
            path = out / part_name(teacher, part)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    for name in found.keys() - files.keys():
        (out / name).unlink()
    write_json(out / FILE, {"format": 1, "teachers": teachers, "parts": num_parts, "files": files})
    size = sum(facts["bytes"] for facts in files.values()) / 1e3
    return f"{counted(len(utt_ids), 'utterance')}, {hours:.2f} h, {size:.1f} kB, {size / max(hours, 1e-9):.1f} kB per hour: {out}"

"""Kaldi data folders: wav.scp, text, utt2spk, spk2utt; optionally segments, utt2dur, utt2num_frames, feats.scp.

Everything in them is data: paths may hold blanks, quotes or `$(...)`, and no shell ever sees them. Paths in wav.scp and
feats.scp that begin with ./ or ../ are relative to the data folder (steps.core.places); other relative ones are relative to
the working directory, as in Kaldi. One file is ours: `utt2speed` (`utterance-id factor`), for
copies of an utterance that are to be played faster or slower when features are computed.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from steps.core.cli import UserError, say
from steps.core.datacheck import NO_SPK_SORT, audio_info, audio_problems, find_problems, speakers_in_order
from steps.core.large_tables import LargeTable
from steps.core.tables import (
    BLANK,
    TO_THE_END,
    Problem,
    Table,
    byte_order,
    raise_problems,
    read_folder,
    read_table,
    recording_of,
    segment_limits,
    spk2utt,
    write_folder,
)

__all__ = [
    "SOUND_FILE",
    "Utterance",
    "audio_info",
    "read_data_dir",
    "read_table",
    "show_number",
    "validate_data_dir",
    "write_data_dir",
]


# Beside the sets: what was done to their sound that no model takes along, {setting of conf/prepare.yaml: value}.
SOUND_FILE = "sound.json"


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech.

    Args: utt_id, speaker: ids without blanks.   text: transcript, words separated by single spaces.
          audio: path of the sound file.   start_s, end_s: limits in that file in seconds; end_s None: to its end.
          duration_s: seconds as heard, that is after the change of speed; None: not known.
          speed: factor of the change of speed, 1.0 for none.
    """

    utt_id: str
    speaker: str
    text: str
    audio: str
    start_s: float = 0.0
    end_s: float | None = None
    duration_s: float | None = None
    speed: float = 1.0


def read_data_dir(
    path: str | Path,
    allow_pipes: bool = False,
    check_audio: bool = True,
    need_text: bool = True,
    as_written: bool = False,
) -> list[Utterance]:
    """Read a data folder.

    Args:    allow_pipes: accept commands in wav.scp (the programs here never run them).
             check_audio: look whether every sound file is there.   need_text: False: `text` may be missing.
             as_written: leave paths as they stand there, and do without spk2utt, for folders that are not ours.
    Returns: list of Utterance in C-locale order of their ids.
    Raises:  MissingInput; UserError that lists every problem as `file:line: what is wrong`.
    """
    problems: list[Problem] = []
    tables = read_folder(path, problems, as_written=as_written)
    if as_written and "utt2spk" in tables:
        tables.setdefault("spk2utt", Table(Path(path) / "spk2utt", spk2utt(tables["utt2spk"])))
    problems += find_problems(path, tables, allow_pipes, check_audio, need_text, spk_sort=False)
    where = ", called in the folder that paths in wav.scp are relative to" if as_written else ""
    raise_problems(problems, f"{_mended_by(path)}{where}")
    return [_utterance(tables, utt_id) for utt_id in sorted(tables["utt2spk"], key=byte_order)]


def _mended_by(path):
    return f"utils/fix_data_dir.py {shlex.quote(str(path))} mends what can be mended"


def _utterance(tables, utt_id):
    limits = {}
    if "segments" in tables:
        _, start_s, end_s = segment_limits(tables["segments"][utt_id])
        limits = {"start_s": start_s, "end_s": end_s}
    return Utterance(
        utt_id=utt_id,
        speaker=tables["utt2spk"][utt_id],
        text=" ".join(BLANK.split(tables["text"][utt_id])) if "text" in tables else "",
        audio=tables["wav.scp"][recording_of(tables, utt_id)],
        duration_s=float(tables["utt2dur"][utt_id]) if "utt2dur" in tables else None,
        speed=float(tables["utt2speed"][utt_id]) if "utt2speed" in tables else 1.0,
        **limits,
    )


def write_data_dir(path: str | Path, utterances: Iterable[Utterance], need_text: bool = True) -> None:
    """Write a data folder that Kaldi's utils/validate_data_dir.sh accepts: whole files only, each by rename.

    Args:   utterances: iterable of Utterance; where the speaker does not prefix the utterance id (`spk-utt`), Kaldi's tools
            want the option --no-spk-sort, and that is said.
            segments is written when any utterance has limits, utt2dur when all durations are known, utt2speed when any
            speed is not 1.
            need_text: False: a set without transcripts; no `text` is written.
    Raises: UserError listing every utterance that cannot be written.
    """
    utterances = sorted(utterances, key=lambda utt: byte_order(utt.utt_id))
    if not utterances:
        raise UserError(f"{path}: there are no utterances to write")
    tables: dict[str, dict[str, str]] = {"utt2spk": {}, "text": {}, "wav.scp": {}}
    problems = [
        Problem(later.utt_id, f"the id of {earlier.audio} and of {later.audio}; rename one of them, or leave it out")
        for earlier, later in pairwise(utterances)
        if earlier.utt_id == later.utt_id
    ]
    problems += [Problem(repr(utt.utt_id), what) for utt in utterances for what in _not_writable(utt, need_text)]
    raise_problems(problems, f"{path} is not written")
    with_limits = any(utt.start_s or utt.end_s is not None for utt in utterances)
    recordings = _recording_ids(utterances) if with_limits else {}
    for utt in utterances:
        tables["utt2spk"][utt.utt_id] = utt.speaker
        tables["text"][utt.utt_id] = utt.text
        tables["wav.scp"][recordings.get(utt.audio, utt.utt_id)] = utt.audio
    if with_limits:
        tables["segments"] = {utt.utt_id: f"{recordings[utt.audio]} {_limits(utt)}" for utt in utterances}
    durations = {utt.utt_id: show_number(utt.duration_s) for utt in utterances if utt.duration_s is not None}
    if len(durations) == len(utterances):
        tables["utt2dur"] = durations
    if any(utt.speed != 1.0 for utt in utterances):
        tables["utt2speed"] = {utt.utt_id: show_number(utt.speed) for utt in utterances}
    tables["spk2utt"] = spk2utt(tables["utt2spk"])
    if not need_text:
        del tables["text"]
    problems = find_problems(path, tables, check_audio=False, need_text=need_text, spk_sort=False)
    raise_problems(problems, f"{path} is not written")
    write_folder(path, tables)
    if not speakers_in_order(tables["utt2spk"]):
        say(f"{path}: {NO_SPK_SORT}")


def _not_writable(utt, need_text):
    """What would not survive being written as a line of text."""
    fields = {"utterance id": utt.utt_id, "speaker": utt.speaker, "path": utt.audio}
    fields |= {"text": utt.text} if need_text else {}
    for name, value in fields.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            yield f"its {name} is not valid Unicode text"
        if value != value.strip() or re.search(r"[\r\n]", value) or not value:
            yield f"its {name} {value!r} is empty, starts or ends with a blank, or has a line end in it"
        elif name in ("utterance id", "speaker") and re.search(r"\s", value):
            yield f"its {name} has a blank in it"


def _recording_ids(utterances):
    """Sound file -> recording id: the file's name without suffix, numbered where two files share it."""
    ids, used = {}, set()
    for audio in sorted({utt.audio for utt in utterances}, key=byte_order):
        stem = re.sub(r"\s", "_", Path(audio).stem)
        name, count = stem, 1
        while name in used:
            count += 1
            name = f"{stem}-{count}"
        used.add(name)
        ids[audio] = name
    return ids


def _limits(utt):
    end_s = utt.end_s
    if end_s is None:
        end_s = TO_THE_END if utt.duration_s is None else utt.start_s + utt.duration_s * utt.speed
    return f"{show_number(utt.start_s)} {show_number(end_s)}"


def show_number(value: float) -> str:
    """A number of seconds or a factor as text: at most six decimals, no trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def validate_data_dir(
    path: str | Path,
    allow_pipes: bool = False,
    audio: bool = False,
    need_text: bool = True,
    spk_sort: bool = True,
    on_disk: bool = False,
) -> dict[str, Table | LargeTable]:
    """Check everything about a data folder.

    Args:    audio: also read the header of every sound file.   spk_sort: also demand what Kaldi does of speaker ids.
             on_disk: leave large files on disk, to be read only.
    Returns: dict file name -> Table, the checked content.   Raises: MissingInput; UserError listing every problem.
    """
    problems: list[Problem] = []
    tables = read_folder(path, problems, on_disk)
    problems += find_problems(path, tables, allow_pipes, True, need_text, spk_sort)
    if audio:
        problems += audio_problems(tables, {utt for problem in problems for utt in problem.utterances})
    raise_problems(problems, _mended_by(path))
    return tables

"""What can be wrong in a Kaldi data folder: one function lists it all, with file and line.

Standard library only, except that looking into sound files needs soundfile.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import eq
from pathlib import Path

from steps.core.cli import UserError
from steps.core.large_tables import LargeTable
from steps.core.sound import OVERSHOOT_S, sound_info
from steps.core.tables import (
    BLANK,
    RECORDING_FILES,
    SPEAKER_FILES,
    UTTERANCE_FILES,
    Problem,
    Tables,
    by_id,
    byte_order,
    recording_of,
    segment_limits,
    spk2utt,
)

NUMBER = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?")
END = re.compile(rf"{NUMBER.pattern}|-1(\.0*)?")
STRANGE_SPACE = re.compile(r"[^\S \t]")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f]")
NOT_IN_IDS = re.compile(rf"{STRANGE_SPACE.pattern}|{CONTROL.pattern}")
# Beyond, a resampler's filters would be huge.
SPEEDS = (0.1, 10.0)
# Words with a meaning of their own in Kaldi's tools.
REFUSED_WORDS = {"<s>", "</s>", "#0"}
NO_SPK_SORT = "utterance ids do not begin with the speaker id; Kaldi's tools want --no-spk-sort for this folder"


def find_problems(
    path: str | Path,
    tables: Tables,
    allow_pipes: bool = False,
    check_audio: bool = True,
    need_text: bool = True,
    spk_sort: bool = True,
) -> list[Problem]:
    """Everything wrong between and within the tables of a data folder, beyond what reading them showed.

    Returns: list of Problem.
    """
    path = Path(path)
    needed = ["utt2spk", "spk2utt", "wav.scp", *(["text"] if need_text else [])]
    missing = [Problem(str(path / name), "no such file") for name in needed if name not in tables]
    if "utt2spk" not in tables or "wav.scp" not in tables:
        return missing
    problems = [*missing, *_id_problems(tables), *_odd_ids(tables), *_speaker_problems(tables, spk_sort)]
    problems += _text_problems(tables) if "text" in tables else []
    problems += _number_problems(tables)
    problems += _segment_problems(tables) if "segments" in tables else []
    return [*problems, *_audio_path_problems(tables, allow_pipes, check_audio)]


def _where(table, key):
    """The place of an id: `file:line` in a table that was read, else the id itself."""
    return table.where(key) if hasattr(table, "where") else key


def _id_problems(tables):
    """Ids that one file has and another lacks."""
    utterances = IdentityMap(tables["utt2spk"])
    speakers = dict.fromkeys(tables["utt2spk"].values(), ())
    origin = "segments" if "segments" in tables else "utt2spk"
    yield from _compare_ids(tables, UTTERANCE_FILES, utterances, "utt2spk")
    yield from _compare_ids(tables, RECORDING_FILES, recording_users(tables), origin)
    yield from _compare_ids(tables, SPEAKER_FILES, speakers, "utt2spk")


def _odd_ids(tables):
    """Ids with characters that nobody sees; they would go into tables, logs and names of files."""
    for name in ("utt2spk", "wav.scp"):
        users = recording_users(tables) if name == "wav.scp" else {}
        for key, value in tables[name].items():
            if found := NOT_IN_IDS.search(key) or (name == "utt2spk" and NOT_IN_IDS.search(value)):
                what = f"control character or odd white space {found[0]!r} in an id"
                yield Problem(_where(tables[name], key), what, tuple(users.get(key, (key,))))


def _compare_ids(tables, names, users, origin):
    """Ids of the files `names` against the keys of `users` (id -> utterances that need it), which `origin` lists."""
    for name in [name for name in names if name in tables]:
        if len(tables[name]) == len(users) and all(map(eq, tables[name], users)):
            continue
        for key in sorted((key for key in tables[name] if key not in users), key=byte_order):
            yield Problem(_where(tables[name], key), f"id {key!r} is not in {origin}")
        for key in sorted((key for key in users if key not in tables[name]), key=byte_order):
            where = _where(tables[origin], users[key][0]) if users[key] else getattr(tables[name], "path", name)
            yield Problem(str(where), f"id {key!r} is not in {name}", tuple(users[key]))


def _speaker_problems(tables, spk_sort):
    utt2spk = tables["utt2spk"]
    for utt, speaker in utt2spk.items():
        if not speaker or BLANK.search(speaker):
            yield Problem(_where(utt2spk, utt), f"expected `utterance-id speaker-id`, not {utt} {speaker}", (utt,))
    stated = {speaker: BLANK.sub(" ", utts) for speaker, utts in tables.get("spk2utt", {}).items()}
    for speaker, utts in (spk2utt(utt2spk) if stated else {}).items():
        if speaker in stated and stated[speaker] != utts:
            what = f"the utterances of {speaker!r} are not those of utt2spk, in order"
            yield Problem(_where(tables["spk2utt"], speaker), what)
    if spk_sort and not speakers_in_order(utt2spk):
        by_utt = sorted(utt2spk, key=byte_order)
        by_speaker = sorted(utt2spk, key=lambda utt: (utt2spk[utt].encode(), utt.encode()))
        first = next(a for a, b in zip(by_utt, by_speaker, strict=True) if a != b)
        what = "Kaldi wants the same order when sorted by speaker: let utterance ids start with the speaker id"
        yield Problem(_where(utt2spk, first), what)


def speakers_in_order(utt2spk: Mapping[str, str]) -> bool:
    """Whether speakers come in C-locale order when utterances do."""
    rows = utt2spk if isinstance(utt2spk, LargeTable) else dict(sorted(utt2spk.items(), key=by_id))
    previous = b""
    for speaker in rows.values():
        if byte_order(speaker) < previous:
            return False
        previous = byte_order(speaker)
    return True


def _text_problems(tables):
    for utt, text in tables["text"].items():
        what = transcript_problem(text) if text else f"the transcript of {utt!r} is empty"
        if what:
            yield Problem(_where(tables["text"], utt), what, (utt,))


def transcript_problem(text: str) -> str:
    """Why a text cannot stand in a data folder, in a few words; empty: it can."""
    if STRANGE_SPACE.search(text):
        return "white space other than blank and tab in the transcript"
    if control := CONTROL.search(text):
        return f"control character {control[0]!r} in the transcript"
    if refused := REFUSED_WORDS.intersection(text.split()):
        return f"Kaldi does not allow the word {min(refused)} in a transcript"
    return ""


def _number_problems(tables):
    users = recording_users(tables)
    for name in ("utt2dur", "utt2speed", "reco2dur", "utt2num_frames"):
        for key, value in tables.get(name, {}).items():
            whole = name == "utt2num_frames"
            if name == "utt2speed" and NUMBER.fullmatch(value) and not SPEEDS[0] <= float(value) <= SPEEDS[1]:
                yield Problem(_where(tables[name], key), f"expected a factor from 0.1 to 10, not {value}", (key,))
                continue
            if not NUMBER.fullmatch(value) or not 0 < float(value) < 1e9 or (whole and not value.isdigit()):
                kind = "whole number" if whole else "number"
                drop = users.get(key, ()) if name == "reco2dur" else (key,)
                yield Problem(_where(tables[name], key), f"expected a {kind} above 0, not {value!r}", tuple(drop))


def _segment_problems(tables):
    """Limits that are no numbers, reversed, or beyond the end of a recording whose length is known."""
    for utt, value in tables["segments"].items():
        fields = BLANK.split(value)
        numbers = len(fields) == 3 and NUMBER.fullmatch(fields[1]) and END.fullmatch(fields[2])
        if not numbers or not all(float(field) < 1e9 for field in fields[1:]):
            what = f"expected `utterance-id recording-id start end` in seconds (end -1: to the end), not {utt} {value}"
            if len(fields) == 4:
                what += "; a channel is not read here: make files of one channel and list those"
            yield Problem(_where(tables["segments"], utt), what, (utt,))
            continue
        length = tables.get("reco2dur", {}).get(fields[0], "")
        seconds = float(length) if NUMBER.fullmatch(length) else None
        yield from _limit_problems(tables, utt, seconds, "its recording", length)


def _limit_problems(tables, utt, seconds, what, shown):
    """Well-formed limits of one segment. Args: seconds, shown: length of its recording, None where unknown.   what: its name."""
    _, start_s, end_s = segment_limits(tables["segments"][utt])
    where = _where(tables["segments"], utt)
    if end_s is not None and end_s <= start_s:
        yield Problem(where, f"{utt!r} ends at {end_s} s, not after its start at {start_s} s", (utt,))
    if seconds is not None:
        if start_s >= seconds:
            yield Problem(where, f"{utt!r} starts at {start_s} s, but {what} ends after {shown} s", (utt,))
        elif end_s is not None and end_s > seconds + OVERSHOOT_S:
            yield Problem(where, f"{utt!r} ends at {end_s} s, but {what} after {shown} s", (utt,))
    end_s = seconds if end_s is None else end_s
    if end_s is not None:
        yield from _duration_problem(tables, utt, end_s - start_s)


def _duration_problem(tables, utt, seconds):
    """The length an utterance has (before the change of speed) against the one utt2dur tells."""
    stated, speed = tables.get("utt2dur", {}).get(utt, ""), tables.get("utt2speed", {}).get(utt, "1")
    if NUMBER.fullmatch(stated) and NUMBER.fullmatch(speed) and float(speed) > 0:
        heard_s = seconds / float(speed)
        if seconds > 0 and abs(heard_s - float(stated)) > OVERSHOOT_S:
            yield Problem(_where(tables["utt2dur"], utt), f"{utt!r} lasts {heard_s:.2f} s, not {stated} s", (utt,))


def _audio_path_problems(tables, allow_pipes, check_audio):
    users = recording_users(tables)
    for recording, audio in tables["wav.scp"].items():
        pipe = audio.endswith("|") or audio.startswith("|")
        if not audio:
            what = f"no sound file is named for {recording!r}"
        elif pipe and not allow_pipes:
            what = "a command is not run here; make the sound files once and list those (mending would drop its utterances)"
        elif audio.startswith("~"):
            what = "~ is not a path; write the folder out"
        elif check_audio and not pipe and not os.path.isfile(audio):
            what = f"no such sound file: {audio}"
        else:
            continue
        yield Problem(_where(tables["wav.scp"], recording), what, tuple(users.get(recording, ())))


class IdentityMap(Mapping[str, list[str]]):
    """Id -> [id], for the ids of a table."""

    def __init__(self, table: Mapping[str, str]):
        self.table = table

    def __len__(self):
        return len(self.table)

    def __iter__(self):
        return iter(self.table)

    def __contains__(self, key):
        return key in self.table

    def __getitem__(self, key):
        if key not in self.table:
            raise KeyError(key)
        return [key]


def recording_users(tables: Tables) -> Mapping[str, Sequence[str]]:
    """Recording -> the utterances that stand on it."""
    if "segments" not in tables:
        return IdentityMap(tables["utt2spk"])
    users: dict[str, list[str]] = {}
    for utt in tables["utt2spk"]:
        if recording := recording_of(tables, utt):
            users.setdefault(recording, []).append(utt)
    return users


def audio_info(path: str | Path) -> tuple[float, int, int]:
    """Length of a sound file. Returns: (seconds, rate_hz, channels).   Raises: UserError when it is unreadable or empty."""
    info = sound_info(path)
    return info.seconds, info.rate_hz, info.channels


def audio_problems(tables: Tables, skip: Iterable[str] = ()) -> list[Problem]:
    """Sound files that cannot be read, have several channels or do not fit the folder's times. Returns: list of Problem."""
    problems: list[Problem] = []
    skip = set(skip)
    for recording, utterances in recording_users(tables).items():
        audio = tables["wav.scp"].get(recording, "|")
        if audio.endswith("|") or skip.issuperset(utterances):
            continue
        heard = [utt for utt in utterances if utt not in skip]
        try:
            problems += _sound_problems(tables, audio, recording, heard)
        except UserError as error:
            problems.append(Problem(_where(tables["wav.scp"], recording), str(error), tuple(utterances)))
    return problems


def _sound_problems(tables, audio, recording, utterances):
    """What is wrong with one file; its length is counted only where a guess raises doubts. Raises: UserError."""
    info = sound_info(audio, guess=True)
    found = [problem for utt in utterances for problem in _length_problems(tables, utt, info.seconds)]
    if found and not info.exact:
        seconds = sound_info(audio).seconds
        found = [problem for utt in utterances for problem in _length_problems(tables, utt, seconds)]
    if info.channels > 1:
        what = f"{audio} has {info.channels} channels, and which one is meant is not said; make files of one channel"
        found.append(Problem(_where(tables["wav.scp"], recording), what, tuple(utterances)))
    return found


def _length_problems(tables, utt, seconds):
    if "segments" not in tables:
        return list(_duration_problem(tables, utt, seconds))
    return list(_limit_problems(tables, utt, seconds, "its sound file", f"{seconds:.2f}"))

"""Sound files that a corpus names: their length, channels and rate, and whether its tables agree."""

import functools
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from local.sound import SoundConfig
from steps.core.cli import UserError, say
from steps.core.datadir import Utterance
from steps.core.sound import OVERSHOOT_S, SoundInfo, sound_info
from steps.core.tables import Problem, counted

# Files looked into side by side: mostly the disk is waited for.
THREADS = 8
# A duration that is shorter than its file by less than this is the file's, rounded.
SAME_S = 0.05


@functools.lru_cache(maxsize=1 << 20)
def look_into(path: str, damaged: bool = False) -> SoundInfo | str:
    """Length of a sound file, as steps.core.sound.sound_info. Returns: SoundInfo, or what is wrong with it (str)."""
    try:
        return sound_info(path, damaged)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")


def look_into_all(paths: Iterable[str], damaged: bool = False) -> dict[str, SoundInfo | str]:
    """`look_into` many files, several at a time. Returns: dict path -> SoundInfo or str."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(paths, pool.map(lambda path: look_into(path, damaged), paths), strict=True))


def measure(sets, problems, sound=None):
    """Measure duration_s of utterances, and compare what the tables tell of times and channels with the files.

    Args: sound: SoundConfig; None: its defaults.   Returns: the sets.
    """
    sound = sound or SoundConfig()
    damaged = sound.damaged == "accept"
    found = look_into_all((utt.audio for utterances in sets.values() for utt in utterances), damaged)
    problems += [Problem(path, info) for path, info in sorted(found.items()) if isinstance(info, str)]
    infos = {path: info for path, info in found.items() if not isinstance(info, str)}
    several = [path for path, info in infos.items() if info.channels > 1]
    if several:
        what = f"{len(several)} of {counted(len(infos), 'sound file')} have several channels"
        if sound.channel is None:
            remedy = "say which one is meant: `sound: {channel: 1}`, 2 or mix (their mean) in the preparation options"
            problems.append(Problem(min(several), f"{what}; {remedy}"))
        else:
            taken = "the mean of them" if sound.channel == "mix" else f"channel {sound.channel}"
            say(f"{what}: {taken} is taken, as mono copies")

    def measured(utt):
        info = infos.get(utt.audio)
        if info is None:
            return utt
        end_s = info.seconds if utt.end_s is None else utt.end_s
        if damaged:
            # the preparation counts what it copies
            return replace(utt, duration_s=utt.duration_s or round((end_s - utt.start_s) / utt.speed, 6))
        seconds = (end_s - utt.start_s) / utt.speed
        what = ""
        if end_s > info.seconds + OVERSHOOT_S:
            what = f"ends at {end_s:.2f} s, but {utt.audio} after {info.seconds:.2f} s"
        elif utt.start_s + 1 / info.rate_hz > info.seconds:
            what = f"starts at {utt.start_s:.2f} s, but {utt.audio} ends after {info.seconds:.2f} s"
        elif utt.duration_s is not None and abs(seconds - utt.duration_s) > OVERSHOOT_S:
            what = f"should last {utt.duration_s:.2f} s, but has {seconds:.2f} s of {utt.audio}"
        if what:
            problems.append(Problem(utt.utt_id, what))
        # what a table tells is rounded, or worse
        return replace(utt, duration_s=round((min(end_s, info.seconds) - utt.start_s) / utt.speed, 6))

    return {name: [measured(utt) for utt in utterances] for name, utterances in sets.items()}


def fit_to_files(
    path: Path, utterances: list[Utterance], places: list[tuple[str, dict]], problems: list[Problem]
) -> list[Utterance]:
    """Compare the durations of rows without an offset with their files: shorter ones mean the beginning only, as in NeMo.

    Returns: list of Utterance, those that are a whole file without limits.
    """
    infos = look_into_all(utt.audio for utt in utterances if utt.end_s is not None)
    fitted, shorter = [], []
    for utt, (where, row) in zip(utterances, places, strict=True):
        info = infos.get(utt.audio)
        if utt.end_s is None or row.get("offset") not in (None, "") or not isinstance(info, SoundInfo):
            fitted.append(utt)
            continue
        if utt.end_s > info.seconds + OVERSHOOT_S:
            what = f"duration is {utt.end_s:g} s, but {utt.audio} has {info.seconds:.2f} s; durations are in seconds"
            problems.append(Problem(where, what))
        if utt.end_s < info.seconds - SAME_S:
            shorter.append(where)
            fitted.append(utt)
        else:
            fitted.append(replace(utt, end_s=None))
    if shorter:
        what = (
            f"{len(shorter)} of {counted(len(utterances), 'row')} have no offset and a duration shorter than the file"
        )
        say(f"{path}: {what} ({shorter[0]}): its beginning is taken, as in NeMo")
    return fitted


def rates_of(audio: Iterable[str], sound: SoundConfig) -> str:
    """Rates of sound files that were looked into: `16000 Hz`, or `8000 Hz (12 files), 16000 Hz (9 files)`."""
    infos = [look_into(path, sound.damaged == "accept") for path in audio]
    rates = Counter(info.rate_hz for info in infos if not isinstance(info, str))
    if len(rates) == 1:
        return f"{min(rates)} Hz"
    return ", ".join(f"{rate} Hz ({counted(count, 'file')})" for rate, count in sorted(rates.items()))

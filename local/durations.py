"""Durations that a manifest gives, against the sound files themselves."""

from dataclasses import replace
from pathlib import Path

from local.corpus import look_into_all
from steps.core.cli import say
from steps.core.datadir import Utterance
from steps.core.sound import OVERSHOOT_S, SoundInfo
from steps.core.tables import Problem, counted

# A duration that is shorter than its file by less than this is the file's, rounded.
SAME_S = 0.05


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

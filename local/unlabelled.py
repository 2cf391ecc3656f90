"""Sets without transcripts, which a recogniser writes later: `unlabelled_sets` in run.sh, `--unlabelled` of a reader."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from steps.core.cli import say
from steps.core.datadir import Utterance
from steps.core.tables import counted


def without_transcripts(sets: Mapping[str, list[Utterance]], unlabelled: Collection[str]) -> dict[str, list[Utterance]]:
    """Take away the transcripts of some sets. Ids that another set has are made longer: later these sets join the training set.

    Args: unlabelled: names of sets; those that are not there become empty ones.   Returns: dict set name -> list of Utterance.
    """
    result = {name: utterances for name, utterances in sets.items() if name not in unlabelled}
    taken = {utt.utt_id for utterances in result.values() for utt in utterances}
    for name in unlabelled:
        utterances = [replace(utt, text="") for utt in sets.get(name, [])]
        if unused := sum(utt.text != "" for utt in sets.get(name, [])):
            say(f"{name}: {counted(unused, 'transcript')} not used: the set is to have none")
        result[name] = [
            replace(utt, utt_id=f"{utt.utt_id}-{name}") if utt.utt_id in taken else utt for utt in utterances
        ]
        taken |= {utt.utt_id for utt in result[name]}
    return result

"""Sets with speakers and sentences of their own, for corpora of which many people have read the same sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rapidfuzz.distance import Levenshtein

from steps.core.datadir import Utterance

# Sentences that differ in at most this share of their letters are variants of one.
VARIANT = 0.2
# Who has read more has read a bit of everything, and stays in train.
MOST_RECORDINGS = 60
# Of the sentences of the others, those that most have read are train's: else nobody who reads little would train.
COMMON = 10
# Sentences for each set, the next ones.
SENTENCES = {"test": 60, "dev": 60}
# A speaker belongs to a set with this share of their recordings.
SHARE = 1 / 3


def families(texts: Mapping[str, str]) -> dict[str, str]:
    """Which sentences are variants of one: spelled otherwise, or with another ending; also by way of others.

    Args: texts: sentence id -> text.   Returns: sentence id -> id of the first variant, in the order of the ids.
    """
    first: dict[str, str] = {}
    letters = {key: text.replace(" ", "") for key, text in texts.items()}
    for key in sorted(texts):
        near = (one for one in first if Levenshtein.normalized_distance(letters[key], letters[one]) <= VARIANT)
        alike = sorted({first[other] for other in near})
        first[key] = alike[0] if alike else key
        # what was apart so far is alike through this one
        first |= {other: alike[0] for other, one in first.items() if one in alike[1:]}
    return first


def split(found: Sequence[tuple[str, Utterance]]) -> dict[str, list[tuple[str, Utterance]]]:
    """Split into sets with speakers and sentences of their own.

    Speakers of many recordings train. Of what the others have read, the 10 sentences that most recordings are of are train's, the
    next 60 test's; a speaker with a third of their recordings among these tests. Then the same with 60 other sentences and the
    other speakers for dev. Recordings of a set's sentence by a speaker of another set belong nowhere. Names and order of files do
    not matter, but for ties of sentences, which go by id.

    Args:    found: list of (sentence, Utterance).
    Returns: dict set name -> list of (sentence, Utterance); what is in none of them was left out.
    """
    read: dict[str, Counter[str]] = {}
    for key, utt in found:
        read.setdefault(utt.speaker, Counter())[key] += 1
    owner_of_sentence: dict[str, str] = {}
    owner: dict[str, str] = {}
    few = {speaker for speaker, counts in read.items() if counts.total() <= MOST_RECORDINGS}
    for name, number in {"train": COMMON, **SENTENCES}.items():
        recordings: Counter[str] = Counter()
        for speaker in few - owner.keys():
            recordings.update({key: n for key, n in read[speaker].items() if key not in owner_of_sentence})
        chosen = sorted(recordings, key=lambda key: (-recordings[key], key))[:number]
        owner_of_sentence |= dict.fromkeys(chosen, name)
        if name == "train":
            continue
        for speaker in few - owner.keys():
            if sum(read[speaker][key] for key in chosen) >= SHARE * read[speaker].total():
                owner[speaker] = name
    sets: dict[str, list[tuple[str, Utterance]]] = {"train": [], "dev": [], "test": []}
    for key, utt in found:
        name = owner.get(utt.speaker, "train")
        if owner_of_sentence.get(key, "train") == name:
            sets[name].append((key, utt))
    return sets

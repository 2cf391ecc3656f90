"""Our error counts against NIST's sclite, on random pairs of plain lower-case words.

sclite minimises 4 for a substitution and 3 for an insertion or deletion, we minimise the number of errors; so it may
count more errors, never fewer, and as many wherever every optimum of its weights is also a minimum of edits.
"""

import random

import pytest
from sclite_tool import sclite_command, sclite_errors

from steps.scoring.wer import count_utterances

PAIRS = 10_000
WORDS = ["a", "bee", "see", "dee", "ease", "eff", "gee", "age", "eye", "jay"]


def random_pairs(count):
    """References and hypotheses by id: edited copies, and pairs that have nothing to do with each other."""
    rng = random.Random(0)
    refs, hyps = {}, {}
    for number in range(count):
        words = rng.choices(WORDS[: rng.randint(2, len(WORDS))], k=rng.randint(1, 14))
        if number % 3:
            hyp = [w for word in words for w in edited(rng, word)]
        else:
            hyp = rng.choices(WORDS[: rng.randint(2, len(WORDS))], k=rng.randint(0, 14))
        refs[f"s-{number:05d}"], hyps[f"s-{number:05d}"] = " ".join(words), " ".join(hyp)
    return refs, hyps


def edited(rng, word):
    chance = rng.random()
    if chance < 0.15:
        return []
    if chance < 0.3:
        return [rng.choice(WORDS)]
    return [word, rng.choice(WORDS)] if chance < 0.4 else [word]


def optima(ref, hyp):
    """Fewest and most errors among the alignments that sclite's weights prefer."""
    row = [(3 * j, j, j) for j in range(len(hyp) + 1)]  # cost, fewest errors, most errors
    for i, a in enumerate(ref, 1):
        above, row = row, [(3 * i, i, i)]
        for j, b in enumerate(hyp, 1):
            step = 0 if a == b else 1
            ways = [(above[j - 1], 4 * step, step), (above[j], 3, 1), (row[j - 1], 3, 1)]
            cost = min(way[0] + weight for way, weight, _ in ways)
            best = [(way[1] + more, way[2] + more) for way, weight, more in ways if way[0] + weight == cost]
            row.append((cost, min(few for few, _ in best), max(most for _, most in best)))
    return row[-1][1:]


@pytest.mark.skipif(sclite_command() is None, reason="sclite is not installed: Debian's package sctk")
def test_our_counts_against_sclite():
    refs, hyps = random_pairs(PAIRS)
    theirs = sclite_errors(sclite_command(), refs, hyps)
    assert theirs.keys() == refs.keys()
    equal = 0
    for count in count_utterances(refs, hyps):
        fewest, most = optima(refs[count.utt_id].split(), hyps[count.utt_id].split())
        assert count.errors <= fewest <= theirs[count.utt_id] <= most, count.utt_id
        equal += most == count.errors
    assert 0.5 * PAIRS < equal < PAIRS, "both cases are met"

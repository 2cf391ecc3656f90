"""The matched pairs test of NIST's sc_stats: do two systems differ on the same speech?"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy.special import ndtr, ndtri

from steps.scoring.errors import align

# so many words in a row that both systems have right separate two segments, as in sc_stats
GOOD = 2


@dataclasses.dataclass(frozen=True)
class MatchedPairs:
    """Outcome of the test. mean: errors of A minus errors of B per segment.   p: two-sided."""

    segments: int
    mean: float
    z: float
    p: float


def matched_pairs_test(refs: Mapping[str, str], hyps_a: Mapping[str, str], hyps_b: Mapping[str, str]) -> MatchedPairs:
    """Matched-pairs sentence-segment word error test (MAPSSWE).

    A segment is a stretch where either system errs, bounded on both sides by two words that both have right or by the
    end of the utterance; segments are taken as independent, speakers are ignored.

    Args:    refs, hyps_a, hyps_b: utterance id -> text.
    Returns: the outcome; p is 1 when no segment differs. Where all segments differ alike there is no spread to test with:
             then p is that of the sign test, and z the normal deviate that has it.
    Source:  Gillick and Cox 1989, "Some statistical issues in the comparison of speech recognition algorithms";
             Pallett, Fisher, Fiscus 1990, "Tools for the analysis of benchmark speech recognition tests".
    """
    differences = []
    for utt_id, ref in refs.items():
        if ref != hyps_a[utt_id] or ref != hyps_b[utt_id]:
            errors = [errors_at_words(ref, hyps[utt_id]) for hyps in (hyps_a, hyps_b)]
            differences += segment_differences(*errors)
    count = len(differences)
    mean = sum(differences) / count if count else 0.0
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1) if count > 1 else 0.0
    if not variance:
        # of more segments it would be 0, and z infinite, which is no JSON
        p = min(1.0, 2.0 * 0.5 ** min(count, 1000)) if mean else 1.0
        return MatchedPairs(count, mean, math.copysign(float(ndtri(p / 2.0)), mean), p)
    z = mean / math.sqrt(variance / count)
    return MatchedPairs(count, mean, z, float(2.0 * ndtr(-abs(z))))


def errors_at_words(ref: str, hyp: str) -> list[int]:
    """Where the errors of a hypothesis lie.

    Returns: errors at the 2 R + 1 places of a reference of R words: before the first word, at the first word, between
             the first two, and so on; insertions count between words, other errors at their word.
    """
    places, word = [0] * (2 * len(ref.split()) + 1), 0
    for op, _, _ in align(ref, hyp):
        if op == "I":
            places[2 * word] += 1
        else:
            places[2 * word + 1] += op != ""
            word += 1
    return places


def segment_differences(errors_a: Sequence[int], errors_b: Sequence[int]) -> list[int]:
    """Errors of A minus errors of B in every segment. Args: what `errors_at_words` returns for one reference."""
    found, difference, good, open_segment = [], 0, GOOD, False
    for place, (a, b) in enumerate(zip(errors_a, errors_b, strict=True)):
        if a or b:
            difference, good, open_segment = difference + a - b, 0, True
        # a word that both have right
        elif place % 2:
            good += 1
            if good == GOOD and open_segment:
                found.append(difference)
                difference, open_segment = 0, False
    return [*found, difference] if open_segment else found

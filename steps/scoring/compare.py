"""Comparisons of finished models: paired differences, in noise too, ledgers, and what a test set can show."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.cli import UserError
from steps.core.config import nearest
from steps.core.decodings import KINDS
from steps.scoring.collect import decode_folder, read_noise
from steps.scoring.coverage import estimate_design, wer_coverage
from steps.scoring.ledger import Ledger, make_ledger
from steps.scoring.matched_pairs import matched_pairs_test
from steps.scoring.results import TRAINED, Comparison, NoiseComparison, ResultRow, TestSet
from steps.scoring.significance import bootstrap, detectable, few_speakers, paired_difference
from steps.scoring.sources import check_settings, read_counted, read_score

SIMULATED = 1000


def parent_pairs(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    """Pairs (model, parent) among the reported models, in their order, without repeats."""
    reported = {row.model for row in rows}
    return list(dict.fromkeys((row.model, row.parent) for row in rows if row.parent and row.parent in reported))


def compressed_pairs(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    """Those of `parent_pairs` whose model is its parent made smaller, not trained further."""
    further = {row.model for row in rows if row.step == TRAINED}
    return [(model, parent) for model, parent in parent_pairs(rows) if model not in further]


def parse_pairs(text: str, models: Collection[str]) -> list[tuple[str, str]]:
    """The pairs in `A:B,C:D`. Raises: UserError for a malformed pair or an unknown model."""
    pairs = []
    for part in filter(None, text.split(",")):
        names = part.split(":")
        if len(names) != 2:
            raise UserError(f"--compare: {part!r} is not of the form A:B")
        for name in names:
            if name not in models:
                raise UserError(f"--compare: {name!r} is not among the models{nearest(name, models)}")
        pairs.append((names[0], names[1]))
    return pairs


def compare(exp: str | Path, pairs: Sequence[tuple[str, str]], sets: Sequence[str], seed: int = 0) -> list[Comparison]:
    """Paired differences of exported files for every pair, set and kind that both models have.

    Args:   pairs: (a, b); the difference is a minus b.   seed: seed of the bootstrap.
    Raises: MissingInput, UserError.
    """
    return [
        compare_pair(exp, a, b, set_name, kind, seed)
        for set_name, a, b, kind in _present(exp, pairs, sets)
    ]  # fmt: skip


def ledgers(exp: str | Path, pairs: Sequence[tuple[str, str]], sets: Sequence[str]) -> list[Ledger]:
    """The ledger of every pair, set and kind that both models have."""
    found = []
    for set_name, a, b, kind in _present(exp, pairs, sets):
        folders = [decode_folder(exp, model, set_name) for model in (a, b)]
        utterances, _ = read_both(folders[0], folders[1], kind)
        refs = dict(zip(utterances["ids"], utterances["references"], strict=True))
        speakers = dict(zip(utterances["ids"], utterances["speakers"], strict=True))
        hyps, parent_hyps = (read_counted(folder, kind) for folder in folders)
        names = {"model": a, "parent": b, "set": set_name, "kind": kind}
        found.append(make_ledger(names, refs, speakers, parent_hyps, hyps))
    return found


def _present(exp, pairs, sets):
    """(set, a, b, kind) of what both models of a pair were scored on."""
    for set_name in sets:
        for a, b in pairs:
            for kind in KINDS:
                files = [decode_folder(exp, model, set_name) / f"score_{kind}.json" for model in (a, b)]
                if all(file.is_file() for file in files):
                    yield set_name, a, b, kind


def compare_pair(exp: str | Path, a: str, b: str, set_name: str, kind: str, seed: int = 0) -> Comparison:
    """Compare two exported models on one test set."""
    folders = [decode_folder(exp, model, set_name) for model in (a, b)]
    one, two = read_both(folders[0], folders[1], kind)
    counts = (one["errors"], two["errors"], one["words"], one["speakers"])
    refs = dict(zip(one["ids"], one["references"], strict=True))
    hyps = [read_counted(folder, kind) for folder in folders]
    of_chars = None
    if all(read_score(folder, kind).get("cer_interval_95") for folder in folders):
        of_chars = paired_difference(one["char_errors"], two["char_errors"], one["chars"], one["speakers"], seed=seed)
    return Comparison(
        a, b, set_name, kind,
        difference=paired_difference(*counts, seed=seed),
        matched_pairs=matched_pairs_test(refs, *hyps),
        detectable=detectable(*counts),
        cer_difference=of_chars,
    )  # fmt: skip


def read_both(folder_a: Path, folder_b: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Counts by utterance of two decoding folders. Raises: UserError unless both were decoded and scored alike."""
    one, two = (read_score(folder, kind) for folder in (folder_a, folder_b))
    a, b = one["utterances"], two["utterances"]
    if any(a[key] != b[key] for key in ("ids", "references", "speakers", "words")):
        raise UserError(f"{folder_a} and {folder_b}: not scored on the same utterances; decode and score both again")
    if any(one.get(key) != two.get(key) for key in ("kind", "rate", "set")):
        raise UserError(f"{folder_a} and {folder_b}: not scored alike; decode and score both again")
    check_settings((folder_a, folder_b), kind)
    return a, b


def compare_in_noise(
    exp: str | Path, pairs: Sequence[tuple[str, str]], sets: Sequence[str], seed: int = 0
) -> list[NoiseComparison]:
    """Differences in noise, and how much larger they are than without noise; for pairs measured in noise.

    Raises: UserError.
    """
    found = []
    for set_name in sets:
        for a, b in pairs:
            contents = [read_noise(exp, model, set_name)[0] for model in (a, b)]
            if None not in contents:
                found += _noise_differences(exp, a, b, set_name, contents, seed)
    return found


def _noise_differences(exp, a, b, set_name, contents, seed):
    folders = [decode_folder(exp, model, set_name) for model in (a, b)]
    clean = read_both(folders[0], folders[1], "greedy")
    # those of older versions do not tell what they folded
    folds = [content.get("fold") for content in contents]
    alike = all(content.get(key) == contents[0].get(key) for content in contents for key in ("ids", "words", "seed"))
    same = all(contents[0][key] == clean[0][key] for key in ("ids", "words", "speakers"))
    if not alike or not same or (None not in folds and folds[0] != folds[1]):
        raise UserError(
            f"{folders[0]} and {folders[1]}: noise.json is about other utterances or noise; run steps.stress again"
        )
    words, speakers = contents[0]["words"], contents[0]["speakers"]
    without = np.subtract(clean[0]["errors"], clean[1]["errors"])
    levels = [{level["snr_db"]: np.array(level["errors"]) for level in content["levels"]} for content in contents]
    return [
        NoiseComparison(
            a, b, set_name, snr_db,
            difference=paired_difference(levels[0][snr_db], levels[1][snr_db], words, speakers, seed=seed),
            extra=bootstrap(levels[0][snr_db] - levels[1][snr_db] - without, np.array(words), speakers, seed=seed),
        )
        for snr_db in levels[0]
        if snr_db in levels[1]
    ]  # fmt: skip


def describe_set(
    exp: str | Path, set_name: str, rows: Sequence[ResultRow], comparisons: Sequence[Comparison], seed: int = 0
) -> TestSet:
    """What a test set can show, judged by the greedy errors of the first model."""
    model = rows[0].model
    utterances = read_score(decode_folder(exp, model, set_name), "greedy")["utterances"]
    speakers, coverage = len(set(utterances["speakers"])), None
    # the simulation is of words that are right or wrong: none of its utterances has more errors than words
    if not few_speakers(speakers) and np.less_equal(utterances["errors"], utterances["words"]).all():
        design = estimate_design(utterances["errors"], utterances["words"], utterances["speakers"])
        coverage = wer_coverage(design, SIMULATED, seed)
    found = [c.detectable for c in comparisons if c.set == set_name]
    # models of equal errors have no spread to see, and a difference from them could be smaller than all others
    known = [] if None in found else [d for d in found if d is not None]
    return TestSet(
        name=set_name,
        utterances=len(utterances["ids"]),
        speakers=speakers,
        words=sum(utterances["words"]),
        model=model,
        coverage_percent=coverage,
        simulated=0 if coverage is None else SIMULATED,
        smallest_detectable=min(known, default=None),
    )

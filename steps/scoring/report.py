"""The one results schema: a row per model and test set, collected from finished folders; differences of models.

Error rates of a row are of the exported file; those of the model folder (torch) stand beside them as a diagnostic.
"""

import dataclasses
import json
from pathlib import Path

from steps.core.cli import MissingInput, UserError
from steps.core.outdir import SHIPPED, sha256_file
from steps.scoring.significance import Interval, paired_difference
from steps.scoring.wer import percent, read_hypotheses

FORMAT = 1
KINDS = ("greedy", "lexicon")
BENCHMARK_KEYS = ("rtf", "rtf_with_features", "macs_per_second")


@dataclasses.dataclass(frozen=True)
class Score:
    """Error rates of one set of hypotheses, with counts; `interval` is the 95 % interval of the word error rate."""

    errors: int
    words: int
    insertions: int
    deletions: int
    substitutions: int
    wer_percent: float
    cer_percent: float
    ser_percent: float
    interval: Interval
    rate: str = "WER"  # CER or PER where characters or phones are counted: all of the above but cer_percent is of these


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model on one test set; None stands for a number that was not measured."""

    model: str
    set: str
    parent: str | None
    parameters: int
    nonzero_parameters: int
    sparsity: float | None  # share of weights set to zero by unstructured pruning; saves no bytes by itself
    quantization_bits: int | None
    bytes_shipped: int  # model.onnx + tokens.txt + features.yaml
    bytes_onnx: int
    macs_per_second: float | None  # multiply-accumulates per second of audio
    rtf: float | None  # seconds of one thread per second of audio, the network alone
    rtf_with_features: float | None
    scores: dict  # {"greedy": Score[, "lexicon": Score]} of the exported file
    torch_scores: dict  # the same of the model folder
    torch_differs: dict  # {kind: utterances whose text differs between the two}
    commit: str | None
    command: str | None
    seed: int | None
    device: str | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference in word error rate, `a` minus `b`, of exported files on one set, with its paired interval."""

    a: str
    b: str
    set: str
    kind: str
    difference: Interval


@dataclasses.dataclass(frozen=True)
class Results:
    """What results.json holds."""

    recipe: str
    commit: str | None
    date: str
    command: str
    seed: int
    device: str | None
    versions: dict
    rows: list
    comparisons: list
    format: int = FORMAT


def read_json(path):
    """Read a JSON object. Raises: MissingInput, UserError."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; make it again")
    return value


def decode_folder(exp, model, set_name, exported=True):
    """Where the hypotheses of a model on a test set lie."""
    return Path(exp) / model / f"decode_{set_name}{'_onnx' if exported else ''}"


def check_inputs(exp, models, sets):
    """Raise MissingInput listing every file a row cannot do without."""
    needed = [Path(exp) / model / "model.json" for model in models]
    needed += [Path(exp) / model / "export" / name for model in models for name in SHIPPED]
    needed += [decode_folder(exp, model, name) / "score_greedy.json" for model in models for name in sets]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        raise MissingInput("\n  ".join([f"{len(missing)} files are missing; run the stages that make them:", *missing]))


def collect_rows(exp, models, sets, benchmark=None):
    """Read the rows of all models and test sets, set by set.

    Args:   exp: experiment folder.   benchmark: content of benchmark.json, or None.
    Returns: list of ResultRow.   Raises: MissingInput, UserError.
    """
    check_inputs(exp, models, sets)
    return [collect_row(exp, model, name, benchmark or {}) for name in sets for model in models]


def collect_row(exp, model, set_name, benchmark):
    folder = Path(exp) / model
    spec = read_json(folder / "model.json")
    run = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    measured = benchmark.get("models", {}).get(model, {})
    speed = {key: measured.get(key) for key in BENCHMARK_KEYS}
    sizes = {name: (folder / "export" / name).stat().st_size for name in SHIPPED}
    exported, torch = (decode_folder(exp, model, set_name, exported) for exported in (True, False))
    return ResultRow(
        model=model,
        set=set_name,
        parent=(spec.get("parent") or {}).get("name"),
        parameters=spec["parameters"],
        nonzero_parameters=spec["nonzero_parameters"],
        sparsity=spec.get("sparsity"),
        quantization_bits=(spec.get("quantization") or {}).get("bits"),
        bytes_shipped=sum(sizes.values()),
        bytes_onnx=sizes["model.onnx"],
        **speed,
        scores=read_scores(exported),
        torch_scores=read_scores(torch),
        torch_differs=count_different_texts(exported, torch),
        **{key: run.get(key) for key in ("commit", "command", "seed", "device")},
    )


def read_scores(folder):
    """Scores of a decoding folder, {kind: Score}; kinds that were not decoded are left out."""
    scores = {}
    for kind in KINDS:
        if (folder / f"score_{kind}.json").is_file():
            content = read_score(folder, kind)
            words, chars = content["words"], content["chars"]
            scores[kind] = Score(
                **{key: words[key] for key in ("errors", "insertions", "deletions", "substitutions")},
                words=words["reference_length"],
                wer_percent=percent(words["errors"], words["reference_length"]),
                cer_percent=percent(chars["errors"], chars["reference_length"]),
                ser_percent=percent(words["sentence_errors"], words["sentences"]),
                interval=Interval(**content["wer_interval_95"]),
                rate=content.get("rate", "WER"),
            )
    return scores


def read_score(folder, kind):
    """Content of score_KIND.json. Raises: MissingInput; UserError when the hypotheses changed since."""
    content = read_json(folder / f"score_{kind}.json")
    hyps = folder / f"{kind}.txt"
    if not hyps.is_file() or content.get("hypotheses_sha256") != sha256_file(hyps):
        raise UserError(f"{folder}: score_{kind}.json is not of {kind}.txt as it is now; run steps.score again")
    return content


def count_different_texts(folder_a, folder_b):
    """Utterances whose text differs between two decoding folders, {kind: count}, for the kinds that both have."""
    counts = {}
    for kind in KINDS:
        paths = [folder / f"{kind}.txt" for folder in (folder_a, folder_b)]
        if all(path.is_file() for path in paths):
            a, b = (read_hypotheses(path) for path in paths)
            counts[kind] = sum(a.get(utt_id) != b.get(utt_id) for utt_id in {*a, *b})
    return counts


def parent_pairs(rows):
    """Pairs (model, parent) among the reported models, in their order, each once."""
    reported = {row.model for row in rows}
    return list(dict.fromkeys((row.model, row.parent) for row in rows if row.parent in reported))


def compare(exp, pairs, sets, seed=0):
    """Paired differences of exported files for every pair, set and kind that both models have.

    Args:   pairs: list of (a, b); the difference is a minus b.   seed: of the bootstrap.
    Returns: list of Comparison.   Raises: MissingInput, UserError.
    """
    comparisons = []
    for set_name in sets:
        for a, b in pairs:
            folders = [decode_folder(exp, model, set_name) for model in (a, b)]
            for kind in KINDS:
                if all((folder / f"score_{kind}.json").is_file() for folder in folders):
                    difference = compare_scores(*folders, kind, seed)
                    comparisons.append(Comparison(a, b, set_name, kind, difference))
    return comparisons


def compare_scores(folder_a, folder_b, kind, seed=0):
    """Paired difference of two decoding folders, a minus b.

    Returns: Interval.   Raises: UserError unless both were scored on the same utterances.
    """
    a, b = (read_score(folder, kind)["utterances"] for folder in (folder_a, folder_b))
    if (a["ids"], a["words"], a["speakers"]) != (b["ids"], b["words"], b["speakers"]):
        raise UserError(f"{folder_a} and {folder_b}: not scored on the same utterances; decode and score both again")
    return paired_difference(a["errors"], b["errors"], a["words"], a["speakers"], seed=seed)

"""Collects the rows of the results from finished folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError, say
from steps.core.decodings import KINDS
from steps.core.exports import GRAPH, SHERPA_TOKENS, SUMS, onnx_bytes, read_sums, shipped_bytes
from steps.core.tables import counted
from steps.scoring.history import mean_bits
from steps.scoring.results import RUNTIMES, UNITS, Agreement, NoiseScore, ResultRow, Score
from steps.scoring.significance import Interval, wer_interval
from steps.scoring.sources import check_decoded, check_measured, check_settings, parent_of, read_json, read_score
from steps.scoring.wer import percent, read_hypotheses

BENCHMARK_KEYS = ("rtf", "rtf_with_features", "macs_per_second")


def decode_folder(exp: str | Path, model: str, set_name: str, runtime: str = "onnxruntime") -> Path:
    """The folder of a model's hypotheses on a test set."""
    return Path(exp) / model / f"decode_{set_name}{RUNTIMES[runtime]}"


def check_inputs(exp: str | Path, models: Sequence[str], sets: Sequence[str]) -> None:
    """Raise MissingInput listing all missing files that a row cannot do without."""
    needed = [Path(exp) / model / "model.json" for model in models]
    for folder in (Path(exp) / model / "export" for model in models):
        needed += [folder / name for name in (read_sums(folder) if (folder / SUMS).is_file() else (SUMS,))]
    needed += [decode_folder(exp, model, name) / "score_greedy.json" for model in models for name in sets]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        raise MissingInput("\n  ".join([f"{len(missing)} files are missing; run the stages that make them:", *missing]))


def collect_rows(
    exp: str | Path, models: Sequence[str], sets: Sequence[str], benchmark: Mapping[str, Any] | None = None
) -> list[ResultRow]:
    """Read the rows of all models and test sets, set by set.

    Args:   exp: experiment folder.   benchmark: content of benchmark.json, or None.
    Raises: MissingInput, UserError.
    """
    check_inputs(exp, models, sets)
    known = [check_files(exp, model, name, benchmark or {}) for name in sets for model in models]
    if unknown := known.count(False):
        what = "does not record which file it ran" if unknown == 1 else "do not record which files they ran"
        say(f"{counted(unknown, 'result')} of an older version {what}; decode and benchmark anew")
    rows = [collect_row(exp, model, name, benchmark or {}) for name in sets for model in models]
    check_alike(exp, rows)
    return rows


def check_alike(exp: str | Path, rows: Sequence[ResultRow]) -> None:
    """Raise UserError where the scores of a test set do not all count the same: other units, other utterances, other settings."""
    first: dict[str, tuple[Path, Score]] = {}
    decoded: dict[tuple[str, str], list[Path]] = {}
    for row in rows:
        runtimes = {"onnxruntime": row.scores, "torch": row.torch_scores, "sherpa-onnx": row.sherpa_scores}
        for runtime, scores in runtimes.items():
            place = decode_folder(exp, row.model, row.set, runtime)
            for kind, score in scores.items():
                decoded.setdefault((row.set, kind), []).append(place)
                other, known = first.setdefault(row.set, (place, score))
                if (score.rate, score.words) != (known.rate, known.words):
                    found = f"{known.rate} of {known.words} {UNITS[known.rate]}, {score.rate} of {score.words} {UNITS[score.rate]}"
                    raise UserError(f"{other} and {place}: not scored alike ({found}); decode and score both again")
    for (_, kind), places in decoded.items():
        check_settings(places, kind)


def check_files(exp: str | Path, model: str, set_name: str, benchmark: Mapping[str, Any]) -> bool:
    """Refuse decodings and measurements of other files than a model has now. Returns: whether all tell what they ran."""
    ran = {runtime: Path(exp) / model / ("" if runtime == "torch" else "export") for runtime in RUNTIMES}
    if (Path(exp) / model / "export_samples" / SUMS).is_file():
        # what sherpa-onnx reads of models that hear samples
        ran["sherpa-onnx"] = Path(exp) / model / "export_samples"
    places = {runtime: decode_folder(exp, model, set_name, runtime) for runtime in RUNTIMES}
    known = [check_decoded(place, ran[runtime]) for runtime, place in places.items() if place.is_dir()]
    noise = Path(exp) / model / f"decode_{set_name}_noise" / "noise.json"
    if noise.is_file():
        known.append(check_measured(noise, read_json(noise), Path(exp) / model / "export", program="steps.stress"))
    rows = benchmark.get("models", {})
    if model in rows:
        known.append(check_measured(Path("benchmark.json"), rows[model], Path(exp) / model / "export"))
    return all(known)


def collect_row(exp: str | Path, model: str, set_name: str, benchmark: Mapping[str, Any]) -> ResultRow:
    """One model on one test set; see `collect_rows`."""
    folder = Path(exp) / model
    spec = read_json(folder / "model.json")
    run = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    measured = benchmark.get("models", {}).get(model)
    speed = {key: (measured or {}).get(key) for key in BENCHMARK_KEYS}
    sizes, all_sizes = (shipped_bytes(folder / "export", graph) for graph in (False, True))
    places = {runtime: decode_folder(exp, model, set_name, runtime) for runtime in RUNTIMES}
    pairs = (("torch", "onnxruntime"), ("sherpa-onnx", "onnxruntime"), ("sherpa-onnx", "torch"))
    return ResultRow(
        model=model,
        set=set_name,
        parent=parent_of(exp, model),
        step=spec.get("step"),
        head=spec.get("head"),
        parameters=spec["parameters"],
        nonzero_parameters=spec["nonzero_parameters"],
        sparsity=spec.get("sparsity"),
        quantization_bits=mean_bits(folder),
        bytes_shipped=sum(sizes.values()),
        bytes_onnx=onnx_bytes(sizes),
        **speed,
        benchmark=measured,
        scores=read_scores(places["onnxruntime"]),
        torch_scores=read_scores(places["torch"]),
        sherpa_scores=read_scores(places["sherpa-onnx"]),
        agreement=[found for a, b in pairs for found in compare_texts(places[a], places[b], a, b)],
        noise=read_noise(exp, model, set_name)[1],
        **{key: run.get(key) for key in ("commit", "command", "seed", "device")},
        **{f"{key}_percent": run.get(key) for key in ("dev_wer", "dev_cer")},
        train_seconds=run.get("seconds"),
        sherpa_tokens=SHERPA_TOKENS in sizes,
        lexicon_differs=count_lexicon_changes(places["onnxruntime"]),
        bytes_with_lm=sum(all_sizes.values()) if GRAPH in all_sizes else None,
    )


def read_scores(folder: Path) -> dict[str, Score]:
    """Scores of a decoding folder by kind; kinds that were not decoded are left out."""
    scores = {}
    for kind in KINDS:
        if (folder / f"score_{kind}.json").is_file():
            content = read_score(folder, kind)
            words, chars = content["words"], content["chars"]
            right = words["reference_length"] - words["deletions"] - words["substitutions"]
            scores[kind] = Score(
                **{key: words[key] for key in ("errors", "insertions", "deletions", "substitutions")},
                words=words["reference_length"],
                wer_percent=percent(words["errors"], words["reference_length"]),
                word_accuracy_percent=percent(right, words["reference_length"]),
                cer_percent=percent(chars["errors"], chars["reference_length"]),
                ser_percent=percent(words["sentence_errors"], words["sentences"]),
                interval=Interval(**content["wer_interval_95"]),
                rate=content.get("rate", "WER"),
                classification=content["classification"],
                cer_interval=Interval(**content["cer_interval_95"]) if content.get("cer_interval_95") else None,
            )
    return scores


def compare_texts(folder_a: Path, folder_b: Path, a: str, b: str) -> list[Agreement]:
    """Compare the texts of two runtimes, for the kinds of decoding that both have."""
    found = []
    for kind in KINDS:
        paths = [folder / f"{kind}.txt" for folder in (folder_a, folder_b)]
        if all(path.is_file() for path in paths):
            found.append(Agreement(a, b, kind, *text_differences(*paths)))
    return found


def text_differences(path_a: Path, path_b: Path) -> tuple[int, list[dict[str, str | None]]]:
    """Utterances whose texts in two hypothesis files differ. Returns: number of all utterances; [{"id", "a", "b"}]."""
    one, two = read_hypotheses(path_a), read_hypotheses(path_b)
    ids = sorted({*one, *two}, key=str.encode)
    return len(ids), [{"id": i, "a": one.get(i), "b": two.get(i)} for i in ids if one.get(i) != two.get(i)]


def count_lexicon_changes(folder: Path) -> int | None:
    """Number of utterances whose lexicon text differs from the greedy one; None where there is no lexicon text."""
    paths = [folder / f"{kind}.txt" for kind in ("greedy", "lexicon")]
    return len(text_differences(*paths)[1]) if all(path.is_file() for path in paths) else None


def read_noise(exp: str | Path, model: str, set_name: str) -> tuple[dict[str, Any] | None, list[NoiseScore]]:
    """Scores in noise. Returns: content of noise.json, or None; its scores by level. Raises: UserError."""
    path = Path(exp) / model / f"decode_{set_name}_noise" / "noise.json"
    if not path.is_file():
        return None, []
    content = read_json(path)
    if what := noise_fault(content, set_name):
        raise UserError(f"{path}: {what}; run steps.stress again")
    words, speakers = content["words"], content["speakers"]
    scores = [
        NoiseScore(level["snr_db"], sum(level["errors"]), sum(words), wer_interval(level["errors"], words, speakers))
        for level in content["levels"]
    ]
    return content, scores


def noise_fault(content: Mapping[str, Any], set_name: str) -> str | None:
    """What does not fit within the content of a noise.json, or None."""
    if content.get("set") != set_name:
        return f"of set {content.get('set')!r}, not {set_name}"
    columns: list[Any] = [content.get(name) for name in ("ids", "speakers", "words")]
    levels = content.get("levels")
    if not isinstance(levels, list) or not all(isinstance(level, dict) and "snr_db" in level for level in levels):
        return "has no levels of noise"
    columns += [level.get("errors") for level in levels]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return "has columns of unequal length"
    if not all(type(number) is int and number >= 0 for column in columns[2:] for number in column):
        return "has counts that are none"
    return None if sum(columns[2]) else "has no words"

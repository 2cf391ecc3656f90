"""Models that stream: what each length of their chunks costs and brings, beside the same weights on whole utterances."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError
from steps.scoring.collect import read_scores
from steps.scoring.details import Cells, factor, number
from steps.scoring.results import StreamingRow
from steps.scoring.sources import check_decoded, check_measured, read_json, read_score

NOTE = """\
Exported files by onnxruntime, which got the sound as it would arrive, and all columns but one are theirs; whole: the same
weights on whole utterances. More errors: than these, of the same weights. Look-ahead: sound that must be there after the
first frame of a chunk. Word out, of the model in torch, without silence after the recording and with float activations unless
their scales are fixed: from the end of a word, where {reference} has it by forced alignment, until all sound of its chunk is
there, of the words of utterances without an error; median / 95 %. Last word: from the end of the recording until it is out,
computing included, median / 95 %; below 0 where recordings go on after it. RTF: of a chunk on one thread, features included;
mean / 95 %. Cache: kept between chunks for each stream.
"""


def decode_folder(exp: str | Path, model: str, set_name: str, chunk_ms: int) -> Path:
    """The folder of a model's hypotheses in chunks of one length."""
    return Path(exp) / model / f"decode_{set_name}_chunk_{chunk_ms}"


def collect_streaming(exp: str | Path, models: Sequence[str], sets: Sequence[str]) -> list[StreamingRow]:
    """The rows of all models that were decoded in chunks; none for others. Raises: MissingInput, UserError."""
    return [row for name in sets for model in models for row in _rows(Path(exp), model, name)]


def chunk_lengths(exp: str | Path, model: str, set_name: str) -> list[int]:
    """Lengths of chunks, in ms, that a model was decoded in; 0: whole utterances."""
    prefix = f"decode_{set_name}_chunk_"
    names = (path.name.removeprefix(prefix) for path in (Path(exp) / model).glob(f"{prefix}*") if path.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,3}", name))


def _rows(exp: Path, model: str, set_name: str) -> list[StreamingRow]:
    found: list[StreamingRow] = []
    for chunk_ms in chunk_lengths(exp, model, set_name):
        folder, export = decode_folder(exp, model, set_name, chunk_ms), exp / model / f"export_chunk_{chunk_ms}"
        check_decoded(folder, export, strict=True)
        if not (folder / "score_greedy.json").is_file():
            raise MissingInput(f"{folder}: was decoded, not scored; run steps.score")
        measured = delays = None
        if chunk_ms:
            measured = _measured(folder / "streaming.json", export, "steps.decode --streaming")
            delays = _delays(exp, model, set_name, chunk_ms)
        score = read_scores(folder)["greedy"]
        whole = found[0].score.errors if found and not found[0].chunk_ms else 0
        more = 100 * (score.errors / whole - 1) if whole and chunk_ms else None
        found.append(StreamingRow(model, set_name, chunk_ms, score, more, measured, delays))
    return found


def _delays(exp: Path, model: str, set_name: str, chunk_ms: int) -> dict[str, Any] | None:
    """What steps.time_words measured, if it did. Raises: MissingInput; UserError when model, reference or data are others now."""
    path = exp / model / f"delays_{set_name}_chunk_{chunk_ms}.json"
    if not path.is_file():
        return None
    delays = _measured(path, exp / model, "steps.time_words")
    reference, files = exp / str(delays["reference"]), delays.pop("reference_files", None)
    # a reference from elsewhere, or that of an older version, cannot be compared
    if files and (reference / "model.json").is_file():
        check_measured(path, {"files": files}, reference, program="steps.time_words")
    scored = len(read_score(decode_folder(exp, model, set_name, chunk_ms), "greedy")["utterances"]["ids"])
    if delays.get("of", scored) != scored:
        raise UserError(
            f"{path}: of {delays['of']} utterances, not the {scored} that are scored; run steps.time_words again"
        )
    return delays


def _measured(path: Path, ran: Path, program: str) -> dict[str, Any]:
    """Content of a file of measurements, without the hashes of what was measured. Raises: MissingInput, UserError."""
    content = read_json(path)
    check_measured(path, content, ran, strict=True, program=program)
    return {key: value for key, value in content.items() if key != "files"}


def streaming_cells(rows: Sequence[StreamingRow]) -> Cells:
    """Header and rows of the table of one test set. Columns without any number are left out."""
    rate = next((row.score.rate for row in rows), "WER")
    header = ["in chunks of", "look-ahead ms", f"greedy {rate}", "95 %", "more errors", "word out ms", "last word ms", "RTF",
              "cache kB"]  # fmt: skip
    table = []
    for row in rows:
        score, found, delays = row.score, row.measured or {}, row.delays or {}
        cells = [f"{row.model}, {row.chunk_ms} ms" if row.chunk_ms else f"{row.model}, whole"]
        cells.append(f"{found['look_ahead_ms']:g}" if found else "-")
        cells += [f"{score.wer_percent:.2f} ({score.errors}/{score.words})"]
        cells.append(f"{score.interval.low:.1f} - {score.interval.high:.1f}")
        cells.append("-" if row.more_errors_percent is None else f"{row.more_errors_percent:+.0f} %")
        cells += [pair(delays.get("out_ms")), pair(found.get("last_word_ms")), pair(found.get("rtf"), factor)]
        cells.append(f"{found['cache_bytes'] / 1000:.1f}" if found else "-")
        table.append(cells)
    used = [i for i in range(len(header)) if any(cells[i] != "-" for cells in table)]
    return [header[i] for i in used], [[cells[i] for i in used] for cells in table]


def pair(values: dict[str, float | None] | None, show: Callable[[float | None], str] = number) -> str:
    """`162 / 322`: two numbers of a file of measurements; a dash where there are none."""
    if values is None or None in values.values():
        return "-"
    return " / ".join(map(show, values.values()))


def streaming_note(rows: Sequence[StreamingRow]) -> str:
    """How to read the table."""
    names = dict.fromkeys(row.delays["reference"] for row in rows if row.delays)
    return NOTE.format(reference=" or ".join(names) or "a model of whole utterances")


def card_lines(rows: Sequence[StreamingRow]) -> list[str]:
    """What a model's card says of it in chunks."""
    lines = []
    for row in rows:
        if row.measured:
            wait = pair(row.measured["last_word_ms"])
            lines.append(
                f"in chunks of {row.chunk_ms} ms: {row.score.wer_percent:.2f} % {row.score.rate}, greedy; "
                f"{row.measured['cache_bytes']:,} bytes kept for each stream; last word {wait} ms after the end (median / 95 %)"
            )
    return lines

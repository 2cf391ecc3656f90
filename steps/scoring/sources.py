"""Files of numbers, read with suspicion: are they whole, and of the very files that they are taken for?"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError
from steps.core.decodings import KINDS
from steps.core.exports import ORIGIN, model_hashes
from steps.core.outdir import sha256_file
from steps.core.text_units import in_units
from steps.scoring.wer import RATES, count_utterances, read_hypotheses

# columns of counts, one number for each utterance
COUNTED = ("words", "errors", "insertions", "deletions", "substitutions", "chars", "char_errors")
# counts of score_KIND.json -> columns
POOLED = {"words": ("words", "errors"), "chars": ("chars", "char_errors")}


def read_json(path: str | Path) -> dict:
    """Read a JSON object. Raises: MissingInput, UserError."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; make it again")
    return value


def _refuse(name):
    """NaN and infinities are not JSON, though Python would read them."""
    raise ValueError(f"{name} is no number")


def parent_of(exp: str | Path, model: str) -> str | None:
    """Name of the model that another was made of; None where there is none, as of what was trained from nothing.

    Raises: MissingInput; UserError when the experiment folder has another model of that name now.
    """
    path = Path(exp) / model / "model.json"
    parent = read_json(path).get("parent")
    if not isinstance(parent, dict) or not isinstance(name := parent.get("name"), str) or not name:
        return None
    there = Path(exp) / name / "model.json"
    recorded, now = parent.get("weights_sha256"), read_json(there).get("weights_sha256") if there.is_file() else None
    if recorded and now and recorded != now:
        raise UserError(f"{path}: {model} was made of another {name} than there is now; make {model} again")
    return name


def read_score(folder: Path, kind: str) -> dict:
    """Content of score_KIND.json. Raises: MissingInput; UserError when it is old, damaged, or of other hypotheses or settings."""
    path, hyps = folder / f"score_{kind}.json", folder / f"{kind}.txt"
    content = read_json(path)
    if not hyps.is_file() or content.get("hypotheses_sha256") != sha256_file(hyps):
        raise UserError(f"{folder}: score_{kind}.json does not match {kind}.txt as it is now; run steps.score again")
    utterances = content.get("utterances")
    if not isinstance(utterances, dict) or "references" not in utterances:
        raise UserError(f"{folder}: score_{kind}.json was written by an older version; run steps.score again")
    if (rate := content.get("rate", "WER")) not in RATES.values():
        raise UserError(f"{folder}: score_{kind}.json: no such rate: {rate!r}; run steps.score again")
    if what := score_fault(content):
        raise UserError(f"{path}: damaged ({what}); run steps.score again")
    unit, fold = read_units(folder)
    if (RATES[unit], fold) != (rate, content.get("fold", fold)):
        raise UserError(f"{path}: decode.json has other units or words to fold since then; run steps.score again")
    return content


def score_fault(content: dict) -> str | None:
    """What does not fit within the content of a score_KIND.json, or None."""
    rows = content["utterances"]
    texts = [rows.get(name) for name in ("ids", "speakers", "references")]
    numbers = [rows.get(name) for name in COUNTED]
    if not all(isinstance(column, list) and len(column) == len(texts[0]) for column in (*texts, *numbers)):
        return "columns of unequal length"
    if not all(isinstance(text, str) for column in texts for text in column) or len(set(texts[0])) != len(texts[0]):
        return "ids, speakers or references that are none"
    if not all(type(number) is int and number >= 0 for column in numbers for number in column):
        return "counts that are none"
    words, errors, *parts, _, _ = numbers
    if words != [len(text.split()) for text in texts[2]] or sum(words) == 0:
        return "counts of words that are not those of the references"
    if errors != [sum(row) for row in zip(*parts, strict=True)]:
        return "errors that are not the sum of their kinds"
    for name, (length, wrong) in POOLED.items():
        pooled = content.get(name)
        recorded = [pooled.get(key) for key in ("reference_length", "errors")] if isinstance(pooled, dict) else None
        if recorded != [sum(rows[length]), sum(rows[wrong])]:
            return f"{name} that do not add up"
    return None


def read_facts(folder: Path) -> dict:
    """Content of a decoding's decode.json; empty where there is none. Raises: UserError."""
    return read_json(folder / "decode.json") if (folder / "decode.json").is_file() else {}


def read_units(folder: Path) -> tuple[str, dict]:
    """What is counted, as the settings of the decoding say. Returns: (unit, words to fold)."""
    settings = read_settings(folder)
    unit, fold = settings.get("unit", "word"), settings.get("fold", {})
    if unit not in RATES or not isinstance(fold, dict):
        raise UserError(
            f"{folder}/decode.json: no such unit or words to fold: {unit!r}, {fold!r}; run steps.decode again"
        )
    return unit, fold


def read_settings(folder: Path) -> dict:
    """Settings of a decoding; empty where they are not recorded. Raises: UserError."""
    settings = read_facts(folder).get("settings", {})
    if not isinstance(settings, dict):
        raise UserError(f"{folder}/decode.json: settings are {settings!r}; run steps.decode again")
    return settings


def wants_characters(folder: Path) -> bool:
    """Whether the rate of characters is to stand beside that of words, as the settings of the decoding say."""
    return bool(read_settings(folder).get("cer", False))


def check_settings(folders: Iterable[Path], kind: str, lists: bool = True) -> None:
    """Refuse decodings of one kind whose settings or lists differ. Graphs are made for each model's own units.

    What one of them does not record, as those without decode.json, is not compared.

    Args:   lists: whether the lists of words and labels must be the same, too: folds have their own.
    Raises: UserError.
    """
    known: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        for what, value in _settings_of(folder, kind, lists).items():
            other, first = known.setdefault(what, (folder, value))
            if value != first:
                raise UserError(f"{other} and {folder}: {kind}: decoded with different {what}; decode both again")


def _settings_of(folder, kind, lists):
    facts, settings = read_facts(folder), read_settings(folder)
    found = {"units": settings.get("unit"), "words to fold": settings.get("fold")}
    if kind == "lexicon":
        found |= {"word_score": settings.get("word_score")} | ({"word lists": facts.get("words")} if lists else {})
    elif kind == "one_of" and lists:
        found["lists of labels"] = facts.get("labels")
    elif kind == "beam":
        found["widths of the beam"] = facts.get("beam")
    return {what: value for what, value in found.items() if value is not None}


def read_counted(folder: Path, kind: str) -> dict[str, str]:
    """The hypotheses of a decoding folder in the units that were counted, as the references in score_KIND.json are.

    Returns: id -> text.   Raises: MissingInput, UserError.
    """
    unit, fold = read_units(folder)
    hyps = read_hypotheses(folder / f"{kind}.txt")
    return {utt_id: in_units(in_units(text, "word", fold), unit) for utt_id, text in hyps.items()}


def count_again(folder: Path, kind: str, utterances: dict) -> None:
    """Count the errors of the hypotheses that are there once more. Args: utterances: of score_KIND.json.

    Raises: UserError when they are other ones.
    """
    refs = dict(zip(utterances["ids"], utterances["references"], strict=True))
    counts = count_utterances(refs, read_counted(folder, kind))
    if [count.errors for count in counts] != utterances["errors"]:
        raise UserError(f"{folder}: score_{kind}.json has other errors than {kind}.txt; run steps.score again")


def check_decoded(folder: Path, ran: Path, strict: bool = False) -> bool:
    """Refuse a decoding of other files than there are now, or of an export of another model.

    Args:    folder: with decode.json.   ran: model folder or exported folder that was decoded.
             strict: refuse decodings of version 0.1, too, which do not tell what they ran.
    Returns: whether it is known what was decoded.   Raises: MissingInput, UserError.
    """
    check_exported(ran)
    path = folder / "decode.json"
    facts = read_json(path) if strict or path.is_file() else {}
    recorded = facts.get("hypotheses_sha256", {})
    if not _check_files(path, facts.get("files"), ran, "steps.decode", strict):
        return False
    for kind in KINDS:
        there = sha256_file(folder / f"{kind}.txt") if (folder / f"{kind}.txt").is_file() else None
        if not isinstance(recorded, dict) or recorded.get(kind) != there:
            raise UserError(f"{folder}: {kind}.txt is not the one that decode.json is of; run steps.decode again")
    return True


def check_exported(export: Path) -> None:
    """Refuse an export of another model than the folder around it holds now. Those of older versions do not tell.

    Raises: UserError.
    """
    path, model = export / ORIGIN, export.parent
    if path.is_file() and (model / "model.safetensors").is_file():
        _check_files(path, read_json(path).get("files"), model, "steps.export_model", strict=True)


def check_measured(path: Path, row: dict, ran: Path, strict: bool = False, program: str = "steps.benchmark") -> bool:
    """Refuse measurements of other files than there are now. Args: path: of the JSON file.   row: what it has of one model.

    Other arguments, returned value, errors: as of `check_decoded`.
    """
    return _check_files(path, row.get("files") if isinstance(row, dict) else None, ran, program, strict)


def _check_files(path, recorded, ran, program, strict):
    if recorded is None and not strict:
        return False
    if recorded is None:
        raise UserError(f"{path}: does not record which file of {ran} was run; run {program} again")
    there = model_hashes(ran)
    names = sorted({*there, *recorded}) if isinstance(recorded, dict) else []
    differ = [name for name in names if recorded.get(name) != there.get(name)]
    if differ or not names:
        name = differ[0] if differ else "files"
        raise UserError(f"{path}: of another {name} than {ran} has now; run {program} again")
    return True

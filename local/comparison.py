"""How far transcripts lie apart, in words or in characters."""

from rapidfuzz.distance import Levenshtein

from steps.core.cli import UserError
from steps.core.datadir import read_data_dir
from steps.core.text_units import in_units

# unit that is counted -> its plural, and the name of its error rate
RATES = {"word": ("words", "wer"), "char": ("characters", "cer")}


def units(text: str, unit: str) -> list[str]:
    """What is compared and counted: words, or characters with their marks, blanks left out."""
    return in_units(text, unit).split()


def disagreement(text: str, other: str, unit: str = "word") -> float:
    """Errors between two transcripts, per word of the first, or per character."""
    own = units(text, unit)
    return Levenshtein.distance(own, units(other, unit)) / max(1, len(own))


def count_errors(
    truth_dir: str, kept: dict[str, str], dropped: dict[str, str], unit: str = "word"
) -> dict[str, dict[str, int | float]]:
    """Errors of transcripts against the true ones; utterances in which nothing was heard are deletions.

    Args:    kept, dropped: {id: text}.   unit: word or char.
    Returns: {"all": counts, "kept": counts}.   Raises: UserError when the folder is that of other utterances.
    """
    truth = {utt.utt_id: utt.text for utt in read_data_dir(truth_dir, check_audio=False)}
    if unknown := sorted({*kept, *dropped} - set(truth)):
        raise UserError(f"{truth_dir}: has no transcript of {unknown[0]}; --truth is the folder that was transcribed")
    found, (counting, rate) = {}, RATES[unit]
    for name, texts, ids in (("all", kept | dropped, truth), ("kept", kept, kept)):
        total = sum(len(units(truth[utt_id], unit)) for utt_id in ids)
        errors = sum(
            Levenshtein.distance(units(texts.get(utt_id, ""), unit), units(truth[utt_id], unit)) for utt_id in ids
        )
        percent = round(100 * errors / max(1, total), 2)
        found[name] = {"utterances": len(ids), counting: total, "errors": errors, rate: percent}
    return found

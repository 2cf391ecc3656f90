"""The errors of each speaker: who is understood badly, and by which model."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from steps.core.decodings import KINDS
from steps.core.tables import counted
from steps.scoring.collect import decode_folder
from steps.scoring.results import MOST_SPEAKERS, UNITS, Results, SpeakerScore, rate_of
from steps.scoring.sources import read_score


def speaker_scores(exp: str | Path, models: Sequence[str], set_name: str, ships: str) -> list[SpeakerScore]:
    """Errors of the exported files by speaker, those whom `ships` understands worst (greedy) first, at most MOST_SPEAKERS."""
    errors: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    utterances: dict[str, int] = defaultdict(int)
    words: dict[str, int] = defaultdict(int)
    for model in models:
        for kind in KINDS:
            folder = decode_folder(exp, model, set_name)
            if not (folder / f"score_{kind}.json").is_file():
                continue
            counts = read_score(folder, kind)["utterances"]
            for speaker, count in zip(counts["speakers"], counts["errors"], strict=True):
                errors[speaker][model][kind] = errors[speaker][model].get(kind, 0) + count
            if (model, kind) == (ships, "greedy"):
                for speaker, count in zip(counts["speakers"], counts["words"], strict=True):
                    utterances[speaker] += 1
                    words[speaker] += count
    order = sorted(words, key=lambda name: (-errors[name][ships]["greedy"] / max(words[name], 1), name.encode()))
    return [
        SpeakerScore(
            set_name, name, utterances[name], words[name], {model: dict(e) for model, e in errors[name].items()}
        )
        for name in order[:MOST_SPEAKERS]
    ]


def speaker_cells(results: Results, set_name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: share of words (or characters, phones) wrong by speaker, of what ships and what it was made of.

    Returns: (header, []) for one speaker.
    """
    rows = [one for one in results.speakers if one.set == set_name]
    models = [model for model in (results.ships, results.reference) if model]
    columns = [
        (model, kind) for kind in KINDS for model in models if any(kind in one.errors.get(model, {}) for one in rows)
    ]
    table = []
    for one in rows:
        found = [one.errors.get(model, {}).get(kind) for model, kind in columns]
        shown = ["-" if count is None else f"{100 * count / max(one.words, 1):.1f} ({count})" for count in found]
        table.append([one.speaker, str(one.utterances), str(one.words), *shown])
    unit = UNITS[rate_of(row for row in results.rows if row.set == set_name)]
    header = ["speaker", "utterances", unit, *(f"{model}, {kind} %" for model, kind in columns)]
    return header, table if len(table) > 1 else []


def speaker_note(results: Results, set_name: str) -> str:
    """How to read the table of speakers."""
    total = next(info.speakers for info in results.sets if info.name == set_name)
    rest = (
        f" Shown: {MOST_SPEAKERS} of {counted(total, 'speaker')}; per_spk_greedy beside each decoding has all."
        if (total > MOST_SPEAKERS)
        else ""
    )
    unit = UNITS[rate_of(row for row in results.rows if row.set == set_name)]
    return f"Percent of {unit} wrong (errors), the worst understood first.{rest}\n"

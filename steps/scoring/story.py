"""The result in sentences that need no explanation: what ships, how small and fast it is, what that costs in words; and about
what speech all this is. Measured numbers only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from steps.core.cli import UserError
from steps.core.copies import is_copy
from steps.core.datadir import SOUND_FILE
from steps.core.decodings import KINDS, WAYS
from steps.core.tables import counted, read_table, small_number
from steps.scoring.results import TRAINED, UNITS, ResultRow, Results, TrainingSet
from steps.scoring.sources import read_json

# settings of preparation that no model takes along, in words
TREATED = {"trim": "trimmed (silence at both ends)", "denoise": "denoised"}


def reference_of(model: str, rows: Sequence[ResultRow], teachers: Mapping[str, Sequence[str | None]]) -> str | None:
    """What a model was made of in the end: its parents up to the first, the first teacher of that one, its parents, ...; no further
    than to a model that was trained from transcripts. What that began with, such as a model from a hub, may have other units or
    say nothing, and would make any loss look like a gain.

    Args: teachers: as `warnings.read_teachers` returns them.   Returns: name of a reported model; None: there is no other.
    """
    parents = {row.model: row.parent for row in rows}
    trained = {row.model for row in rows if row.step == TRAINED}
    line = [model]
    while True:
        if len(line) > 1 and line[-1] in trained:
            return line[-1]
        above = parents.get(line[-1])
        if above not in parents:
            above = next(filter(None, teachers.get(line[-1], [])), None)
        if above is None or above in line:
            return line[-1] if len(line) > 1 else None
        line.append(above)


def story(results: Results, sets: Sequence[str]) -> list[str]:
    """What ships and how small it is; how fast; what it costs in words, a sentence for each test set."""
    found = {(row.model, row.set): row for row in results.rows}
    own, base = found[results.ships, sets[0]], found.get((results.reference or "", sets[0]))
    return [size_sentence(own, base), speed_sentence(own, base, results), *(cost_sentence(results, s) for s in sets)]


def size_sentence(own: ResultRow, base: ResultRow | None) -> str:
    """`student_int8 ships in 383 kB, 20 times smaller than teacher (7,533 kB).`"""
    against = ""
    if base:
        against = f", {ratio(base.bytes_shipped / own.bytes_shipped, 'smaller', 'larger')} {base.model} ({size(base)})"
    return f"{own.model} ships in {size(own)}{against}."


def speed_sentence(own: ResultRow, base: ResultRow | None, results: Results) -> str:
    """How long a second of speech takes on one thread, features included, against the reference."""
    if not own.rtf_with_features:
        return "Its speed was not measured."
    against = ""
    if base and base.rtf_with_features:
        times = ratio(base.rtf_with_features / own.rtf_with_features, "faster", "slower")
        against = f": {times} {base.model} ({milliseconds(base)})"
    where = f" of {results.device}" if results.device else ""
    return f"A second of speech takes {milliseconds(own)} of one thread{where}, features included{against}."


def cost_sentence(results: Results, set_name: str) -> str:
    """Share of words that are wrong, in every way of decoding, and whether the difference from the reference can be chance."""
    rows = {row.model: row for row in results.rows if row.set == set_name}
    own, base = rows[results.ships], rows.get(results.reference or "")
    differences = {
        item.kind: item.difference
        for item in results.comparisons
        if (item.a, item.b, item.set) == (results.ships, results.reference, set_name)
    }
    parts: list[str] = []
    for kind in (kind for kind in KINDS if kind in own.scores):
        part = f"{own.scores[kind].wer_percent:.1f} %"
        if not parts:
            part += f" of the {UNITS[own.scores[kind].rate]} come out wrong,"
        part += f" {WAYS[kind]}"
        if kind == "lm" and own.bytes_with_lm:
            part += f", which makes {own.bytes_with_lm / 1000:,.0f} kB in all"
        if base and kind in base.scores:
            part += f" ({base.model} {base.scores[kind].wer_percent:.1f} %"
            if d := differences.get(kind):
                chance = "beyond chance" if d.excludes_zero else "which may be chance"
                part += f": {d.percent:+.1f} points [{d.low:+.1f}, {d.high:+.1f}], {chance}"
            part += ")"
        parts.append(part)
    return f"On {set_name} {'; '.join(parts)}."


def ratio(times: float, better: str, worse: str) -> str:
    """`20 times smaller than`, `1.4 times larger than`, `as small as`: how `times` as much compares."""
    if 0.95 < times < 1.05:
        return f"as {better.removesuffix('er')} as"
    word, times = (better, times) if times > 1 else (worse, 1 / times)
    return f"{times:.0f} times {word} than" if times >= 10 else f"{times:.1f} times {word} than"


def size(row: ResultRow) -> str:
    """`301 kB`."""
    return f"{row.bytes_shipped / 1000:,.0f} kB"


def milliseconds(row: ResultRow) -> str:
    """`1.2 ms` for a second of speech, features included."""
    value = 1000 * (row.rtf_with_features or 0.0)
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 1 else f"{small_number(value, 2)} ms"


def describe_training(path: str | Path) -> TrainingSet:
    """Utterances, speakers and hours of a training set, copies for more weight left out. Args: path: its data folder.

    Raises: MissingInput, UserError.
    """
    folder = Path(path)
    speakers, hours = read_table(folder / "utt2spk"), None
    own = Counter(speaker for utt_id, speaker in speakers.items() if not is_copy(utt_id, speakers))
    if (folder / "utt2dur").is_file():
        lengths = read_table(folder / "utt2dur")
        try:
            hours = sum(float(length) for utt_id, length in lengths.items() if not is_copy(utt_id, speakers)) / 3600
        except ValueError as error:
            raise UserError(f"{folder}/utt2dur: {error}; utils/validate_data_dir.py tells the line") from None
    treated = read_json(sound) if (sound := folder.parent / SOUND_FILE).is_file() else {}
    return TrainingSet(folder.name, own.total(), len(own), hours, treated)


def about(results: Results) -> list[tuple[str, str]]:
    """What the models learnt from, what they are meant for, and what nobody has measured. Returns: list of (title, text)."""
    lines = []
    if one := results.training:
        hours = "" if one.hours is None else f"{hours_text(one.hours)} of "
        facts = f"{hours}{counted(one.speakers, 'speaker')}, {counted(one.utterances, 'utterance')}"
        lines.append(("Trained on", f"{one.name}: {facts}, and copies at other speeds where the recipe makes them."))
        if words := [words for name, words in TREATED.items() if one.treated.get(name)]:
            text = f"the recordings of all sets were {' and '.join(words)} beforehand; what a model hears in use must be, too."
            lines.append(("Treated", text))
    tests = [f"{info.name}: {counted(info.utterances, 'utterance')} of {counted(info.speakers, 'speaker')}"
             for info in results.sets]  # fmt: skip
    meant = (
        "turning speech into text that is like the speech it was trained on: in language, vocabulary, manner and sound."
    )
    lines.append(("Meant for", meant))
    unknown = "other languages, accents, ages, rooms and microphones; sound without speech; several people at once"
    lines += [("Measured on", f"{'; '.join(tests)}."), ("Not measured", f"{unknown}.")]
    noise = [(row, level) for row in results.rows if row.model == results.ships for level in row.noise]
    if noise:
        rates = [f"{level.interval.percent:.0f} % at {level.snr_db} dB ({row.set})" for row, level in noise]
        wrong = UNITS[noise[0][0].scores["greedy"].rate]
        lines.append(
            (
                "In noise",
                f"{results.ships}, greedy, {wrong} wrong with noise so far below the speech: {', '.join(rates)}.",
            )
        )
    return lines


def hours_text(hours: float) -> str:
    """`12 hours`, `0.83 hours`, `4.2 minutes`."""
    if hours < 0.1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.0f} hours" if hours >= 10 else f"{hours:.2f} hours"

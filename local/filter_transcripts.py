"""Bring the transcripts that a recogniser wrote into the student's form, and drop those that are likely wrong.

    python3 local/filter_transcripts.py --data data/mine/extra_heard --options conf/pseudo_labels.yaml \\
        --agree data/mine/extra_seed/text --out data/mine/extra

--data is what steps.transcribe_data wrote. --agree: the transcripts of a second recogniser, lines `utterance-id text`; with
`max_disagreement` what the two hear differently is dropped, and utterances that it lacks are. --words: a word list; what has
other words is dropped. --truth: a data folder with the true transcripts, to see how good these are: their errors are counted,
of all and of those that stay. Everything dropped is counted by reason and listed in dropped.tsv: utterance, reason, text; so is
what dropped.tsv of --data lists. The numbers are kept in transcripts.json.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rapidfuzz.distance import Levenshtein

from local.comparison import RATES, count_errors, disagreement, units
from local.loops import loops
from local.markers import reason_to_drop as reason_of_markers
from local.markers import take_apart, tell_markers
from local.preparation import FilterConfig, reason_length, reason_text
from local.readings import MOST_READINGS, all_readings, unreadable
from local.rows import read_lines
from local.text import ORDINAL, TextConfig, Unsayable, normalise
from steps.core.cli import MissingInput, UserError, add_common, make_parser, run_main, say
from steps.core.config import check, load_config
from steps.core.datadir import Utterance, read_data_dir, read_table, write_data_dir
from steps.core.outdir import write_json, write_text
from steps.core.sound import read_sound, sound_info
from steps.core.tables import counted

WORD = re.compile(r"\w{2,}")
UNREAD = "number that cannot be read"
CONFIDENCE = re.compile(r"0(\.\d+)?|1(\.0+)?")


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Settings of conf/pseudo_labels.yaml, explained there."""

    text: TextConfig = field(default_factory=TextConfig)
    spell: bool = False
    readings: bool = False
    filter: FilterConfig = field(default_factory=FilterConfig)
    max_loop: int | None = 5
    max_disagreement: float | None = None
    min_confidence: float | None = None
    min_dbfs: float | None = None
    unit: str = "word"

    def __post_init__(self):
        check(self.unit in RATES, f"unit must be word or char, not {self.unit!r}")
        check(self.max_loop is None or self.max_loop >= 2, f"max_loop must be at least 2, not {self.max_loop}")
        limit = self.max_disagreement
        check(limit is None or limit >= 0, f"max_disagreement must be 0 or more, not {limit}")
        least = self.min_confidence
        check(least is None or 0 <= least <= 1, f"min_confidence must be in [0, 1], not {least}")
        check(self.min_dbfs is None or -100 <= self.min_dbfs < 0, f"min_dbfs must be in [-100, 0), not {self.min_dbfs}")
        check(not self.readings or bool(self.text.language), "readings: true needs text.language")
        check(not (self.readings and self.text.numbers), "numbers and readings exclude each other: leave numbers out")
        check(self.filter.sets == ["train"], "filter.sets has no meaning here; leave it out")


def spelled(text: str) -> str:
    """Words in capitals, or of letters and digits, letter by letter; digits stay together: `CZ80` -> `C Z 80`. So do ordinals."""
    return WORD.sub(lambda match: _apart(match[0]), text)


def _apart(word):
    if ORDINAL.fullmatch(word):
        return word
    capitals = word == word.upper() != word.lower()
    mixed = any(map(str.isdigit, word)) and not word.isdigit()
    return " ".join(re.findall(r"\d+|\D", word)) if capitals or mixed else word


def spelled_around_markers(text: str, config: TextConfig) -> str:
    """`spelled`, but markers stay as they are written, so that they are still known: `(MUSIC) NBC` -> `(MUSIC) N B C`."""
    kept = replace(config, markers="keep", map={name: name for name in config.map})
    return "".join(part if stays else spelled(part) for part, stays in take_apart(text, kept))


def forms(text: str, config: PseudoLabelConfig, most: int = MOST_READINGS) -> list[str]:
    """What a transcript may be in the student's form: with `readings` one for each way to read its numbers, at most `most`."""
    if config.spell:
        text = spelled_around_markers(text, config.text)
    if not config.readings:
        return [normalise(text, config.text)]
    return [normalise(way, config.text) for way in all_readings(text, config.text.language, most)]


def heard_forms(
    others: Mapping[str, str], own: Iterable[str], config: PseudoLabelConfig
) -> Callable[[str], str | None]:
    """What a second recogniser heard, in that form. Args: others: its transcripts.   own: those of the first one.

    Where it alone writes nothing but capitals, they are no spelled letters. Its numbers stay digits where there are several ways to
    read them: two who write 1995 do not say how it is said.   Returns: id -> text, None where it has none.
    """
    only_capitals = all(map(_in_capitals, others.values())) and not all(map(_in_capitals, own))
    config = replace(config, spell=config.spell and not only_capitals)
    plain = replace(config, readings=False)

    def heard(utt_id):
        # more than the ways to read one number
        ways = forms(others[utt_id], config, most=16)
        return ways[0] if len(ways) == 1 else forms(others[utt_id], plain)[0]

    return lambda utt_id: heard(utt_id) if utt_id in others else None


def _in_capitals(text):
    return all(char.isupper() for char in text if char.isalpha())


def written(text: str, config: PseudoLabelConfig, heard: str | None = None) -> str:
    """A transcript in the student's form, read as a second recogniser heard it. Args: heard: `heard_forms`; None: not known."""
    ways = forms(text, config)
    if len(ways) == 1 or not heard:
        return ways[0]
    other = units(heard, config.unit)
    return min(ways, key=lambda way: Levenshtein.distance(units(way, config.unit), other))


def unread(text: str, config: PseudoLabelConfig) -> str:
    """The first number of a transcript, as it came, that cannot be read; empty: none, or nobody wants them read."""
    if not config.readings:
        return ""
    parts = (part for part, stays in take_apart(text, config.text) if not stays)
    return next(filter(None, (unreadable(part, config.text.language) for part in parts)), "")


def with_duration(utt: Utterance) -> Utterance:
    """The utterance with its length, also where no utt2dur tells it: a folder written by hand. Raises: UserError naming the file."""
    if utt.duration_s is not None:
        return utt
    end_s = sound_info(utt.audio).seconds if utt.end_s is None else utt.end_s
    if end_s <= utt.start_s:
        raise UserError(f"{utt.audio}: ends at {end_s:g} s, where {utt.utt_id} begins; mend segments")
    return replace(utt, duration_s=round((end_s - utt.start_s) / utt.speed, 6))


def level_dbfs(utt: Utterance) -> float:
    """Root mean square level of an utterance's sound, decibels below full scale. Raises: UserError naming the file."""
    samples, _ = read_sound(utt.audio, utt.start_s, utt.end_s)
    power = float(np.square(samples, dtype=np.float64).mean())
    return 10 * math.log10(power) if power else -math.inf


def reason_to_drop(utt: Utterance, config: PseudoLabelConfig, heard: str | None, words: Collection[str] | None) -> str:
    """Why a transcript cannot stay, or an empty string. Args: utt: with its text in form.   heard: see `written`."""
    if reason := reason_text(utt, config.filter) or reason_length(utt, config.filter):
        return reason
    if config.max_loop is not None and loops(utt.text, config.max_loop):
        return "words over and over"
    if words is not None and (unknown := [word for word in utt.text.split() if word not in words]):
        return f"word outside the list: {unknown[0]}"
    if config.max_disagreement is not None:
        if heard is None:
            return "not in --agree"
        if disagreement(utt.text, heard, config.unit) > config.max_disagreement:
            return "two recognisers disagree"
    return "silence" if config.min_dbfs is not None and level_dbfs(utt) < config.min_dbfs else ""


def read_confidences(data: str | Path, config: PseudoLabelConfig, options: str) -> dict[str, float]:
    """How sure the recogniser was of each transcript; empty where nobody asks. Raises: MissingInput, UserError."""
    if config.min_confidence is None:
        return {}
    path = Path(data) / "utt2confidence"
    if not path.is_file():
        raise MissingInput(
            f"{path}: no such file; this recogniser does not say how sure it is, or had --words: leave min_confidence out of {options}"
        )
    table = read_table(path)
    for utt_id, value in table.items():
        if not CONFIDENCE.fullmatch(value):
            raise UserError(f"{path}: {utt_id}: {value!r} is no number from 0 to 1; transcribe again")
    return {utt_id: float(value) for utt_id, value in table.items()}


def read_dropped(data: str | Path, known: Collection[str]) -> list[tuple[str, str, str]]:
    """What was left out of a folder before, as its dropped.tsv lists it; none without one. Args: known: ids that are there.

    Returns: [(id, reason, text)].   Raises: UserError for another file of that name.
    """
    path = Path(data) / "dropped.tsv"
    rows = [(place, line.split("\t")) for place, line in read_lines(path)] if path.is_file() else []
    for place, row in rows:
        if len(row) < 2:
            raise UserError(f"{place}: expected an utterance, a tab and a reason; transcribe again")
    return [(row[0], row[1], " ".join(row[2:])) for _, row in rows if row[0] not in known]


def read_vocabulary(path: str | Path) -> set[str]:
    """The words of a list. Raises: MissingInput, UserError."""
    if not Path(path).is_file():
        raise MissingInput(f"{path}: no such word list")
    return {word for _, line in read_lines(path) for word in line.split()}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with a recogniser's transcripts")
    parser.add_argument("--agree", metavar="FILE", help="transcripts of a second recogniser")
    parser.add_argument("--words", metavar="FILE", help="word list, one per line")
    parser.add_argument("--options", default="conf/pseudo_labels.yaml", metavar="YAML", help="default: %(default)s")
    parser.add_argument("--truth", metavar="DIR", help="data folder with the true transcripts of --data")
    add_common(parser, out="data folder to write")
    args = parser.parse_args()
    config = load_config(PseudoLabelConfig, args.options)
    compares = config.readings or config.max_disagreement is not None
    if args.agree is None and compares:
        raise UserError(
            f"{args.options}: readings and max_disagreement compare with a second recogniser; name it with --agree"
        )
    if args.agree is not None and not compares:
        raise UserError(f"--agree: nothing compares with it; set max_disagreement or readings in {args.options}")
    if Path(args.out).resolve() == Path(args.data).resolve():
        raise UserError(f"{args.out}: is --data; choose another --out")
    others = {} if args.agree is None else read_table(args.agree)
    words = None if args.words is None else read_vocabulary(args.words)
    confidences = read_confidences(args.data, config, args.options)
    utterances = [with_duration(utt) for utt in read_data_dir(args.data)]
    tell_markers({args.data: utterances}, config.text)
    marked = {utt.utt_id: reason_of_markers(utt.text, config.text) for utt in utterances}
    if config.text.markers != "keep":
        # what they decide is decided; no words are made of them
        config = replace(config, text=replace(config.text, markers="drop"))
    heard_of = heard_forms(others, [utt.text for utt in utterances], config)
    kept, dropped = [], read_dropped(args.data, marked)
    for utt in utterances:
        reason = marked[utt.utt_id]
        if not reason and (number := unread(utt.text, config)):
            reason = f"{UNREAD}: {number}"
        try:
            heard = heard_of(utt.utt_id)
            utt = replace(utt, text=written(utt.text, config, heard))
            reason = reason or reason_to_drop(utt, config, heard, words)
        except Unsayable as error:
            reason = reason or f"{UNREAD}: {error}"
        if (
            not reason
            and config.min_confidence is not None
            and confidences.get(utt.utt_id, 0.0) < config.min_confidence
        ):
            reason = "the recogniser was not sure"
        if reason:
            dropped.append((utt.utt_id, reason, utt.text))
        else:
            kept.append(utt)
    write_out(args, config, kept, dropped)


def write_out(args, config, kept, dropped):
    """Write the folder, dropped.tsv and, last, transcripts.json; say what came out. Raises: UserError when nothing stays."""
    out, total = Path(args.out), len(kept) + len(dropped)
    counts = Counter(reason.partition(":")[0] for _, reason, _ in dropped)
    shown = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    if not kept:
        raise UserError(f"{args.data}: all of {counted(total, 'transcript')} are dropped ({shown}); see {args.options}")
    facts = {"set": out.name, "transcripts": total, "kept": len(kept), "dropped": dict(counts.most_common())}
    if args.truth:
        texts = {utt.utt_id: utt.text for utt in kept}
        counting, rate = RATES[config.unit]
        errors = count_errors(args.truth, texts, {utt_id: text for utt_id, _, text in dropped}, config.unit)
        facts["errors"] = errors
        for name, found in errors.items():
            numbers = f"{found[rate]:.2f} % {rate.upper()} ({found['errors']}/{found[counting]})"
            say(f"{args.data}: {name}: {numbers}, {counted(found['utterances'], 'utterance')}")
    write_data_dir(out, kept)
    write_text(out / "dropped.tsv", "".join("\t".join(row) + "\n" for row in dropped))
    write_json(out / "transcripts.json", facts)
    hours = sum(utt.duration_s or 0.0 for utt in kept) / 3600
    say(
        f"{out}: kept {len(kept)} of {counted(total, 'transcript')}, {hours:.2f} h"
        + (f"; dropped {shown}" if shown else "")
    )


if __name__ == "__main__":
    sys.exit(run_main(main))

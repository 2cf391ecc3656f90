"""Bring the transcripts that a recogniser wrote into the student's form, and drop those that are likely wrong.

    python3 local/filter_transcripts.py --data data/mine/extra_heard --options conf/pseudo_labels.yaml \\
        --agree data/mine/extra_seed/text --out data/mine/extra

--data is what steps.transcribe_data wrote. --agree: the transcripts of a second recogniser, lines `utterance-id text`; with
`max_disagreement` what the two hear differently is dropped, and utterances that it lacks are. --words: a word list; what has
other words is dropped. --truth: a data folder with the true transcripts, to see how good these are: their errors are counted,
of all and of those that stay. Everything dropped is counted by reason and listed in dropped.tsv: utterance, reason, text. The
numbers are kept in transcripts.json.
"""

import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rapidfuzz.distance import Levenshtein

from local.markers import reason_to_drop as reason_of_markers
from local.markers import take_apart, tell_markers
from local.preparation import FilterConfig, reason_length, reason_text
from local.text import TextConfig, in_words, normalise
from steps.core.cli import MissingInput, UserError, add_common, make_parser, run_main, say
from steps.core.config import check, load_config
from steps.core.datadir import Utterance, read_data_dir, read_table, write_data_dir
from steps.core.outdir import write_json, write_text
from steps.core.sound import read_sound, sound_info
from steps.core.tables import counted

# Combinations of readings that are compared; a transcript with more numbers keeps the first reading of the later ones.
MOST_READINGS = 256
LONGEST_LOOP = 4  # words of what is repeated
DIGITS = re.compile(r"\d+")
WORD = re.compile(r"\w{2,}")
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

    def __post_init__(self):
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
    """Words in capitals, or of letters and digits, letter by letter; runs of digits stay together: `CZ80` -> `C Z 80`."""
    return WORD.sub(lambda match: _apart(match[0]), text)


def _apart(word):
    capitals = word == word.upper() != word.lower()
    mixed = any(map(str.isdigit, word)) and not word.isdigit()
    return " ".join(re.findall(r"\d+|\D", word)) if capitals or mixed else word


def spelled_around_markers(text: str, config: TextConfig) -> str:
    """`spelled`, but markers stay as they are written, so that they are still known: `(MUSIC) NBC` -> `(MUSIC) N B C`."""
    kept = replace(config, markers="keep", map={name: name for name in config.map})
    return "".join(part if stays else spelled(part) for part, stays in take_apart(text, kept))


def readings_of(digits: str, language: str) -> list[str]:
    """Ways in which people say a run of digits, each once: one by one, as a number, in pairs from the left or the right."""
    ways = [" ".join(in_words(digit, language) for digit in digits)]
    if len(digits) <= 6:
        number = in_words(digits, language).replace("-", " ").replace(",", "")
        ways += [number, number.replace(" and ", " ")]
        first = len(digits) % 2
        pairs = [digits[:first]] * bool(first) + [digits[i : i + 2] for i in range(first, len(digits), 2)]
        ways.append(" ".join(in_words(pair, language).replace("-", " ") for pair in pairs if pair))
    return list(dict.fromkeys(ways))


def all_readings(text: str, language: str) -> Iterator[str]:
    """The text with every run of digits in words, in all combinations of readings, at most MOST_READINGS."""
    parts, runs = DIGITS.split(text), [readings_of(digits, language) for digits in DIGITS.findall(text)]
    count = 1
    for place, ways in enumerate(runs):
        if count * len(ways) > MOST_READINGS:
            runs[place:] = [later[:1] for later in runs[place:]]
            break
        count *= len(ways)
    for chosen in itertools.product(*runs):
        pieces = itertools.zip_longest(parts, chosen, fillvalue="")
        yield " ".join(" ".join(f"{part} {way}" for part, way in pieces).split())


def written(text: str, config: PseudoLabelConfig, other: str | None = None) -> str:
    """A transcript in the student's form. Args: other: what a second recogniser heard, in that form; None: not known."""
    if config.spell:
        text = spelled_around_markers(text, config.text)
    if not config.readings or not DIGITS.search(text):
        return normalise(text, config.text)
    texts = [normalise(way, config.text) for way in all_readings(text, config.text.language)]
    heard = (other or "").split()
    return min(texts, key=lambda way: Levenshtein.distance(way.split(), heard)) if heard else texts[0]


def disagreement(text: str, other: str) -> float:
    """Word errors between two transcripts, per word of the first."""
    return Levenshtein.distance(text.split(), other.split()) / max(1, len(text.split()))


def loops(text: str, most: int) -> bool:
    """Whether some one to LONGEST_LOOP words come `most` times in a row."""
    words = text.split()
    return any(
        words[start : start + length * most] == words[start : start + length] * most
        for length in range(1, LONGEST_LOOP + 1)
        for start in range(len(words) - length * most + 1)
    )


def with_duration(utt: Utterance) -> Utterance:
    """The utterance with its length, also where no utt2dur tells it: a folder written by hand. Raises: UserError naming the file."""
    if utt.duration_s is not None:
        return utt
    end_s = sound_info(utt.audio).seconds if utt.end_s is None else utt.end_s
    return replace(utt, duration_s=round((end_s - utt.start_s) / utt.speed, 6))


def level_dbfs(utt: Utterance) -> float:
    """Root mean square level of an utterance's sound, decibels below full scale. Raises: UserError naming the file."""
    samples, _ = read_sound(utt.audio, utt.start_s, utt.end_s)
    power = float(np.square(samples, dtype=np.float64).mean())
    return 10 * math.log10(power) if power else -math.inf


def reason_to_drop(utt: Utterance, config: PseudoLabelConfig, other: str | None, words: Collection[str] | None) -> str:
    """Why a transcript cannot stay, or an empty string. Args: utt: with its text in form; other: see `written`."""
    if reason := reason_text(utt, config.filter) or reason_length(utt, config.filter):
        return reason
    if config.max_loop is not None and loops(utt.text, config.max_loop):
        return "words over and over"
    if words is not None and (unknown := [word for word in utt.text.split() if word not in words]):
        return f"word outside the list: {unknown[0]}"
    if config.max_disagreement is not None and (
        other is None or disagreement(utt.text, other) > config.max_disagreement
    ):
        return "two recognisers disagree" if other is not None else "not in --agree"
    return "silence" if config.min_dbfs is not None and level_dbfs(utt) < config.min_dbfs else ""


def read_confidences(data: str | Path, config: PseudoLabelConfig, options: str) -> dict[str, float]:
    """How sure the recogniser was of each transcript; empty where nobody asks. Raises: MissingInput, UserError."""
    if config.min_confidence is None:
        return {}
    path = Path(data) / "utt2confidence"
    if not path.is_file():
        raise MissingInput(
            f"{path}: no such file; this recogniser does not say how sure it is: leave min_confidence out of {options}"
        )
    table = read_table(path)
    for utt_id, value in table.items():
        if not CONFIDENCE.fullmatch(value):
            raise UserError(f"{path}: {utt_id}: {value!r} is no number from 0 to 1; transcribe again")
    return {utt_id: float(value) for utt_id, value in table.items()}


def count_errors(truth_dir: str, kept: dict[str, str], dropped: dict[str, str]) -> dict[str, dict[str, int | float]]:
    """Word errors of transcripts against the true ones; utterances in which nothing was heard are deletions.

    Args:    kept, dropped: {id: text}.
    Returns: {"all": counts, "kept": counts}.   Raises: UserError when the folder is that of other utterances.
    """
    truth = {utt.utt_id: utt.text for utt in read_data_dir(truth_dir, check_audio=False)}
    if unknown := sorted({*kept, *dropped} - set(truth)):
        raise UserError(f"{truth_dir}: has no transcript of {unknown[0]}; --truth is the folder that was transcribed")
    found = {}
    for name, texts, ids in (("all", kept | dropped, truth), ("kept", kept, kept)):
        words = sum(len(truth[utt_id].split()) for utt_id in ids)
        errors = sum(Levenshtein.distance(texts.get(utt_id, "").split(), truth[utt_id].split()) for utt_id in ids)
        wer = round(100 * errors / max(1, words), 2)
        found[name] = {"utterances": len(ids), "words": words, "errors": errors, "wer": wer}
    return found


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
    if args.agree is None and (config.readings or config.max_disagreement is not None):
        raise UserError(
            f"{args.options}: readings and max_disagreement compare with a second recogniser; name it with --agree"
        )
    if Path(args.out).resolve() == Path(args.data).resolve():
        raise UserError(f"{args.out}: is --data; choose another --out")
    others = {} if args.agree is None else read_table(args.agree)
    words = None if args.words is None else set(Path(args.words).read_text(encoding="utf-8").split())
    confidences = read_confidences(args.data, config, args.options)
    utterances = [with_duration(utt) for utt in read_data_dir(args.data)]
    tell_markers({args.data: utterances}, config.text)
    marked = {utt.utt_id: reason_of_markers(utt.text, config.text) for utt in utterances}
    if config.text.markers != "keep":
        # what they decide is decided; no words are made of them
        config = replace(config, text=replace(config.text, markers="drop"))
    kept, dropped = [], []
    for utt in utterances:
        other = normalise(others[utt.utt_id], config.text) if utt.utt_id in others else None
        utt = replace(utt, text=written(utt.text, config, other))
        reason = marked[utt.utt_id] or reason_to_drop(utt, config, other, words)
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
    write_out(args, kept, dropped)


def write_out(args, kept, dropped):
    """Write the folder, dropped.tsv and, last, transcripts.json; say what came out. Raises: UserError when nothing stays."""
    out, total = Path(args.out), len(kept) + len(dropped)
    counts = Counter(reason.partition(":")[0] for _, reason, _ in dropped)
    shown = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    if not kept:
        raise UserError(f"{args.data}: all of {counted(total, 'transcript')} are dropped ({shown}); see {args.options}")
    facts = {"set": out.name, "transcripts": total, "kept": len(kept), "dropped": dict(counts.most_common())}
    if args.truth:
        texts = {utt.utt_id: utt.text for utt in kept}
        facts["errors"] = count_errors(args.truth, texts, {utt_id: text for utt_id, _, text in dropped})
        for name, found in facts["errors"].items():
            numbers = f"{found['wer']:.2f} % WER ({found['errors']}/{found['words']})"
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

"""Preparation options: what may be done to a corpus before training, all of it off unless a YAML file asks for it.

conf/prepare.yaml explains the settings. Everything that is dropped is counted by reason and listed in dropped.tsv.
"""

import multiprocessing
import unicodedata
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from local.markers import reason_to_drop, tell_markers
from local.sound import SoundConfig, tell_what_stays_here, treat
from local.text import TextConfig, loses_dotless, normalise
from steps.core.cli import UserError, say
from steps.core.config import check
from steps.core.outdir import write_text
from steps.core.tables import counted


@dataclass(frozen=True)
class FilterConfig:
    """Limits that utterances must keep; None: no limit. Test sets are left whole unless `sets` names them."""

    sets: list[str] = field(default_factory=lambda: ["train"])
    min_s: float | None = None
    max_s: float | None = None
    min_chars_per_s: float | None = (
        None  # characters of the transcript, blanks not counted, per second of the utterance
    )
    max_chars_per_s: float | None = None
    alphabet: str | None = None  # characters a transcript may have, besides blanks
    max_run: int | None = None  # the same word so many times in a row is taken for a mistake

    def __post_init__(self):
        for low, high in ((self.min_s, self.max_s), (self.min_chars_per_s, self.max_chars_per_s)):
            check(
                low is None or high is None or low < high, f"the lower limit {low} is not below the upper one, {high}"
            )
        check(self.max_run is None or self.max_run >= 2, f"max_run must be at least 2, not {self.max_run}")


@dataclass(frozen=True)
class PreparationConfig:
    """All options. shared_speakers: accept that speakers are in several sets."""

    text: TextConfig = field(default_factory=TextConfig)
    sound: SoundConfig = field(default_factory=SoundConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    shared_speakers: bool = False


def prepare_sets(sets, config, out, nj=1, unlabelled=()):
    """Apply the options to all sets.

    Args:    sets: name -> list of Utterance with duration_s.   out: folder for treated audio and dropped.tsv.
             unlabelled: names of sets without transcripts, to which only the options of sound and length apply.
    Returns: the same with what is left.   Raises: UserError when nothing is left of a set.
    """
    unknown = [name for name in config.filter.sets if name not in sets]
    if unknown and config.filter != FilterConfig():
        raise UserError(f"preparation options: filter.sets: no set {unknown[0]}; there are {', '.join(sets)}")
    tell_markers({name: utterances for name, utterances in sets.items() if name not in unlabelled}, config.text)
    tell_what_stays_here(config.sound, out)
    if any(loses_dotless(utt.text, config.text) for utterances in sets.values() for utt in utterances):
        say(
            f"warning: i and dotless i become one letter in {config.text.case} case; Turkish needs `text: {{language: tr}}`"
        )
    dropped, kept = [], {}
    for name, utterances in sets.items():
        limits = config.filter if name in config.filter.sets else FilterConfig()
        if name in unlabelled:
            limits = replace(limits, min_chars_per_s=None, max_chars_per_s=None)
        else:
            reasons = [reason_to_drop(utt.text, config.text) for utt in utterances]
            utterances = _part(name, utterances, reasons, dropped)
            utterances = [replace(utt, text=normalise(utt.text, config.text)) for utt in utterances]
            reasons = [reason_text(utt, limits) for utt in utterances]
            utterances = _part(name, utterances, reasons, dropped)
        if config.sound != SoundConfig():
            treated = treat_all(utterances, config.sound, out / "audio" / name, nj)
            reasons = [item if isinstance(item, str) else "" for item in treated]
            _part(name, utterances, reasons, dropped)
            utterances = [item for item in treated if not isinstance(item, str)]
        reasons = [reason_length(utt, limits) for utt in utterances]
        kept[name] = _part(name, utterances, reasons, dropped)
    tell_spellings(kept)
    for name, utterances in sets.items():
        counts = Counter(reason for owner, _, reason in dropped if owner == name)
        if counts:
            by_reason = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
            say(f"{name}: dropped {counts.total()} of {counted(len(utterances), 'utterance')} ({by_reason})")
        if not kept[name]:
            raise UserError(f"{name}: the preparation options leave no utterance (see the counts above)")
    if dropped or (out / "dropped.tsv").exists():
        write_text(out / "dropped.tsv", "".join("\t".join(row) + "\n" for row in dropped))
    return kept


def tell_spellings(sets):
    """Warn of words that are there in several Unicode forms (an umlaut as one character and as two): to a model they are different."""
    forms = {}
    for word in {word for utterances in sets.values() for utt in utterances for word in utt.text.split()}:
        if not word.isascii():
            forms.setdefault(unicodedata.normalize("NFC", word), []).append(word)
    if several := sorted(word for word, found in forms.items() if len(found) > 1):
        what = f"{counted(len(several), 'word')} in several Unicode forms, such as {several[0]}"
        say(
            f"warning: {what}: they count as different ones; `text: {{unicode: NFC}}` in the preparation options makes them one"
        )


def _part(name, utterances, reasons, dropped):
    """Those without a reason to drop them; the others are noted."""
    dropped += [(name, utt.utt_id, reason) for utt, reason in zip(utterances, reasons, strict=True) if reason]
    return [utt for utt, reason in zip(utterances, reasons, strict=True) if not reason]


def reason_text(utt, limits):
    """Why a transcript cannot stay, or an empty string; an empty one never can. Args: limits: FilterConfig."""
    if not utt.text:
        return "empty transcript"
    if limits.alphabet is not None and (foreign := set(utt.text) - set(limits.alphabet) - {" "}):
        return f"character outside the alphabet: {min(foreign)}"
    words = utt.text.split()
    if limits.max_run and any(
        len({*words[i : i + limits.max_run]}) == 1 for i in range(len(words) - limits.max_run + 1)
    ):
        return "one word over and over"
    return ""


def reason_length(utt, limits):
    """Why an utterance of this length cannot stay, or an empty string. Args: utt: with duration_s; limits: FilterConfig."""
    rate = len(utt.text.replace(" ", "")) / utt.duration_s
    tests = (
        ("too short", limits.min_s, utt.duration_s, 1),
        ("too long", limits.max_s, utt.duration_s, -1),
        ("too few characters per second", limits.min_chars_per_s, rate, 1),
        ("too many characters per second", limits.max_chars_per_s, rate, -1),
    )
    return next((what for what, limit, value, sign in tests if limit is not None and sign * value < sign * limit), "")


def treat_all(utterances, config, folder, nj):
    """Treat the audio of all utterances, in `nj` processes. Returns: list of Utterance, or a reason to drop it."""
    work = partial(treat, config=config, folder=folder)
    if nj == 1:
        return [work(utt) for utt in utterances]
    with ProcessPoolExecutor(nj, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, utterances, chunksize=16))

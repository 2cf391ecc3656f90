"""Markers in transcripts: what is written for noises, laughter, hesitations and words not understood, and is no word.

The usual ones are known by the pattern below; `map` in the preparation options names what it misses.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import TYPE_CHECKING

from steps.core.cli import UserError, say
from steps.core.tables import SHOWN, counted

if TYPE_CHECKING:
    from local.text import TextConfig
    from steps.core.datadir import Utterance

POLICIES = ("refuse", "drop", "drop_utterance", "keep")
# What stands in (round brackets) and is surely not said; of any other words there one cannot know.
COMMENT = r"""unk(?:nown)?|nois\w*|laugh\w*|chuckl\w*|giggl\w*|cough\w*|breath\w*|inhal\w*|exhal\w*|sigh\w*|sneez\w*|sniff\w*
    |gasp\w*|yawn\w*|crying|cries|applau\w*|claps?|clapping|cheer\w*|music|singing|humming|silence|pauses?|inaudible
    |unintelligible|unclear|indistinct|incomprehensible|cross.?talk|overlap\w*|background(?:\s[^()]*)?|foreign(?:\s[^()]*)?
    |hesitat\w*|mumbl\w*|clicks?|lip.?smack\w*|throat[^()]*|beeps?|static|speaking\s[^()]*
    |lacht?|lachen|hustet|husten|unverständlich|rires?|toux|risas?|ininteligible|смех|笑|笑声|笑い|拍手|音楽|音乐"""
MARKER = rf"""<[^\s<>][^<>]{{0,60}}>                        # <UNK>, <noise>
    | \[{{1,2}}[^\[\]]{{0,60}}\]{{1,2}}                     # [noise], [[unclear]]
    | \{{[^{{}}]{{0,60}}\}}                                 # {{laugh}}
    | \(\([^()]{{0,60}}\)\)                                 # ((unclear)), (())
    | [(（]\s*(?:{COMMENT})\s*[)）]                         # (laughs)
    | [(（][^\w()（）]{{0,20}}[)）]                         # (...), (??)
    | (?<=\w)\(\d\)                                         # READ(2): how it is pronounced
    | [【［｛＜][^】］｝＞]{{0,60}}[】］｝＞]
    | (?<!\S)\+{{1,2}}[^\s+]{{1,60}}\+{{1,2}}(?!\S)         # ++um++, +laugh+
    | (?<!\S)\*{{1,2}}[^\s*](?:[^*]{{0,60}}[^\s*])?\*{{1,2}}(?!\S)   # *coughs*
    | (?<!\S)\#[^\W\d_][\w-]{{0,60}}\#(?!\S)                # #noise#
    | (?<!\S)%[^\W\d_][\w-]{{0,60}}(?!\S)                   # %hesitation
    | (?<!\S)@[^\W\d_][\w-]{{0,60}}@?(?!\S)                 # @reject@
    | (?<!\S)&[-=+~][\w:-]{{1,60}}(?!\S)                    # &-uh, &=laughs
    | (?<!\S)(?:!sil|!exclude|!null|(?-i:xxx+)|ignore_time_segment_in_scoring|inter_segment_gap)(?!\S)
    | [♪♫]+"""
ROUND = re.compile(r"[(（][^()（）]+[)）]")


@functools.lru_cache(maxsize=8)
def _pattern(names):
    """The usual markers and some more. Args: names: tuple of str."""
    own = "".join(rf"(?<!\S){re.escape(name)}(?!\S)|" for name in sorted(names, key=len, reverse=True))
    return re.compile(own + MARKER, re.VERBOSE | re.IGNORECASE)


def find_markers(text: str, config: TextConfig) -> list[str]:
    """The markers of a transcript, as they are written. Args: config: TextConfig, whose `map` may name more. Returns: list."""
    return [match[0] for match in _pattern(tuple(config.map)).finditer(text)]


def take_apart(text: str, config: TextConfig) -> list[tuple[str, bool]]:
    """Do with the markers of a transcript what the settings say.

    Returns: list of (str, whether it is to stay as it is): what lies between markers, and what became of them.
    """
    parts, at = [], 0
    for match in _pattern(tuple(config.map)).finditer(text):
        marker, at_before, at = match[0], at, match.end()
        parts.append((text[at_before : match.start()], False))
        if marker in config.map:
            new = config.map[marker] or ""
            parts.append((new, bool(find_markers(new, config))))
        elif config.markers != "drop":
            parts.append((marker, config.markers == "keep"))
    return [*parts, (text[at:], False)]


def reason_to_drop(text: str, config: TextConfig) -> str:
    """Why an utterance goes for one of its markers, or an empty string."""
    for marker in find_markers(text, config):
        if config.map.get(marker, "") is None or (marker not in config.map and config.markers == "drop_utterance"):
            return f"holds {marker}"
    return ""


def tell_markers(sets: dict[str, list[Utterance]], config: TextConfig) -> None:
    """Count markers, say what is done with them, and refuse those that nothing is said about.

    Args: sets: name -> list of Utterance.   config: TextConfig.   Raises: UserError.
    """
    found, open_ones, first, round_ones = Counter(), Counter(), "", []
    for name, utterances in sets.items():
        for utt in utterances:
            markers = find_markers(utt.text, config)
            found.update(markers)
            unsettled = [marker for marker in markers if marker not in config.map]
            open_ones.update(unsettled)
            first = first or (unsettled and f"{name}/{utt.utt_id}: {utt.text}")
            round_ones += [match[0] for match in ROUND.finditer(utt.text) if match[0] not in markers]
    if open_ones and config.markers == "refuse":
        remedy = "`text: {markers: drop}`, drop_utterance or keep, or single ones with map (conf/prepare.yaml)"
        raise UserError(
            f"transcripts hold what is no word, {counted(open_ones.total(), 'time')}: {_listed(open_ones)}; the first in "
            f"{first}; say what becomes of it in the preparation options: {remedy}"
        )
    if open_ones:
        say(f"markers in transcripts, {config.markers.replace('_', ' ')}: {_listed(open_ones)}")
    if settled := found - open_ones:
        say(f"markers in transcripts, by map: {_listed(settled)}")
    if unknown := [marker for marker in config.map if marker not in found]:
        say(f"map names what is in no transcript: {', '.join(unknown)}")
    if round_ones:
        times = counted(len(round_ones), "time")
        say(f"words in round brackets, {times}, such as {round_ones[0]}: taken as spoken")


def _listed(counts):
    """`[noise] 12, <UNK> 3, ...`, the most frequent ones."""
    shown = [f"{marker} {count}" for marker, count in counts.most_common(SHOWN)]
    return ", ".join(shown + ["..."] * (len(counts) > SHOWN))

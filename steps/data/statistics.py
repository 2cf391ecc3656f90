"""Statistics of a data folder: what a corpus holds and what may be wrong with it, as numbers, text and a page."""

import html
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from steps.core.datadir import Utterance
from steps.data.features import utterance_samples

RATE_HZ = 16000
# In samples: 25 ms.
FRAME = 400
# A sample this loud, several times in a row, is cut off.
CLIPPED = 0.999
FLOOR_DB = -100.0
# Key -> (title, unit).
HISTOGRAMS = {
    "seconds": ("Duration", "s"),
    "words": ("Words per utterance", ""),
    "chars_per_s": ("Characters per second", "1/s"),
    "level_dbfs": ("Level (root mean square)", "dBFS"),
    "snr_db": ("Signal to noise, estimated", "dB"),
    "per_speaker": ("Minutes per speaker", "min"),
}


def measure_audio(utt: Utterance) -> dict[str, Any]:
    """Read one utterance and measure it. Returns: dict seconds, level_dbfs, peak, clipped (share of samples), snr_db, offset."""
    samples = utterance_samples(utt, RATE_HZ).numpy().astype(np.float64)
    return {"utt_id": utt.utt_id, "seconds": len(samples) / RATE_HZ, **levels(samples)}


def levels(samples: np.ndarray) -> dict[str, float | None]:
    """Level, peak, clipping, estimated SNR and offset of samples in [-1, 1]. Args: samples (S,)."""
    loud = np.abs(samples) >= CLIPPED
    runs = loud[1:] & loud[:-1]
    return {
        "level_dbfs": decibels(np.mean(np.square(samples))),
        "peak": float(np.abs(samples).max()),
        "clipped": float(runs.mean()) if len(runs) else 0.0,
        "snr_db": estimate_snr(samples),
        "offset": float(samples.mean()),
    }


def decibels(power: float) -> float:
    """10 log10, not below -100."""
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB


def estimate_snr(samples: np.ndarray) -> float | None:
    """Ratio of loud to quiet frames: the 95th over the 10th percentile of 25 ms frame powers, noise taken off the former.

    Args: samples (S,).  Returns: dB from 0 to 60, or None under 0.25 s. It takes for granted that a tenth of the utterance is
    pause; after trimming it reads low.   Source: the idea of NIST's stnr, with percentiles instead of a histogram fit.
    """
    count = len(samples) // FRAME
    if count < 10:
        return None
    power = np.mean(np.square(samples[: count * FRAME].reshape(count, FRAME)), axis=1)
    noise, speech = np.percentile(power, [10, 95])
    if noise <= 0:
        return 60.0
    return float(np.clip(10 * np.log10(max(speech / noise - 1, 1e-9)), 0.0, 60.0))


def summarise(
    name: str,
    utterances: Sequence[Utterance],
    audio: Sequence[dict[str, Any]],
    known: Collection[str] | None = None,
    bad: Iterable[str] = (),
) -> dict[str, Any]:
    """Put everything together.

    Args:    audio: list of what measure_audio returned.   known: words of the training set, or None.   bad: lines about
             files that cannot be read.
    Returns: dict that can be written as JSON.
    """
    seconds = {item["utt_id"]: item["seconds"] for item in audio}
    seconds |= {utt.utt_id: utt.duration_s for utt in utterances if utt.duration_s is not None}
    tokens = Counter(word for utt in utterances for word in utt.text.split())
    chars = Counter(char for utt in utterances for char in utt.text if char != " ")
    texts = [utt for utt in utterances if utt.text]
    speakers: dict[str, float] = defaultdict(float)
    for utt in utterances:
        speakers[utt.speaker] += seconds.get(utt.utt_id, 0.0) / 60
    # of the lengths of a sample, the sum is not that of the set
    whole = len(seconds) == len(utterances)
    unknown = None if known is None else Counter({word: n for word, n in tokens.items() if word not in known})
    values = {
        "seconds": list(seconds.values()),
        "words": [len(utt.text.split()) for utt in texts],
        "chars_per_s": [len(u.text.replace(" ", "")) / seconds[u.utt_id] for u in texts if seconds.get(u.utt_id)],
        "level_dbfs": [item["level_dbfs"] for item in audio],
        "snr_db": [item["snr_db"] for item in audio if item["snr_db"] is not None],
        "per_speaker": list(speakers.values()) if whole else [],
    }
    return {
        "name": name,
        "utterances": len(utterances),
        "speakers": len(speakers),
        "hours": sum(seconds.values()) / 3600 if whole else None,
        "lengths_known": len(seconds),
        "words": tokens.total(),
        "distinct_words": len(tokens),
        "characters": dict(chars.most_common()),
        "unknown_words": None if unknown is None else unknown.total(),
        "unknown_percent": None if unknown is None else 100 * unknown.total() / max(1, tokens.total()),
        "unknown_examples": None if unknown is None else [word for word, _ in unknown.most_common(20)],
        "sound_read": len(audio),
        "clipped": [item["utt_id"] for item in audio if item["clipped"] > 0.0005],
        "silent": [item["utt_id"] for item in audio if item["level_dbfs"] < -60],
        "offset": [item["utt_id"] for item in audio if abs(item["offset"]) > 0.02],
        "unreadable": list(bad),
        "spread": {key: spread(items) for key, items in values.items() if items},
        "histograms": {key: histogram(items) for key, items in values.items() if items},
    }


def spread(values: Sequence[float]) -> list[float]:
    """Least, 5th percentile, median, 95th percentile, largest."""
    return [round(float(x), 3) for x in np.percentile(values, [0, 5, 50, 95, 100])]


def histogram(values: Sequence[float], bins: int = 30) -> dict[str, list[float]]:
    """Counts of equal steps, whole ones for whole numbers. Returns: dict edges (bins + 1 at most), counts."""
    low, high = min(values), max(values)
    if all(float(value).is_integer() for value in values):
        step = max(1, math.ceil((high - low + 1) / bins))
        bins = np.arange(low, high + step + 0.5, step) - 0.5
    counts, edges = np.histogram(values, bins=bins)
    return {"edges": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()}


def facts(stats: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of every single figure."""
    hours = f"unknown: lengths of {stats['lengths_known']:,} of {stats['utterances']:,} utterances are known"
    rows = [
        ("utterances", f"{stats['utterances']:,}"),
        ("speakers", f"{stats['speakers']:,}"),
        ("hours", hours if stats["hours"] is None else f"{stats['hours']:.2f}"),
    ]
    if stats["words"]:
        rows.append(("words", f"{stats['words']:,}, {stats['distinct_words']:,} different ones"))
        rows.append(("characters", f"{len(stats['characters'])}: {' '.join(list(stats['characters'])[:80])}"))
    else:
        rows.append(("words", "no transcripts"))
    if stats["unknown_words"] is not None:
        some = ", ".join(stats["unknown_examples"][:10])
        text = f"{stats['unknown_percent']:.2f} % ({stats['unknown_words']:,})" + (f": {some}" if some else "")
        rows.append(("words not in training", text))
    for key, label in (
        ("clipped", "clipped"),
        ("silent", "below -60 dBFS"),
        ("offset", "constant offset"),
        ("unreadable", "unreadable"),
    ):
        found = stats[key]
        some = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        tried = stats["sound_read"] + (len(found) if key == "unreadable" else 0)
        rows.append((label, f"{len(found)} of {tried}" + (f": {some}" if found else "")))
    return rows


def format_text(stats: dict[str, Any]) -> str:
    """The figures as lines of text."""
    rows = facts(stats)
    width = max(len(label) for label, _ in rows)
    lines = [stats["name"], *(f"  {label:{width}}  {text}" for label, text in rows), ""]
    lines.append(f"  {'':26} {'least':>9} {'5 %':>9} {'median':>9} {'95 %':>9} {'largest':>9}")
    for key, numbers in stats["spread"].items():
        title, unit = HISTOGRAMS[key]
        label = f"{title.split(',')[0].split(' (')[0]}{f', {unit}' if unit else ''}"
        lines.append(f"  {label:26} " + " ".join(f"{number:9.2f}" for number in numbers))
    return "\n".join(lines) + "\n"


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
h1{font-size:1.5rem;overflow-wrap:anywhere}td{padding:.1rem 1rem .1rem 0;vertical-align:top}td+td{overflow-wrap:anywhere}
main{margin-top:1.5rem;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:1.5rem}figure{margin:0}
svg{width:100%}rect{fill:#3b7dd8}text{font-size:11px;fill:currentColor}figcaption b{display:block}"""


def format_page(stats: dict[str, Any]) -> str:
    """The figures and histograms as one HTML page; all text from the data is escaped."""
    rows = "".join(
        f"<tr><td>{html.escape(label)}</td><td dir=auto>{html.escape(text)}</td></tr>\n" for label, text in facts(stats)
    )
    figures = "".join(_figure(key, stats) for key in stats["histograms"])
    title = html.escape(stats["name"])
    head = f'<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>{title}</title>'
    return (
        f"{head}\n<style>{STYLE}</style>\n<h1>{title}</h1>\n<table>\n{rows}</table>\n<main>\n{figures}</main></html>\n"
    )


def _figure(key, stats):
    """One histogram as SVG."""
    title, unit = HISTOGRAMS[key]
    edges, counts = stats["histograms"][key]["edges"], stats["histograms"][key]["counts"]
    step, tallest = 320 / len(counts), max(counts)
    bars = "".join(
        f'<rect x="{i * step + 5:.1f}" y="{130 - 120 * n / tallest:.1f}" width="{step - 1:.1f}" height="{120 * n / tallest:.1f}">'
        f"<title>{edges[i]:g} to {edges[i + 1]:g} {unit}: {n}</title></rect>"
        for i, n in enumerate(counts)
    )
    low, _, median, _, high = (f"{number:.3g}" for number in stats["spread"][key])
    axis = f'<text x="5" y="145">{low}</text><text x="325" y="145" text-anchor="end">{high} {unit}</text>'
    note = f"<b>{html.escape(title)}</b>median {median}, {low} to {f'{high} {unit}'.strip()}; tallest bar {tallest:,}"
    return f'<figure><figcaption>{note}</figcaption><svg viewBox="0 0 330 150" role="img">{bars}{axis}</svg></figure>\n'

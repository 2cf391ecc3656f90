"""Make the corpus of the test recipe: a language of whistles that a tiny network learns in seconds.

    python3 tests/recipes/tiny/prepare.py --out data/tiny

Eight letters, each a chord of one or two tones; words of two or three letters; speakers with a pitch, a pace and a
loudness of their own; noise. Nothing is recorded or downloaded, and the same seed gives the same bytes.
"""

import sys
import wave
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from steps.core.cli import add_common, make_parser, run_main, say  # noqa: E402
from steps.core.datadir import Utterance, write_data_dir  # noqa: E402
from steps.core.outdir import atomic_file, write_text  # noqa: E402

RATE_HZ = 16000
LETTERS_HZ = {  # the tones of each letter: nearly an octave apart, so neither speakers nor speed copies blur them
    "a": (350, 700),
    "b": (350, 1350),
    "d": (350, 2600),
    "e": (700, 1350),
    "g": (700, 2600),
    "i": (1350, 2600),
    "o": (350,),
    "t": (2600,),
}
WORDS = ["ado", "age", "at", "bat", "bed", "beg", "bib", "bid", "big", "do", "dog", "dot", "ebb", "gab"]
WORDS += ["get", "go", "got", "id", "it", "tab", "tag", "to", "toe"]
SPEAKERS = {"train": 6, "dev": 3, "test": 4}
SIZES = {"train": 120, "dev": 24, "test": 24}
LETTER_S, LETTER_GAP_S, WORD_GAP_S, EDGE_S = 0.12, 0.03, 0.12, 0.08


def draw_speaker(rng):
    """Draw a speaker: (pitch factor, pace factor, loudness)."""
    return rng.uniform(0.9, 1.12), rng.uniform(0.9, 1.1), rng.uniform(0.08, 0.3)


def chord(tones_hz, seconds):
    """Tones at the same time, with soft edges. Returns: (S,) float64."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = sum(np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in tones_hz)
    return sound * np.minimum(1.0, np.minimum(time_s, time_s[::-1]) / 0.008)


def silence(seconds):
    return np.zeros(round(seconds * RATE_HZ))


def utter(text, speaker, rng):
    """Say a text. Args: speaker: from `draw_speaker`; rng: for the noise. Returns: (S,) int16 at 16 kHz."""
    pitch, pace, loudness = speaker
    pieces = [silence(EDGE_S)]
    for word in text.split():
        for letter in word:
            pieces.append(chord([tone_hz * pitch for tone_hz in LETTERS_HZ[letter]], LETTER_S * pace))
            pieces.append(silence(LETTER_GAP_S * pace))
        pieces.append(silence(WORD_GAP_S * pace))
    sound = loudness * np.concatenate([*pieces, silence(EDGE_S)])
    sound += 0.05 * loudness * rng.standard_normal(len(sound))
    return np.round(np.clip(sound, -1.0, 1.0) * 32767).astype("<i2")


def draw_texts(rng, count, taken):
    """Draw `count` texts of two or three words that are not in `taken`, which grows by them."""
    texts = []
    while len(texts) < count:
        text = " ".join(rng.choice(WORDS, size=rng.integers(2, 4)))
        if text not in taken:
            taken.add(text)
            texts.append(text)
    return texts


def write_wav(path, samples):
    with atomic_file(path, "wb") as file, wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes(samples.tobytes())


def write_set(name, seed, taken, out):
    """Make one set: its own speakers, and no text that an earlier set has."""
    rng = np.random.default_rng([seed, list(SIZES).index(name)])
    speakers = {f"{name}{number}": draw_speaker(rng) for number in range(1, SPEAKERS[name] + 1)}
    utterances = []
    for index, text in enumerate(draw_texts(rng, SIZES[name], taken)):
        speaker = list(speakers)[index % len(speakers)]
        utt_id = f"{speaker}-{index // len(speakers) + 1:02d}"
        samples = utter(text, speakers[speaker], rng)
        path = out / "audio" / f"{utt_id}.wav"
        write_wav(path, samples)
        utterances.append(Utterance(utt_id, speaker, text, str(path), duration_s=len(samples) / RATE_HZ))
    write_data_dir(out / name, utterances)
    seconds = sum(utt.duration_s for utt in utterances)
    say(f"{name}: {len(utterances)} utterances, {seconds:.0f} s, {len(speakers)} speakers")


def main():
    parser = make_parser(__doc__)
    add_common(parser, out="folder of the corpus, such as data/tiny", seed=True)
    args = parser.parse_args()
    out, taken = Path(args.out), set()
    for name in SIZES:
        write_set(name, args.seed, taken, out)
    write_text(out / "words.txt", "".join(f"{word}\n" for word in sorted(WORDS)))


if __name__ == "__main__":
    sys.exit(run_main(main))

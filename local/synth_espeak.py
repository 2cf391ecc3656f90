"""Speak a list of sentences with espeak-ng, one 16-bit mono WAV file (22.05 kHz) each.

    python3 local/synth_espeak.py --jobs data/home/jobs.tsv --nj 2

Each line of the list holds eight fields separated by tabs: utterance id, voice (`en-us+m3`), rate (words a minute),
pitch (0-100), pitch range (0-100), word gap (units of 10 ms), text, WAV file to write. Lines of one voice are spoken
in their order.

espeak-ng keeps hidden state from one sentence to the next, so every voice is spoken by a freshly forked process of its
own: the files are then byte-identical in every run and for every --nj.

Licence: espeak-ng is under the GPL, version 3. This program loads it as a library, at run time, from the package
espeakng-loader; it stands alone: it imports nothing of this project, nothing imports it, it exchanges files only.
"""

import argparse
import ctypes
import os
import sys
import time
import wave

AUDIO_OUTPUT_SYNCHRONOUS = 2
DONT_EXIT_ON_ERROR = 0x8000
CHARS_UTF8 = 1
POSITION_CHARACTER = 1
RATE, PITCH, RANGE, WORD_GAP = 1, 3, 4, 7
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
FIELDS = ("utterance id", "voice", "rate", "pitch", "range", "gap", "text", "file")
SILENCE_LEVEL = 64
SPEAKING_LIMITS = {"rate": (80, 450), "pitch": (0, 100), "range": (0, 100), "gap": (0, 100)}


class SynthesisError(Exception):
    """A list, a voice or a sentence that cannot be spoken; the message is one sentence."""


class Engine:
    """espeak-ng in this process; make one per process."""

    def __init__(self):
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = os.fsencode(espeakng_loader.get_data_path())
        self.rate_hz = self.library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, DONT_EXIT_ON_ERROR)
        if self.rate_hz <= 0:
            raise SynthesisError("espeak-ng did not start: its data folder is not readable; reinstall espeakng-loader")
        self.chunks = []
        self.callback = CALLBACK(self._collect)
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples, count, _events):
        if samples and count > 0:
            self.chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def set_voice(self, voice):
        """Choose a voice such as `en-us+m3`. Raises: SynthesisError when this espeak-ng does not have it."""
        import espeakng_loader

        variant = voice.partition("+")[2]
        path = os.path.join(espeakng_loader.get_data_path(), "voices", "!v", variant)
        if not os.path.exists(path) or self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SynthesisError(f"espeak-ng has no voice {voice!r}; run pip install -r requirements-home.txt")

    def speak(self, text, rate, pitch, pitch_range, gap):
        """Speak one sentence. Returns: bytes, 16-bit samples at `rate_hz`."""
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range), (WORD_GAP, gap)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self.chunks.clear()
        data = text.encode() + b"\0"
        status = self.library.espeak_Synth(data, len(data), 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None)
        samples = b"".join(self.chunks)
        loudest = max(memoryview(samples).cast("h"), default=0)
        if status != 0 or loudest < SILENCE_LEVEL:
            raise SynthesisError(f"espeak-ng said nothing for {text!r}")
        return samples


def read_jobs(path):
    """Read the list. Returns: {voice: [(text, (rate, pitch, range, gap), file)]}, in the order of the list."""
    voices, files, expected = {}, set(), f"{len(FIELDS)} fields separated by tabs: {', '.join(FIELDS)}"
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != len(FIELDS) or not all(fields):
                raise SynthesisError(f"{path}:{number}: expected {expected}")
            job = dict(zip(FIELDS, fields, strict=True))
            for name, (low, high) in SPEAKING_LIMITS.items():
                if not job[name].isdecimal() or not low <= int(job[name]) <= high:
                    raise SynthesisError(f"{path}:{number}: {name} {job[name]!r} is no whole number in {low}..{high}")
            if job["file"] in files:
                raise SynthesisError(f"{path}:{number}: {job['file']} is written twice")
            files.add(job["file"])
            numbers = tuple(int(job[name]) for name in SPEAKING_LIMITS)
            voices.setdefault(job["voice"], []).append((job["text"], numbers, job["file"]))
    if not voices:
        raise SynthesisError(f"{path}: the list is empty")
    return voices


def write_wav(path, samples, rate_hz):
    """Write a mono 16-bit WAV file to a temporary sibling, then rename it."""
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    # the same in every run: what a killed one left is written over
    temp = os.path.join(folder, f".{name}.tmp")
    with wave.open(temp, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples)
    os.replace(temp, path)


def speak_voice(voice, jobs):
    """Speak all sentences of one voice. Meant for a fresh process."""
    engine = Engine()
    engine.set_voice(voice)
    for text, numbers, path in jobs:
        write_wav(path, engine.speak(text, *numbers), engine.rate_hz)


def start_voice(voice, jobs):
    """Fork a process that speaks one voice and leaves. Returns: its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        speak_voice(voice, jobs)
        status = 0
    except (SynthesisError, OSError) as error:
        print(f"synth_espeak.py: error: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def speak_all(voices, nj):
    """Speak every voice in a process of its own, at most `nj` at a time. Raises: SynthesisError when one failed."""
    waiting, running, done = list(voices), set(), 0
    while waiting or running:
        while waiting and len(running) < nj:
            voice = waiting.pop(0)
            running.add(start_voice(voice, voices[voice]))
        pid, status = os.wait()
        running.discard(pid)
        if status != 0:
            waiting.clear()
            for _ in range(len(running)):
                os.wait()
            raise SynthesisError("a voice could not be spoken; see the line above")
        done += 1
        if done % 50 == 0 or done == len(voices):
            print(f"voice {done}/{len(voices)}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--jobs", required=True, metavar="TSV", help="list of sentences")
    parser.add_argument("--nj", type=int, default=1, metavar="N", help="voices spoken at the same time (default: 1)")
    args = parser.parse_args()
    if args.nj < 1:
        parser.error("--nj must be at least 1")
    start_s = time.monotonic()
    try:
        import espeakng_loader  # noqa: F401  is it there? only the processes that speak use it

        voices = read_jobs(args.jobs)
        speak_all(voices, args.nj)
    except ImportError:
        print("synth_espeak.py: error: no espeakng_loader; pip install -r requirements-home.txt", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except (SynthesisError, OSError) as error:
        print(f"synth_espeak.py: error: {error}", file=sys.stderr)
        return 1
    count = sum(map(len, voices.values()))
    print(f"spoke {count} sentences with {len(voices)} voices in {time.monotonic() - start_s:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

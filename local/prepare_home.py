"""Make the corpus of recipe `home`: smart-home commands, spoken by espeak-ng in many voices.

    python3 local/prepare_home.py --out data/home

Writes data folders train, dev and test, the word list words.txt, jobs.tsv (what was spoken, with which settings) and
audio/. Test sentences are drawn first, then dev, then train; no sentence occurs in two sets, and neither does a voice.
espeak-ng runs in a process of its own (local/synth_espeak.py); it needs `pip install -r requirements-home.txt`.
"""

import hashlib
import importlib.util
import os
import random
import re
import subprocess
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import write_text
from steps.core.tables import counted

# SHA-256 of the default list of sentences, voices and settings. Scores of this corpus compare only while it holds.
LIST_SHA256 = "b2711a56cdc290497c893785a4399dcff749e78de1bfca0bf0a64a44caef5cdb"
DEFAULT_SIZES = {"test": 400, "dev": 150, "train": 1200}

ACCENTS = {
    "us": "en-us",
    "nyc": "en-us-nyc",
    "gb": "en",
    "rp": "en-gb-x-rp",
    "scot": "en-gb-scotland",
    "lanc": "en-gb-x-gbclan",
    "wmid": "en-gb-x-gbcwmd",
    "carib": "en-029",
}
# Voice variants of espeak-ng 1.52, divided at random; near-copies (klatt, klatt2, ...) stay on the training side. Left out:
# comic ones, and those that do not repeat byte for byte (Alicia Demonic f2 f3 f5 sandro victor whisper whisperf).
TRAIN_VARIANTS = """Alex Andrea Andy Diogo Gene Gene2 Hugo Jacky Lee Mike Nguyen RicishayMax RicishayMax2 RicishayMax3
    Storm Tweaky announcer aunty boris caleb edward edward2 f1 grandpa ian iven iven2 iven3 iven4 klatt klatt2 klatt3
    klatt4 klatt5 klatt6 linda m2 m4 m5 m7 marcelo max miguel mike2 norbert quincy rob robert steph steph2 steph3
    zac"""
DEV_VARIANTS = "Denis Mario antonio benjamin ed f4 grandma kaukovalta pablo travis"
TEST_VARIANTS = """Annie AnxiousAndy Henrique Marco Michael Reed adam anika belinda david gustave john m1 m3 m6 m8
    michel paul pedro shelby"""
VARIANTS = {"train": TRAIN_VARIANTS, "dev": DEV_VARIANTS, "test": TEST_VARIANTS}
ACCENTS_PER_VARIANT = {"train": 4, "dev": 1, "test": 1}

BELOW_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def number_words(number):
    """Say a number from 0 to 99, such as `twenty five`."""
    small = BELOW_TWENTY.split()
    if number < 20:
        return small[number]
    return TENS.split()[number // 10 - 2] + (f" {small[number % 10]}" if number % 10 else "")


def clock_times():
    """List `one`, `one fifteen`, ... for every quarter of twelve hours."""
    quarters = ("", " fifteen", " thirty", " forty five")
    return [number_words(hour) + quarter for hour in range(1, 13) for quarter in quarters]


CHOICES = {
    "room": "kitchen|bedroom|bathroom|hallway|garage|office|attic|basement|nursery|living room|dining room",
    "light": "lights|lamp|ceiling light|night light",
    "device": "fan|heater|television|radio|camera|speaker",
    "cover": "blinds|curtains|shutters|window|door",
    "appliance": "oven|kettle|dishwasher|washing machine|coffee machine",
    "entrance": "front door|back door|garage door|garden gate|kitchen window|bedroom window",
    "colour": "red|green|blue|yellow|orange|purple|white",
    "genre": "jazz|rock|classical|country",
    "item": "apples|eggs|lemons|bananas|potatoes",
    "task": "feed the cat|walk the dog|water the plants|call mother|call the doctor|check the mail",
    "when": "on monday|on tuesday|on wednesday|on thursday|on friday|on saturday|on sunday|today|tomorrow",
    "onoff": "on|off",
    "updown": "up|down",
    "move": "open|shut|raise|lower",
    "lock": "lock|unlock",
    "start": "start|stop",
    "dim": "dim|brighten|set",
    "unit": "seconds|minutes|hours",
}
SLOTS = {name: choices.split("|") for name, choices in CHOICES.items()} | {
    "time": clock_times(),
    "count": [number_words(number) for number in range(2, 25)],
    "minutes": [number_words(number) for number in range(2, 60)],
    "percent": [number_words(number) for number in range(1, 100)],
    "degrees": [number_words(number) for number in range(12, 32)],
}
COMMANDS = [
    "turn {onoff} the {room} {light}",
    "turn the {room} {device} {onoff}",
    "switch {onoff} the {room} {device}",
    "{dim} the {room} {light} to {percent}",
    "make the {room} {light} {colour}",
    "set the {room} heater to {degrees} degrees",
    "keep the {room} at {degrees} degrees",
    "set a timer for {minutes} {unit}",
    "cancel the {minutes} minute timer",
    "cancel the alarm at {time}",
    "wake me at {time} {when}",
    "remind me to {task} at {time}",
    "remind me to {task} in {minutes} minutes",
    "play some {genre} music at {time}",
    "turn the music {updown} by {percent} percent",
    "{move} the {room} {cover}",
    "{lock} the {entrance} at {time}",
    "{start} the {appliance} in {minutes} minutes",
    "add {count} {item} to the list",
]
QUESTIONS = ["is the {room} {device} {onoff}", "how warm will it be at {time} {when}"]
POLITE = ["{}", "{}", "{}", "{}", "{}", "{} please", "please {}", "could you {}"]


@dataclass(frozen=True)
class Job:
    """One utterance to speak: rate in words a minute, pitch and range 0-100, gap in units of 10 ms."""

    set_name: str
    utt_id: str
    speaker: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    gap: int
    text: str

    def fields(self):
        numbers = (self.rate, self.pitch, self.pitch_range, self.gap)
        return [self.utt_id, self.voice, *map(str, numbers), self.text]


class Draw:
    """Random choices from `random.Random(seed).random()`, the one method Python promises never to change."""

    def __init__(self, *seed):
        self._random = random.Random("/".join(map(str, seed))).random

    def pick(self, items):
        return items[int(self._random() * len(items))]

    def whole(self, low, high):
        return low + int(self._random() * (high - low + 1))

    def shuffled(self, items):
        return sorted(items, key=lambda _: self._random())


def draw_sentence(draw):
    """Draw one command. Returns: (the bare command, the same with politeness), lower case."""
    template = draw.pick(COMMANDS + QUESTIONS)
    bare = re.sub(r"{(\w+)}", lambda match: draw.pick(SLOTS[match[1]]), template)
    return bare, bare if template in QUESTIONS else draw.pick(POLITE).format(bare)


def draw_sentences(draw, count, taken):
    """Draw `count` sentences whose bare command is not in `taken`, which grows by them."""
    sentences = []
    while len(sentences) < count:
        bare, sentence = draw_sentence(draw)
        if bare not in taken:
            taken.add(bare)
            sentences.append(sentence)
    return sentences


def draw_voices(draw, set_name):
    """List the voices of a set, mixed: (speaker id, espeak voice, rate, pitch, range, gap); accents take turns."""
    names, share, voices = list(ACCENTS), ACCENTS_PER_VARIANT[set_name], []
    for index, variant in enumerate(draw.shuffled(VARIANTS[set_name].split())):
        for turn in range(share):
            accent = names[(index + turn * len(names) // share) % len(names)]
            manner = (draw.whole(125, 170), draw.whole(40, 60), draw.whole(35, 65), draw.whole(0, 2))
            voices.append((f"{variant.lower()}-{accent}", f"{ACCENTS[accent]}+{variant}", *manner))
    return draw.shuffled(voices)


def make_jobs(seed, sizes):
    """List everything to speak. Args: sizes: {"train": utterances, "dev": .., "test": ..}. Returns: list of Job."""
    taken, jobs = set(), []
    for set_name in ("test", "dev", "train"):
        sentences = draw_sentences(Draw(seed, set_name, "sentences"), sizes[set_name], taken)
        draw = Draw(seed, set_name, "voices")
        voices = draw_voices(draw, set_name)
        for index, text in enumerate(sentences):
            speaker, voice, rate, pitch, pitch_range, gap = voices[index % len(voices)]
            utt_id = f"{speaker}-{index // len(voices) + 1:04d}"
            rate, pitch = rate + draw.whole(-8, 8), pitch + draw.whole(-4, 4)
            jobs.append(Job(set_name, utt_id, speaker, voice, rate, pitch, pitch_range, gap, text))
    return sorted(jobs, key=lambda job: (job.voice, job.utt_id))


def list_sha256(jobs):
    """SHA-256 of who says what and how, not of the audio, which another CPU may round differently."""
    return hashlib.sha256("".join("\t".join([job.set_name, *job.fields()]) + "\n" for job in jobs).encode()).hexdigest()


def check_list():
    """Raise UserError when the default list is not the pinned one: another corpus must not bear the same name."""
    found = list_sha256(make_jobs(0, DEFAULT_SIZES))
    if found != LIST_SHA256:
        raise UserError(f"{__file__}: the default list has SHA-256 {found}; undo the change, or set LIST_SHA256 to it")


def all_words():
    """Every word the commands can contain, sorted."""
    texts = COMMANDS + QUESTIONS + POLITE + [value for values in SLOTS.values() for value in values]
    return sorted(set(re.sub(r"{\w*}", " ", " ".join(texts)).split()))


def speak(jobs, out, nj):
    """Write the job list and have it spoken. Returns: {utterance id: WAV path}."""
    paths = {job.utt_id: str(out / "audio" / job.speaker / f"{job.utt_id}.wav") for job in jobs}
    write_text(out / "jobs.tsv", "".join("\t".join([*job.fields(), paths[job.utt_id]]) + "\n" for job in jobs))
    program = [sys.executable, str(ROOT / "local" / "synth_espeak.py")]
    if subprocess.run([*program, "--jobs", str(out / "jobs.tsv"), "--nj", str(nj)], check=False).returncode != 0:
        raise UserError("speaking the sentences failed; the reason stands in the lines above")
    return paths


def write_sets(jobs, paths, out):
    """Write the data folders of the sets that have utterances, and say how big they are."""
    for set_name in ("train", "dev", "test"):
        utterances = []
        for job in (job for job in jobs if job.set_name == set_name):
            with wave.open(paths[job.utt_id]) as file:
                duration_s = file.getnframes() / file.getframerate()
            audio = paths[job.utt_id]
            utterances.append(Utterance(job.utt_id, job.speaker, job.text, audio, duration_s=duration_s))
        write_data_dir(out / set_name, utterances)
        minutes, speakers = sum(utt.duration_s for utt in utterances) / 60, len({utt.speaker for utt in utterances})
        words = sum(len(utt.text.split()) for utt in utterances)
        counts = f"{counted(len(utterances), 'utterance')}, {counted(words, 'word')}"
        say(f"{set_name}: {counts}, {minutes:.1f} minutes, {counted(speakers, 'voice')}")


def main():
    parser = make_parser(__doc__)
    add_common(parser, out="folder of the corpus, such as data/home", seed=True)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--nj", type=int, default=cores, metavar="N", help="voices at a time (default: all cores)")
    for name, count in DEFAULT_SIZES.items():
        text = f"utterances of {name} (default: {count})"
        parser.add_argument(f"--num-{name}", type=int, default=count, metavar="N", help=text)
    args = parser.parse_args()
    sizes = {name: getattr(args, f"num_{name}") for name in DEFAULT_SIZES}
    if args.nj < 1 or min(sizes.values()) < 1:
        parser.error("--nj and the numbers of utterances must be at least 1")
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError("the Python package espeakng_loader is missing; run pip install -r requirements-home.txt")
    check_list()
    jobs, out = make_jobs(args.seed, sizes), Path(args.out)
    same = list_sha256(jobs) == LIST_SHA256
    say(f"list of sentences and voices: {list_sha256(jobs)} ({'the default one' if same else 'not the default one'})")
    paths = speak(jobs, out, args.nj)
    write_text(out / "words.txt", "".join(f"{word}\n" for word in all_words()))
    write_sets(jobs, paths, out)


if __name__ == "__main__":
    sys.exit(run_main(main))

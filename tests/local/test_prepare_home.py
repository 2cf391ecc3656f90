"""Corpus of recipe home: what its list promises, and the data folders it writes."""

import collections
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from steps.core.cli import UserError
from steps.core.datadir import read_data_dir

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "local" / "prepare_home.py"
POLITE = {"please", "could", "you"}
has_espeak = importlib.util.find_spec("espeakng_loader") is not None
needs_espeak = pytest.mark.skipif(not has_espeak, reason="espeakng_loader (requirements-home.txt) is not installed")


@pytest.fixture(scope="module")
def home():
    spec = importlib.util.spec_from_file_location("prepare_home", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def sets(home):
    by_set = collections.defaultdict(list)
    for job in home.make_jobs(0, home.DEFAULT_SIZES):
        by_set[job.set_name].append(job)
    return by_set


def commands(jobs):
    """The sentences without politeness."""
    return {" ".join(word for word in job.text.split() if word not in POLITE) for job in jobs}


def pairs_of_sets(sets):
    return [(sets["train"], sets["dev"]), (sets["train"], sets["test"]), (sets["dev"], sets["test"])]


def test_the_default_list_is_the_pinned_one(home):
    home.check_list()


def test_a_changed_grammar_is_refused(home, monkeypatch):
    monkeypatch.setattr(home, "COMMANDS", home.COMMANDS[:-1])
    with pytest.raises(UserError, match="SHA-256"):
        home.check_list()


def test_sizes(home, sets):
    assert {name: len(jobs) for name, jobs in sets.items()} == home.DEFAULT_SIZES
    ids = [job.utt_id for jobs in sets.values() for job in jobs]
    assert len(set(ids)) == len(ids)


def test_no_command_is_in_two_sets(sets):
    for some, others in pairs_of_sets(sets):
        assert not commands(some) & commands(others)


def test_no_voice_variant_is_in_two_sets(sets):
    for some, others in pairs_of_sets(sets):
        variants = [{job.voice.split("+")[1] for job in jobs} for jobs in (some, others)]
        assert not variants[0] & variants[1]


def test_enough_unseen_voices_and_every_accent_everywhere(home, sets):
    assert len({job.speaker for job in sets["dev"]}) >= 10
    assert len({job.speaker for job in sets["test"]}) >= 20
    for jobs in sets.values():
        assert {job.voice.split("+")[0] for job in jobs} == set(home.ACCENTS.values())


def test_a_speaker_is_one_voice(sets):
    voices = collections.defaultdict(set)
    for job in (job for jobs in sets.values() for job in jobs):
        voices[job.speaker].add(job.voice)
        assert job.utt_id.startswith(f"{job.speaker}-")
    assert all(len(found) == 1 for found in voices.values())
    assert len({next(iter(found)) for found in voices.values()}) == len(voices)


def test_unstable_variants_are_left_out(sets):
    used = {job.voice.split("+")[1] for jobs in sets.values() for job in jobs}
    assert not used & {"Alicia", "Demonic", "f2", "f3", "f5", "sandro", "victor", "whisper", "whisperf"}


def test_train_knows_every_word_and_the_word_list_too(home, sets):
    words = {name: {word for job in jobs for word in job.text.split()} for name, jobs in sets.items()}
    assert words["train"] == set(home.all_words())
    assert words["dev"] | words["test"] <= words["train"]


def test_fewer_training_utterances_are_the_first_of_the_list(home, sets):
    fewer = home.make_jobs(0, home.DEFAULT_SIZES | {"train": 300})
    everything = {job for jobs in sets.values() for job in jobs}
    assert set(fewer) < everything
    assert {job for job in fewer if job.set_name == "test"} == set(sets["test"])


def test_another_seed_is_another_list(home):
    sizes = {"train": 50, "dev": 20, "test": 20}
    lists = [home.make_jobs(seed, sizes) for seed in (0, 1, 1)]
    assert home.list_sha256(lists[0]) != home.list_sha256(lists[1])
    assert lists[1] == lists[2]


def test_numbers_are_spelt_out(home):
    said = [home.number_words(number) for number in (0, 7, 10, 19, 20, 21, 99)]
    assert said == ["zero", "seven", "ten", "nineteen", "twenty", "twenty one", "ninety nine"]


def prepare(out, *options):
    sizes = ["--num-train", "12", "--num-dev", "5", "--num-test", "5"]
    command = [sys.executable, str(PROGRAM), "--out", str(out), *sizes, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


@needs_espeak
def test_data_folders(tmp_path):
    result = prepare(tmp_path / "one", "--nj", "1")
    assert result.returncode == 0, result.stderr
    for name, count in (("train", 12), ("dev", 5), ("test", 5)):
        utterances = read_data_dir(tmp_path / "one" / name)
        assert len(utterances) == count
        assert all(0.5 < utt.duration_s < 6.0 and Path(utt.audio).is_file() for utt in utterances)
    words = (tmp_path / "one" / "words.txt").read_text(encoding="utf-8").split("\n")
    assert {"kitchen", "percent"} < set(words)
    assert prepare(tmp_path / "two", "--nj", "2").returncode == 0
    one, two = (
        {wav.name: wav.read_bytes() for wav in tmp_path.glob(f"{side}/audio/*/*.wav")} for side in ("one", "two")
    )
    assert len(one) == 22
    assert one == two


def test_without_espeak_the_remedy_is_named(home, monkeypatch, tmp_path):
    monkeypatch.setattr(home.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["prepare_home.py", "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="requirements-home.txt"):
        home.main()
    assert not (tmp_path / "out").exists()

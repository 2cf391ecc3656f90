"""The doctor after real trainings on the tiny corpus: silent after sound ones, and naming the fault of each broken one."""

import json
import random
import shutil

import numpy as np
import pytest
import soundfile

from steps import combine_features, distill_student, extract_features
from steps.core.tables import read_table
from tests.training.conftest import in_process

pytestmark = pytest.mark.slow

SETTINGS = """
type: dnn
model: {d_model: 64, dropout: 0.0, context: 5, num_blocks: 2, block: {units: 96, splice: 1}}
loop: {epochs: %(epochs)s, max_batch_frames: %(frames)s, average_last: 1, dev_every: 100}
optim: {peak_lr: %(rate)s}
end_spaces: true
"""
SOUND = {"epochs": 50, "frames": 600, "rate": 5.0e-3}


@pytest.fixture(scope="module")
def sets(corpus, tmp_path_factory):
    """Function (name, change) -> data folder of train or dev, features included; `change` edits wav.scp and so on before."""
    place = tmp_path_factory.mktemp("doctor")

    def make(source, name, change=lambda folder: None):
        folder = place / name
        folder.mkdir()
        for file in (corpus.train.parent / source).iterdir():
            if file.is_file() and file.name not in ("feats.scp", "cmvn.json", "utt2num_frames"):
                shutil.copy(file, folder / file.name)
        change(folder)
        for program, words in (
            (
                extract_features,
                ["--config", corpus.features, "--out", folder / "feats", "--shard", 1, "--num-shards", 1],
            ),
            (combine_features, ["--feats", folder / "feats", "--num-shards", 1, "--cmvn", folder / "cmvn.json"]),
        ):
            done = in_process(program, "--data", folder, *words)
            assert done.returncode == 0, done.stderr
        return folder

    return make


@pytest.fixture(scope="module")
def train(sets):
    return sets("train", "train")


@pytest.fixture(scope="module")
def dev(sets):
    return sets("dev", "dev")


def diagnosis(corpus, folder, train, dev, **changes):
    """Train, and return {kind: text} of what the doctor says."""
    config = folder / "student.yaml"
    config.write_text(SETTINGS % (SOUND | changes))
    words = ["--data", train, "--dev", dev, "--tokenizer", corpus.tokenizer, "--features", corpus.features]
    words += ["--config", config, "--out", folder / "student", "--device", "cpu", "--num-threads", 1]
    done = in_process(distill_student, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "student/diagnosis.json").read_text())
    print(found)
    return {one["kind"]: one["text"] for one in found["findings"]}


def write_text(folder, change):
    """Give each utterance another text. Args: change: function of the list of texts."""
    table = read_table(folder / "text")
    texts = change(list(table.values()))
    (folder / "text").write_text("".join(f"{utt} {text}\n" for utt, text in zip(table, texts, strict=True)))


def write_sound(folder, change):
    """Write other sound. Args: change: function of samples and rate in Hz, which returns others."""
    lines = []
    (folder / "wav").mkdir()
    for utt, path in read_table(folder / "wav.scp").items():
        samples, rate = change(*soundfile.read(path))
        soundfile.write(folder / "wav" / f"{utt}.wav", samples, rate)
        lines.append(f"{utt} {folder / 'wav' / f'{utt}.wav'}\n")
    (folder / "wav.scp").write_text("".join(lines))


def shuffled(texts):
    return random.Random(0).sample(texts, len(texts))


@pytest.mark.parametrize("change", [{}, {"rate": 2.5e-3}, {"frames": 1200}], ids=str)
def test_it_says_nothing_after_a_sound_training(corpus, tmp_path, train, dev, change):
    assert diagnosis(corpus, tmp_path, train, dev, **change) == {}


@pytest.mark.parametrize(
    "kind, change",
    [("diverged", {"rate": 0.5}), ("underfit", {"rate": 5.0e-5}), ("updates", {"epochs": 1})],
    ids=["rate of learning 100 times too high", "100 times too low", "one epoch"],
)
def test_it_names_settings_that_do_not_learn(corpus, tmp_path, train, dev, kind, change):
    found = diagnosis(corpus, tmp_path, train, dev, **change)
    assert kind in found and "underfit" in found
    assert ("optim.peak_lr (5e-05) is low" in found["underfit"]) is (change.get("rate") == 5.0e-5)


def test_it_names_shuffled_transcripts(corpus, tmp_path, sets, dev):
    def shuffle(folder):
        # every second utterance twice, because the corpus has transcripts of much the same length
        twice = iter([1, 2] * 999)
        write_sound(folder, lambda x, rate: (np.tile(x, next(twice)), rate))
        (folder / "utt2dur").unlink()
        write_text(folder, lambda texts: shuffled([" ".join([t] * (1 + i % 2)) for i, t in enumerate(texts)]))

    broken = sets("train", "shuffled", shuffle)
    assert "labels" in diagnosis(corpus, tmp_path, broken, dev)


def test_it_names_silence(corpus, tmp_path, sets, dev):
    broken = sets("train", "silent", lambda folder: write_sound(folder, lambda x, rate: (0 * x, rate)))
    assert "silence" in diagnosis(corpus, tmp_path, broken, dev)


def test_it_names_sound_of_another_rate(corpus, tmp_path, sets, dev):
    broken = sets("train", "narrow", lambda folder: write_sound(folder, lambda x, rate: (x[::2], rate // 2)))
    assert "rate" in diagnosis(corpus, tmp_path, broken, dev)


def test_it_names_letters_that_the_tokenizer_has_not(corpus, tmp_path, sets, dev):
    broken = sets("train", "capitals", lambda folder: write_text(folder, lambda texts: [t.upper() for t in texts]))
    assert "unknown" in diagnosis(corpus, tmp_path, broken, dev, epochs=5)


def test_it_names_transcripts_that_do_not_fit(corpus, tmp_path, sets, dev):
    half = lambda texts: [" ".join([t] * 12) if i % 3 == 0 else t for i, t in enumerate(texts)]  # noqa: E731
    broken = sets("train", "long", lambda folder: write_text(folder, half))
    assert "too_short" in diagnosis(corpus, tmp_path, broken, dev, epochs=5)


def test_it_names_one_speaker(corpus, tmp_path, sets):
    def one(folder):
        utts = list(read_table(folder / "text"))
        (folder / "utt2spk").write_text("".join(f"{utt} a\n" for utt in utts))
        (folder / "spk2utt").write_text(f"a {' '.join(utts)}\n")

    assert "one_speaker" in diagnosis(corpus, tmp_path, sets("train", "one", one), sets("dev", "one_dev", one))


def test_it_names_what_was_learnt_by_heart(corpus, tmp_path, sets, train):
    noise = np.random.default_rng(0)
    strange = sets(
        "dev", "strange", lambda folder: write_sound(folder, lambda x, rate: (x + noise.normal(0, 0.05, len(x)), rate))
    )
    assert "overfit" in diagnosis(corpus, tmp_path, train, strange)

"""Statistics of a data folder: figures that are known beforehand, and a page that text cannot break out of."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps.core.datadir import Utterance, write_data_dir
from steps.data.statistics import estimate_snr, format_page, format_text, histogram, levels, summarise

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


def tone(seconds, level=0.5):
    return level * np.sin(2 * np.pi * 200 * np.arange(round(seconds * RATE)) / RATE)


def test_level_peak_clipping_and_offset():
    found = levels(tone(1))
    assert found["level_dbfs"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert found["peak"] == pytest.approx(0.5, abs=1e-3) and found["clipped"] == 0 and abs(found["offset"]) < 1e-9
    assert levels(np.clip(tone(1, 2.0), -1, 1))["clipped"] > 0.3
    assert levels(tone(1) + 0.1)["offset"] == pytest.approx(0.1)
    assert levels(np.zeros(RATE))["level_dbfs"] == -100


@pytest.mark.parametrize("snr_db", [5, 15, 30])
def test_the_estimate_follows_the_ratio(snr_db):
    rng = np.random.default_rng(0)
    speech = np.concatenate([np.zeros(RATE // 2), tone(2), np.zeros(RATE // 2)])
    noise = rng.standard_normal(len(speech)) * 0.5 / np.sqrt(2) * 10 ** (-snr_db / 20)
    assert estimate_snr(speech + noise) == pytest.approx(snr_db, abs=1.5)
    assert estimate_snr(np.ones(800)) is None


@pytest.fixture
def folder(tmp_path):
    texts = {"a-1": "<script>alert(1)</script> one", "a-2": "שלום one", "b-1": "हिन्दी two two"}
    utterances = []
    for number, (utt_id, text) in enumerate(texts.items()):
        path = tmp_path / f"{utt_id}.wav"
        soundfile.write(path, tone(1 + number), RATE)
        utterances.append(Utterance(utt_id, utt_id[0], text, str(path), duration_s=1.0 + number))
    write_data_dir(tmp_path / "data", utterances)
    write_data_dir(tmp_path / "train", [Utterance("c-1", "c", "one two", str(tmp_path / "a-1.wav"), duration_s=1.0)])
    return tmp_path


def test_the_program_writes_text_numbers_and_page(folder):
    options = ["--data", "data", "--words-of", "train", "--out", "stats"]
    command = [sys.executable, "-m", "steps.describe_data", *options]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    stats = json.loads((folder / "stats/stats.json").read_text(encoding="utf-8"))
    assert (stats["utterances"], stats["speakers"], stats["words"], stats["unknown_words"]) == (3, 2, 7, 3)
    assert stats["hours"] == pytest.approx(6 / 3600) and stats["spread"]["seconds"] == [1.0, 1.1, 2.0, 2.9, 3.0]
    assert sum(stats["histograms"]["seconds"]["counts"]) == 3
    page = (folder / "stats/stats.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert "שלום" in page and "हिन्दी" in page and "words not in training" in done.stdout


def test_a_set_without_transcripts_is_described_by_its_sound(folder):
    utterances = [Utterance("c-1", "c", "", str(folder / "a-1.wav"), duration_s=1.0)]
    write_data_dir(folder / "extra", utterances, need_text=False)
    command = [sys.executable, "-m", "steps.describe_data", "--data", "extra", "--out", "stats"]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
    stats = json.loads((folder / "stats/stats.json").read_text())
    assert stats["sound_read"] == 1 and {"words", "chars_per_s"}.isdisjoint(stats["spread"])
    assert "no transcripts" in (folder / "stats/stats.txt").read_text()
    done = subprocess.run([*command, "--words-of", "train"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode and "leave --words-of out" in done.stderr.splitlines()[-1]


def test_lengths_of_a_sample_are_not_those_of_the_set(folder):
    for number in range(4, 9):
        (folder / f"c-{number}.wav").write_bytes((folder / "a-1.wav").read_bytes())
    utterances = [Utterance(f"c-{number}", "c", "x", str(folder / f"c-{number}.wav")) for number in range(4, 9)]
    write_data_dir(folder / "data", utterances)
    for sample, read in ((3, 3), (4, 4), (5, 5), (9, 5)):
        command = [
            sys.executable,
            "-m",
            "steps.describe_data",
            "--data",
            "data",
            "--out",
            "stats",
            "--sample",
            str(sample),
        ]
        done = subprocess.run(
            command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=True
        )
        stats = json.loads((folder / "stats/stats.json").read_text())
        assert stats["sound_read"] == read and (stats["hours"] is None) == (read < 5)
        assert ("per_speaker" in stats["spread"]) == (read == 5)
        assert (f"unknown: lengths of {read} of 5 utterances are known" in done.stdout) == (read < 5)


def test_whole_numbers_are_counted_in_whole_steps():
    assert histogram([1, 1, 2, 5]) == {"edges": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5], "counts": [2, 1, 0, 0, 1]}
    wide = histogram(list(range(1, 101)))
    assert sum(wide["counts"]) == 100 and wide["edges"][1] - wide["edges"][0] == 4 and wide["counts"][0] == 4
    assert histogram([7])["counts"] == [1] and sum(histogram([0.5, 0.7])["counts"]) == 2


def test_an_unreadable_file_is_told_and_the_page_is_well_formed():
    utterances = [Utterance("a-1", "a", "x", "a.wav", duration_s=1.0)]
    stats = summarise("data & more", utterances, [], None, ["a-1: not a readable sound file"])
    # of those that were tried, not of those that were read
    tried = stats["sound_read"] + len(stats["unreadable"])
    assert f"unreadable       {len(stats['unreadable'])} of {tried}: " in format_text(stats)
    assert "unreadable" in format_text(stats) and "not a readable sound file" in format_text(stats)
    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)

    Reader().feed(format_page(stats))
    assert "svg" in tags and "table" in tags and "data &amp; more" in format_page(stats)

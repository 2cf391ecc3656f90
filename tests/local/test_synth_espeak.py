"""local/synth_espeak.py: the same bytes every time, whole files, and mistakes told in one sentence."""

import importlib.util
import subprocess
import sys
import wave
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "local" / "synth_espeak.py"
has_espeak = importlib.util.find_spec("espeakng_loader") is not None
needs_espeak = pytest.mark.skipif(not has_espeak, reason="espeakng_loader (requirements-home.txt) is not installed")
JOBS = [
    ("a1", "en-us+m3", "160", "50", "50", "1", "set the kitchen lamp to ten percent"),
    ("a2", "en-us+m3", "190", "40", "60", "0", "turn off the living room lights please"),
    ("b1", "en-gb-scotland+f1", "170", "55", "50", "2", "wake me at six thirty tomorrow"),
    ("c1", "en-029+klatt4", "150", "45", "40", "1", "open the blinds"),
]


def write_jobs(folder, jobs):
    path = folder / "jobs.tsv"
    lines = ["\t".join([*job, str(folder / "audio" / f"{job[0]}.wav")]) for job in jobs]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(jobs_file, *options):
    command = [sys.executable, str(PROGRAM), "--jobs", str(jobs_file), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def speak(folder, jobs, *options):
    folder.mkdir()
    result = run(write_jobs(folder, jobs), *options)
    assert result.returncode == 0, result.stderr
    return {path.name: path.read_bytes() for path in (folder / "audio").iterdir()}


@needs_espeak
def test_same_bytes_for_every_run_and_number_of_processes(tmp_path):
    first = speak(tmp_path / "first", JOBS, "--nj", "1")
    assert sorted(first) == [f"{job[0]}.wav" for job in JOBS]
    assert speak(tmp_path / "again", JOBS, "--nj", "1") == first
    assert speak(tmp_path / "parallel", JOBS, "--nj", "3") == first


@needs_espeak
def test_a_voice_does_not_depend_on_the_other_voices(tmp_path):
    everything = speak(tmp_path / "all", JOBS)
    alone = speak(tmp_path / "alone", [job for job in JOBS if job[1] == "en-gb-scotland+f1"])
    assert alone["b1.wav"] == everything["b1.wav"]


@needs_espeak
def test_settings_change_the_sound(tmp_path):
    slow, fast, high, other = (
        ("slow", "en-us+m3", "120", "50", "50", "1", "open the blinds"),
        ("fast", "en-us+m3", "240", "50", "50", "1", "open the blinds"),
        ("high", "en-us+m3", "120", "80", "50", "1", "open the blinds"),
        ("other", "en-us+f4", "120", "50", "50", "1", "open the blinds"),
    )
    sounds = speak(tmp_path / "x", [slow, fast, high, other])
    assert len(set(sounds.values())) == 4
    with wave.open(str(tmp_path / "x" / "audio" / "slow.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
    assert len(sounds["fast.wav"]) < 0.8 * len(sounds["slow.wav"])


@needs_espeak
@pytest.mark.parametrize(
    ("job", "message"),
    [
        (("x", "en-us+nobody", "160", "50", "50", "1", "hello"), "has no voice 'en-us+nobody'"),
        (("x", "xx-yy+m3", "160", "50", "50", "1", "hello"), "has no voice 'xx-yy+m3'"),
        (("x", "en-us+m3", "160", "50", "50", "1", "."), "said nothing"),
        (("x", "en-us+m3", "9", "50", "50", "1", "hello"), "jobs.tsv:1: rate '9'"),
        (("x", "en-us+m3", "160", "50", "50", "1", ""), "jobs.tsv:1: expected 8 fields"),
    ],
)
def test_mistakes_are_told_and_leave_no_file(tmp_path, job, message):
    result = run(write_jobs(tmp_path, [job]))
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("audio/*"))


def test_it_imports_nothing_of_ours():
    """The licence of espeak-ng asks for a program that stands alone."""
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.strip().startswith(("import ", "from "))}
    assert imported == {"argparse", "ctypes", "os", "sys", "time", "wave", "espeakng_loader"}

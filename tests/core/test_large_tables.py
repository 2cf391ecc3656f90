"""Tables left on disk: the tools do with them what they do in memory."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from steps.core import tables
from steps.core.cli import UserError
from steps.core.datadir import validate_data_dir
from steps.core.large_tables import LargeTable, Malformed, Part, plain_blocks
from steps.core.tables import parse_table, write_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """30 utterances of 6 speakers."""
    audio = tmp_path / "a b.wav"
    audio.touch()
    rows = {f"s{n // 5}-u{n:03d}": f"s{n // 5}" for n in range(30)}
    data = tmp_path / "data"
    write_table(data / "utt2spk", rows)
    write_table(data / "text", {utt: f"word{n} ü" for n, utt in enumerate(rows)})
    write_table(data / "wav.scp", dict.fromkeys(rows, str(audio)))
    write_table(data / "utt2dur", {utt: str(1 + n % 7) for n, utt in enumerate(rows)})
    write_table(data / "spk2utt", tables.spk2utt(rows))
    return data


def test_a_large_table_reads_as_one_in_memory(folder):
    for name in ("text", "spk2utt"):
        small, large = parse_table(folder / name, []), LargeTable(folder / name)
        assert list(large) == list(small) and len(large) == len(small)
        assert list(large.items()) == list(small.items()) and list(large.values()) == list(small.values())
        keys = [*small, "", "zz", *random.Random(0).sample(list(small), len(small))]
        assert [large.get(key) for key in keys] == [small.get(key) for key in keys]
        assert [large.where(key) for key in small] == [small.where(key) for key in small]
        keep = set(list(small)[::3])
        part = Part(large, keep)
        assert dict(part.items()) == {key: small[key] for key in keep} and len(part) == len(keep)
        blocks = list(plain_blocks(folder / name, 10))
        assert len(blocks) > 1 and [key.decode() for _, _, ids in blocks for key in ids] == list(small)


@pytest.mark.parametrize(
    "text", ["b 1\na 1\n", "a 1\na 2\n", "a 1", "a 1\r\n", " a 1\n", "a \xff\n", "\ufeffa 1\n", "a 1\n\nb 2\n"]
)
def test_what_is_not_plain_is_not_read_as_a_stream(tmp_path, text):
    (tmp_path / "t").write_bytes(text.encode("latin-1" if "\xff" in text else "utf-8"))
    with pytest.raises(Malformed):
        LargeTable(tmp_path / "t")


LOOK = """
import runpy, sys
from steps.core import tables
tables.LARGE_BYTES = int(sys.argv.pop(1))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def tool(large, name, *words):
    """Run a tool of utils/ that takes all tables for large ones, or none. Returns: CompletedProcess."""
    command = [sys.executable, "-c", LOOK, "0" if large else "999999999", f"utils/{name}.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    "words",
    [
        ["split_data_dir", "data", 4],
        ["split_data_dir", "data", 7, "--per-utt", "true"],
        ["subset_data_dir", "--first", 7, "data", "part"],
        ["subset_data_dir", "--shortest", 7, "data", "part"],
        ["subset_data_dir", "--per-spk", 2, "data", "part"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_tools_write_the_same_files(folder, tmp_path, words):
    made = []
    for large in (False, True):
        place = tmp_path / f"large-{large}"
        place.mkdir()
        (place / "data").symlink_to(folder)
        done = tool(large, words[0], *[place / word if word in ("data", "part") else word for word in words[1:]])
        assert done.returncode == 0, done.stderr
        top = [path for path in (place / "part", *folder.glob("split*")) if path.exists()]
        files = {path.relative_to(one): path.read_bytes() for one in top for path in one.rglob("*") if path.is_file()}
        made.append(files)
    assert made[0] == made[1] and len(made[0]) >= 5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text", lambda rows: rows[:3] + rows[4:]),
        ("wav.scp", lambda rows: [*rows, "zz x.wav\n"]),
        ("utt2dur", lambda rows: [rows[0].split()[0] + " long\n", *rows[1:]]),
        ("utt2spk", lambda rows: [rows[0].split()[0] + " s9\n", *rows[1:]]),
        ("text", lambda rows: rows[::-1]),
        ("spk2utt", lambda rows: rows[1:]),
    ],
)
def test_the_same_faults_are_told_with_the_same_words(folder, monkeypatch, name, change):
    rows = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(change(rows)))
    told = []
    for size in (10**9, 0):
        monkeypatch.setattr(tables, "LARGE_BYTES", size)
        with pytest.raises(UserError) as error:
            validate_data_dir(folder, on_disk=True)
        told.append(str(error.value))
    assert told[0] == told[1]

"""The index of a data folder: the same utterances as the folder's own reader, on disk or not, and never a stale one."""

import os
import pickle

import numpy as np
import pytest

from steps.core.cli import UserError
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.tables import write_table
from steps.data import index as index_module
from steps.data.index import count_tokens, open_index
from steps.data.tokenizer import train_tokenizer

TEXTS = ["aa b", "abc", "a", "ccc aab b", "übü ab", "b  b"]


def utterances(folder, segments, speeds):
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(TEXTS):
        audio = folder / f"clip{number // 2 if segments else number}.wav"
        audio.touch()
        limits = {"start_s": number * 1.0, "end_s": number + 1.5} if segments else {}
        speed = {"speed": 1.1} if speeds and number % 2 else {}
        yield Utterance(
            f"spk{number // 3}-u{number}", f"spk{number // 3}", text, str(audio), duration_s=1.5, **limits, **speed
        )


@pytest.fixture(params=[(False, False), (True, False), (False, True)])
def folder(tmp_path, request):
    rows = list(utterances(tmp_path / "audio", *request.param))
    write_data_dir(tmp_path / "data", rows)
    write_table(tmp_path / "data/utt2num_frames", {row.utt_id: str(10 + i) for i, row in enumerate(rows)})
    write_table(tmp_path / "data/feats.scp", {row.utt_id: f"feats.ark:{i}" for i, row in enumerate(rows)})
    return tmp_path / "data"


@pytest.fixture(params=["in memory", "on disk"])
def large(request, monkeypatch):
    """Whether the folder counts as large."""
    if request.param == "on disk":
        monkeypatch.setattr(index_module, "LARGE_BYTES", 1)
        monkeypatch.setattr(index_module, "BLOCK_BYTES", 40)
        monkeypatch.setattr(index_module, "ROWS", 2)
    return request.param == "on disk"


def test_the_index_gives_what_the_folder_says(folder, large):
    wanted = read_data_dir(folder)
    for index in (open_index(folder), open_index(folder), pickle.loads(pickle.dumps(open_index(folder)))):
        assert [index.utterance(number) for number in range(index.count)] == wanted
        assert [index.text(number) for number in range(index.count)] == [utt.text for utt in wanted]
        assert index.arrays["utt2num_frames"].tolist() == list(range(10, 16))
        assert index.value("feats.scp", 3, wanted[3].utt_id) == "feats.ark:3"
    assert (folder / ".index/index.json").exists() == large


def test_a_changed_folder_gets_a_new_index(folder, large):
    open_index(folder)
    texts = {utt.utt_id: utt.text + " c" for utt in read_data_dir(folder)}
    write_table(folder / "text", texts)
    assert open_index(folder).text(0) == "aa b c"


def test_a_folder_that_changes_under_an_open_index_is_noticed(folder, large):
    index = open_index(folder)
    table = (folder / "feats.scp").read_text().splitlines(keepends=True)
    with open(folder / "feats.scp", "r+") as file:
        file.write("".join(table[1:] + table[:1]))
    with pytest.raises(UserError, match="changed while it was in use"):
        index.value("feats.scp", 0, index.row("utt2spk", 0)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:-1],
        lambda rows: rows[::-1],
        lambda rows: [*rows, rows[-1]],
        lambda rows: [*rows[:-1], rows[-1].split()[0] + "\n"],
        lambda rows: [row.replace("\n", "\r\n") for row in rows],
    ],
    ids=["line gone", "not sorted", "twice", "empty", "DOS"],
)
def test_what_is_wrong_is_told_as_ever(folder, large, change):
    rows = (folder / "text").read_text().splitlines(keepends=True)
    (folder / "text").write_bytes("".join(change(rows)).encode())
    with pytest.raises(UserError, match="found; utils/fix_data_dir.py"):
        open_index(folder)


def test_tokens_and_repeats(folder, large):
    """Tokens that repeat the one before count within a text only; unknown characters are counted."""
    tokenizer = train_tokenizer(["ab c"])
    for _ in range(2):
        counts, repeats, unknown = count_tokens(open_index(folder), tokenizer)
        found = zip(counts.tolist(), repeats.tolist(), strict=True)
        for utt, numbers in zip(read_data_dir(folder), found, strict=True):
            tokens = tokenizer.encode(utt.text)
            assert numbers == (len(tokens), sum(a == b for a, b in zip(tokens, tokens[1:], strict=False)))
        assert unknown == {"ü": 2}
    assert np.asarray(counts).dtype == np.asarray(repeats).dtype == np.int32


def test_a_folder_that_cannot_be_written_does_without(folder, monkeypatch, capsys):
    monkeypatch.setattr(index_module, "LARGE_BYTES", 1)
    (folder / ".index").touch()
    assert open_index(folder).count == len(TEXTS)
    assert "cannot be written" in capsys.readouterr().out
    assert os.path.isfile(folder / ".index")

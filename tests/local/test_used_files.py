"""The list of files that a corpus was read from: written by the readers, compared by utils/inputs.py before anything runs."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from local.used_files import FILE_NAME, write_used_files
from tests.local import corpora
from tests.local.readers import good

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "utils"))

from inputs import changed_files, tree  # noqa: E402


def later(path):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.fixture
def work(tmp_path):
    """A work folder as run.sh has it."""
    for name in ("data/x", "exp/x", "corpus/wav/ann", "corpus/empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("text", "wav/ann/1.wav", "wav/ann/2.wav", "wav/notes", ".hidden"):
        (tmp_path / "corpus" / name).write_text(name)
    return tmp_path


def write(work, *names, corpus="corpus"):
    write_used_files(work / "data/x", str(work / corpus), [str(work / name) for name in names])
    return work / "data/x" / FILE_NAME


def test_every_reader_leaves_a_list_that_notices_each_file_it_used(tmp_path):
    for reader, make in (("kaldi", corpora.kaldi), ("timit", corpora.timit)):
        root = tmp_path / reader
        make(root)
        options = [] if reader == "kaldi" else ["--check-counts", "false"]
        good(reader, root, "--corpus-dir", root, *options)
        path = str(root / "out" / FILE_NAME)
        assert changed_files(path) == []
        used = {line.split("\t")[2] for line in Path(path).read_text().splitlines() if line[0].isdigit()}
        tables = [
            file for file in root.rglob("*") if file.name in ("text", "wav.scp", "utt2spk") or file.suffix == ".PHN"
        ]
        for file in [file for file in tables if "out" not in file.parts][:6]:
            later(file)
            assert changed_files(path) == [f"{file} changed"]
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 1))
        assert len([name for name in used if name.lower().endswith(".wav")]) >= 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda corpus: later(corpus / "text"), "text changed"),
        (lambda corpus: later(corpus / "wav/ann/1.wav"), "wav/ann/1.wav changed"),
        (lambda corpus: (corpus / "wav/ann/1.wav").unlink(), "wav/ann/1.wav is gone"),
        (lambda corpus: (corpus / "wav/ann/2.wav").unlink(), "wav/ann/2.wav is gone"),
        (lambda corpus: (corpus / "empty/3.wav").write_text("x"), "empty/3.wav is new"),
        (lambda corpus: (corpus / "wav/bob").mkdir(), "wav/bob is new"),
        (lambda corpus: later(corpus / "wav/ann/2.wav"), None),
        (lambda corpus: later(corpus / ".hidden"), None),
        (lambda corpus: (corpus / "wav/.x.swp").write_text("x"), None),
    ],
)
def test_what_is_noticed(work, change, said):
    path = write(work, "corpus/wav/ann/1.wav")
    change(work / "corpus")
    assert changed_files(str(path)) == ([f"{work}/corpus/{said}"] if said else [])


def test_sound_files_elsewhere_are_listed_and_those_made_here_are_not(work):
    for name in ("elsewhere.wav", "data/x/audio/made.wav"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
    path = write(work, "elsewhere.wav", "data/x/audio/made.wav", "corpus/wav/ann/1.wav")
    assert "made.wav" not in path.read_text()
    later(work / "elsewhere.wav")
    assert changed_files(str(path)) == [f"{work}/elsewhere.wav changed"]


def test_a_work_folder_that_holds_its_corpus_may_be_moved_and_a_corpus_may_hold_the_work_folder(work):
    write(work, "corpus/wav/ann/1.wav")
    moved = work.with_name("moved")
    shutil.copytree(work, moved)
    shutil.rmtree(work)
    assert changed_files(f"{moved}/data/x/{FILE_NAME}") == []
    later(moved / "corpus/text")
    assert changed_files(f"{moved}/data/x/{FILE_NAME}") == [f"{moved}/corpus/text changed"]
    path = write(moved, "corpus/wav/ann/1.wav", corpus=".")
    (moved / "exp/x/new").write_text("x")
    (moved / "data/x/new").write_text("x")
    assert changed_files(str(path)) == []


def test_odd_names_and_links(work):
    corpus = work / "corpus"
    (corpus / "a\nb\tc").write_text("x")
    (corpus / "gone").symlink_to("nowhere")
    (corpus / "loop").symlink_to(corpus)
    (corpus / "linked").symlink_to(corpus / "wav")
    path = str(write(work, "corpus/wav/ann/1.wav"))
    assert changed_files(path) == []
    later(corpus / "a\nb\tc")
    assert changed_files(path) == [f"{corpus}/a\nb\tc changed"]
    Path(path).write_text("damaged\n")
    assert len(changed_files(path)) == 1


def test_an_archive_or_no_corpus_at_all_gives_a_list_without_files(work):
    for corpus in ("corpus/text", "nothing"):
        path = write(work, corpus=corpus)
        assert changed_files(str(path)) == [] and len(path.read_text().splitlines()) == 1


def test_a_link_that_leads_to_itself_hides_no_other_file(work):
    (work / "corpus/wav/ann/0").symlink_to("0")
    (work / "corpus/wav/more").symlink_to(work / "corpus/wav/ann")
    path = write(work, "corpus/wav/ann/1.wav", "corpus/wav/ann/2.wav")
    assert changed_files(str(path)) == []
    assert {"text", "wav/ann/1.wav", "wav/ann/2.wav", "wav/notes"} == {row[0] for row in tree(str(work / "corpus"))}
    later(work / "corpus/wav/ann/2.wav")
    assert changed_files(str(path)) == [f"{work}/corpus/wav/ann/2.wav changed"]

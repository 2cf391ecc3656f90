"""Transcripts for a data folder without any: by a program, by a recogniser, whole or in parts."""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps import transcribe, transcribe_data
from steps.core.cli import MissingInput, UserError, run_main
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.tables import read_table
from steps.data.feature_config import FeatureConfig

ROOT = Path(__file__).resolve().parents[1]
# says how long each file is, in tenths of a second, and nothing of a silent one
LISTENER = """
import sys, soundfile
for line in sys.stdin:
    utt_id, path = line.split()
    samples, rate = soundfile.read(path)
    assert rate == 8000 and samples.ndim == 1
    print(utt_id, " ".join(["tenth"] * round(10 * len(samples) / rate)) if abs(samples).max() > 0 else "")
"""


@pytest.fixture
def data(tmp_path):
    """A data folder without text: three utterances in two files, the last one silent."""
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.1 * random.standard_normal(16000), 16000)
    soundfile.write(tmp_path / "b.wav", np.zeros(8000), 16000)
    a, b = str(tmp_path / "a.wav"), str(tmp_path / "b.wav")
    utterances = [
        Utterance("a-1", "a", "?", a, end_s=0.3, duration_s=0.3),
        Utterance("a-2", "a", "?", a, start_s=0.5, end_s=1.0, duration_s=0.5),
        Utterance("b-1", "b", "?", b, end_s=0.5, duration_s=0.5),
    ]
    write_data_dir(tmp_path / "data", utterances)
    (tmp_path / "data" / "text").unlink()
    (tmp_path / "listen.py").write_text(LISTENER)
    return tmp_path / "data"


def run(monkeypatch, data, *options):
    argv = ["transcribe_data", "--data", data, "--out", data.parent / "heard", *options]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    transcribe_data.main()


def by_command(data, script=None):
    if script is not None:
        (data.parent / "listen.py").write_text(script)
    return ["--rate", "8000", "--command", f"{sys.executable} {data.parent / 'listen.py'}"]


def test_a_program_hears_each_utterance_alone(monkeypatch, data):
    run(monkeypatch, data, *by_command(data))
    heard = read_data_dir(data.parent / "heard")
    assert {utt.utt_id: utt.text for utt in heard} == {"a-1": "tenth tenth tenth", "a-2": " ".join(["tenth"] * 5)}
    assert [(utt.start_s, utt.end_s) for utt in heard] == [(0.0, 0.3), (0.5, 1.0)]
    assert (data.parent / "heard/dropped.tsv").read_text() == "b-1\tnothing recognised\n"
    assert not (data / "text").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("print('a-1 x')", "wrote no line for 2 utterances: a-2 b-1"),
        ("print('a-1 x\\na-1 y')", "line 2 of its output: 'a-1' is there twice"),
        ("print('c-9 x')", "line 1 of its output: 'c-9' was not asked about"),
        ("print('a-1\\na-2\\nb-1')", "no transcript of any of 3 utterances .nothing recognised: 3."),
    ],
)
def test_a_program_that_does_not_keep_to_the_rules(monkeypatch, data, script, said):
    with pytest.raises(UserError, match=said):
        run(monkeypatch, data, *by_command(data, script))
    assert not (data.parent / "heard" / "text").exists()


def test_only_a_line_feed_ends_a_line(monkeypatch, data):
    run(monkeypatch, data, *by_command(data, "print('a-1 one\\u2028two\\x0bthree\\r\\na-2 x\\nb-1 y')"))
    assert [utt.text for utt in read_data_dir(data.parent / "heard")] == ["one two three", "x", "y"]


def test_no_shell_sees_the_command(monkeypatch, data):
    with pytest.raises(UserError, match="no program no-such-program;"):
        run(monkeypatch, data, "--command", f"no-such-program; touch {data.parent}/pwned")
    with pytest.raises(UserError, match="no shell runs it, so [|] would be a word; write bash -c"):
        run(monkeypatch, data, "--command", f"cat | touch {data.parent}/pwned")
    assert not (data.parent / "pwned").exists()


@pytest.mark.parametrize("command, said", [(" ", "is empty"), ("cat 'a", "No closing quotation"), ("", "is empty")])
def test_a_command_that_cannot_be_run_is_refused_before_any_sound_is_read(monkeypatch, data, command, said):
    with pytest.raises(UserError, match=f"--command: .*{said}"):
        run(monkeypatch, data, "--command", command)
    assert not (data.parent / "heard").exists()


class Parrot:
    """Hears audio and says its name of a language."""

    hears, kinds, features, language = "audio", ("greedy",), FeatureConfig(), "guessed"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def use_words(self, words_file, folder, word_score=0.0):
        return None

    def recognise(self, heard, name):
        return {"greedy": f"{self.language} {round(10 * len(heard) / 16000)}"}


class Polyglot(Parrot):
    def use_language(self, language):
        self.language = language


@pytest.mark.parametrize(
    ("parrot", "options", "said"),
    [
        (Polyglot(), ["--language", "ml"], None),
        (Parrot(), ["--language", "ml"], "knows no languages"),
        (Parrot(), ["--words", "words.txt"], "cannot be limited to a word list"),
    ],
)
def test_a_recogniser_gets_what_it_is_asked_for(monkeypatch, data, parrot, options, said):
    monkeypatch.setattr(transcribe_data, "runtime_of", lambda *_: "sherpa-onnx")
    monkeypatch.setattr(transcribe_data, "load_recogniser", lambda *_, **__: parrot)
    if said:
        with pytest.raises(UserError, match=said):
            run(monkeypatch, data, "--model", "m", *options)
        return
    run(monkeypatch, data, "--model", "m", *options)
    assert [utt.text for utt in read_data_dir(data.parent / "heard")] == ["ml 3", "ml 5", "ml 5"]


def test_transcribe_does_not_ignore_a_word_list(monkeypatch, data):
    monkeypatch.setattr(transcribe, "load_recogniser", lambda *_, **__: Parrot())
    monkeypatch.setattr(sys, "argv", ["transcribe", "m", str(data.parent / "a.wav"), "--words", "words.txt"])
    with pytest.raises(UserError, match="m: cannot be limited to a word list; leave out --words"):
        transcribe.main()


class Doubter(Parrot):
    """As sure of its two words as the sound is long."""

    def recognise(self, heard, name):
        self.sure = [math.log(len(heard) / 16000), math.log(0.5)]
        return super().recognise(heard, name)


def test_how_sure_a_recogniser_is_stands_beside_the_text(monkeypatch, data):
    monkeypatch.setattr(transcribe_data, "runtime_of", lambda *_: "sherpa-onnx")
    for doubter, wanted in ((Doubter(), {"a-1": 0.15**0.5, "a-2": 0.5, "b-1": 0.5}), (Parrot(), None)):
        monkeypatch.setattr(transcribe_data, "load_recogniser", lambda *_, it=doubter, **__: it)
        run(monkeypatch, data, "--model", "m")
        path = data.parent / "heard/utt2confidence"
        if wanted is None:
            assert not path.exists()
        else:
            found = {key: float(value) for key, value in read_table(path).items()}
            assert found == pytest.approx(wanted, abs=1e-4)


class Reader(Doubter):
    """Takes a word list, from which its text is then."""

    words = None

    def use_words(self, words_file, folder, word_score=0.0):
        self.words = {"words": 1}
        return self.words

    def recognise(self, heard, name):
        return super().recognise(heard, name) | ({"lexicon": "ten"} if self.words else {})

    @property
    def kinds(self):
        return ("greedy", "lexicon") if self.words else ("greedy",)


def test_how_sure_it_is_of_other_words_is_not_told(monkeypatch, data):
    monkeypatch.setattr(transcribe_data, "runtime_of", lambda *_: "sherpa-onnx")
    monkeypatch.setattr(transcribe_data, "load_recogniser", lambda *_, **__: Reader())
    run(monkeypatch, data, "--model", "m")
    assert (data.parent / "heard/utt2confidence").is_file()
    run(monkeypatch, data, "--model", "m", "--words", "w.txt")
    assert {utt.text for utt in read_data_dir(data.parent / "heard")} == {"ten"}
    assert not (data.parent / "heard/utt2confidence").exists()


def combine(monkeypatch, data, parts):
    monkeypatch.setattr(sys, "argv", ["combine", str(data.parent / "heard"), "--parts", str(parts)])
    return run_main(runpy.run_path(str(ROOT / "utils/combine_data_dir.py"))["main"])


def test_a_single_part_is_whole(monkeypatch, data):
    assert combine(monkeypatch, data, 1) == MissingInput.status
    run(monkeypatch, data, "--shard", "1", "--num-shards", "1", *by_command(data))
    assert combine(monkeypatch, data, 1) == 0
    assert [utt.utt_id for utt in read_data_dir(data.parent / "heard")] == ["a-1", "a-2"]


def test_parts_are_put_together_and_a_missing_one_is_named(monkeypatch, data):
    for part in ("1", "3"):
        run(monkeypatch, data, "--shard", part, "--num-shards", "3", *by_command(data))
    assert combine(monkeypatch, data, 3) == MissingInput.status
    run(monkeypatch, data, "--shard", "2", "--num-shards", "3", *by_command(data))
    assert combine(monkeypatch, data, 3) == 0
    assert [utt.utt_id for utt in read_data_dir(data.parent / "heard")] == ["a-1", "a-2"]
    # of a part that has no utterance, too
    assert (data.parent / "heard/dropped.tsv").read_text() == "b-1\tnothing recognised\n"
    (data.parent / "heard/part.1/dropped.tsv").write_text("c-1\tnothing recognised\n")
    assert combine(monkeypatch, data, 3) == 0
    assert (data.parent / "heard/dropped.tsv").read_text() == "b-1\tnothing recognised\nc-1\tnothing recognised\n"


def test_parts_of_other_runs_are_refused(monkeypatch, data, capsys):
    """Without a word, a third of the transcripts would be lost, or the part that was being made again when it was killed."""
    for part in "123":
        run(monkeypatch, data, "--shard", part, "--num-shards", "3", *by_command(data))
    assert combine(monkeypatch, data, 2) == 1
    assert "part.1: one of 3 parts, not of 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="ended with status 3"):
        run(monkeypatch, data, "--shard", "2", "--num-shards", "3", *by_command(data, "import sys; sys.exit(3)"))
    assert combine(monkeypatch, data, 3) == MissingInput.status
    write_data_dir(data, [utt for utt in read_data_dir(data, need_text=False) if utt.utt_id != "a-1"], need_text=False)
    run(monkeypatch, data, "--shard", "2", "--num-shards", "3", *by_command(data, LISTENER))
    assert combine(monkeypatch, data, 3) == 1
    assert "part.2: made when --data had other utterances than for earlier parts" in capsys.readouterr().err


def test_exactly_one_source(monkeypatch, data):
    for options in ([], ["--model", "m", "--command", "c"]):
        with pytest.raises(SystemExit):
            run(monkeypatch, data, *options)


def test_an_answer_that_cannot_be_a_transcript_loses_itself_alone(monkeypatch, data, capsys):
    answers = {"a-1": "one", "a-2": "two \x07", "b-1": "<s> three"}
    script = f"import sys\nfor line in sys.stdin: print(line.split()[0], {answers!r}[line.split()[0]])\n"
    run(monkeypatch, data, *by_command(data, script))
    out = data.parent / "heard"
    assert {utt.utt_id: utt.text for utt in read_data_dir(out)} == {"a-1": "one"}
    rows = dict(line.split("\t") for line in (out / "dropped.tsv").read_text().splitlines())
    assert "control character '\\x07'" in rows["a-2"] and "the word <s>" in rows["b-1"]
    assert "transcripts of 1 utterance; left out control character" in capsys.readouterr().out


def test_sound_is_heard_not_older_features(monkeypatch, data):
    """Those in feats.scp may be of the sound as it was, or of settings that the recogniser does not know."""
    (data / "feats.scp").write_text("".join(f"{utt_id} nowhere.ark:1\n" for utt_id in ("a-1", "a-2", "b-1")))
    parrot = Polyglot()
    parrot.hears, parrot.language = "features", "frames"
    monkeypatch.setattr(transcribe_data, "runtime_of", lambda *_: "sherpa-onnx")
    monkeypatch.setattr(transcribe_data, "load_recogniser", lambda *_, **__: parrot)
    run(monkeypatch, data, "--model", "m")
    assert len(read_data_dir(data.parent / "heard")) == 3

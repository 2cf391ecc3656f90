"""What marks of tasks hold and compare: content of what tasks made, files of a corpus however deep, lists of used files."""

import json
import os
import shutil
import sys

import pytest
from stage_bench import UTILS

sys.path.insert(0, str(UTILS))

import inputs  # noqa: E402
from marks import Marks, without_comment  # noqa: E402


def later(path):
    """Give a file a later time."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


# --- a corpus ---


def test_a_change_anywhere_below_a_corpus_is_noticed(bench):
    bench.write("corpus/train/deep/text", "u1 hello")
    bench.run()
    states = [inputs.foreign_state(str(bench.folder / "corpus"))]
    for change in (
        lambda: later(bench.folder / "corpus/train/deep/text"),
        lambda: bench.write("corpus/train/new.wav", "x"),
        lambda: bench.write("corpus/train/new.wav", "xx"),
        lambda: (bench.folder / "corpus/train/new.wav").rename(bench.folder / "corpus/train/other.wav"),
        lambda: (bench.folder / "corpus/train/other.wav").unlink(),
        lambda: bench.write("corpus/train/deep/text", "u1 hollo!"),
    ):
        change()
        states.append(inputs.foreign_state(str(bench.folder / "corpus")))
    assert len(set(states)) == len(states) - 1, "without the new file all is as before it came"
    ran, printed = bench.run()
    assert ran == ["prepare", "train", "score"] and "corpus changed" in printed
    assert bench.run()[0] == []


def test_what_is_no_part_of_a_corpus_is_no_reason(bench):
    bench.write("corpus/train/text", "u1 hello")
    bench.run()
    for name in ("corpus/.DS_Store", "corpus/train/.text.swp", "corpus/__pycache__/a.pyc", "corpus/.git/x"):
        bench.write(name, "x")
    assert bench.run()[0] == []


def test_a_corpus_may_hold_the_work_folder_and_itself(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    marks = Marks(f"{tmp_path}/exp/x", [str(tmp_path)])
    states = []
    for name in ("text", "data/x/train/text", "exp/x/model/model.json", "loop/exp/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        states.append(inputs.foreign_state(str(tmp_path), marks.ours))
    assert len(set(states)) == 1


LISTED = """
import os, sys
rows = []
for path in ("corpus/a.txt", "corpus/wav/1.wav"):
    status = os.stat(path)
    rows.append(f"{status.st_size}\\t{status.st_mtime_ns}\\t../{path}\\n")
others = {f"wav/{name}" for name in os.listdir("corpus/wav")} - {"wav/1.wav"}
rows += [f"-\\t-\\t../corpus/{name}\\n" for name in ("", "wav", "notes.txt", "wav/", *sorted(others))]
os.makedirs("data", exist_ok=True)
open("data/wav.scp", "w").write("u1 corpus/wav/1.wav\\n")
open("data/files.tsv", "w").write("# size, time, path\\n" + "".join(rows))
open("ran", "a").write("prepare\\n")
"""


@pytest.fixture
def listed(bench):
    """An experiment whose preparation says which files it used; what it makes does not depend on their content."""
    for name in ("a.txt", "notes.txt", "wav/1.wav", "wav/unused.wav"):
        bench.write(f"corpus/{name}", "speech")
    prepare = ["::", "0", "prepare", "--needs", "corpus", "--lists", "data/files.tsv", "--makes", "data/wav.scp"]
    plan = [*prepare, "--", sys.executable, "-c", LISTED]
    use = ["sh", "-c", "echo use >> ran; touch used"]
    plan += ["::", "1", "use", "--needs", "data/wav.scp", "--makes", "used", "--", *use]
    assert bench.run(plan=plan)[0] == ["prepare", "use"]
    assert bench.run(plan=plan)[0] == []
    bench.plan = lambda: plan
    return bench


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "a.txt").write_text("other text"), "corpus/a.txt changed"),
        (lambda folder: later(folder / "wav/1.wav"), "corpus/wav/1.wav changed"),
        (lambda folder: (folder / "wav/2.wav").write_text("x"), "corpus/wav/2.wav is new"),
        (lambda folder: (folder / "wav/unused.wav").unlink(), "corpus/wav/unused.wav is gone"),
    ],
)
def test_a_listed_file_that_changed_is_named_and_all_that_follows_is_redone(listed, change, said):
    change(listed.folder / "corpus")
    assert said in listed.run("--dry-run")[1]
    ran, printed = listed.run()
    assert ran == ["prepare", "use"] and said in printed


def test_files_that_were_not_used_are_no_reason(listed):
    for name in ("notes.txt", "wav/unused.wav"):
        listed.write(f"corpus/{name}", "changed, and longer")
    listed.write("corpus/wav/.hidden", "x")
    assert listed.run()[0] == []


def test_a_list_counts_only_when_it_was_written_anew(listed):
    plan = [word.replace("files.tsv", "other.tsv") if word == LISTED else word for word in listed.plan()]
    assert listed.run(plan=plan)[0] == ["prepare", "use"]
    assert not (listed.folder / "data/files.tsv").exists()
    assert listed.run(plan=plan)[0] == []
    listed.write("corpus/notes.txt", "without a list, every file counts")
    assert listed.run(plan=plan)[0] == ["prepare", "use"]


def test_many_changes_are_counted(tmp_path):
    rows = [f"1\t1\t{tmp_path}/{number}\n" for number in range(10)]
    (tmp_path / "list").write_text("".join(rows))
    found = inputs.changed_files(str(tmp_path / "list"))
    assert len(found) == 4 and found[-1] == "7 more files changed"


# --- what tasks made ---


def test_a_remade_output_makes_its_dependants_old_if_it_differs(bench):
    measure = ["sh", "-c", "cat state > b.json; echo measure >> ran"]
    report = ["sh", "-c", "cp b.json report; echo report >> ran"]
    plan = ["::", "9", "measure", "--makes", "b.json", "--", *measure]
    plan += ["::", "9", "report", "--needs", "b.json", "--makes", "report", "--", *report]
    bench.write("state", "1")
    bench.run(plan=plan)
    (bench.folder / "b.json").unlink()
    assert bench.run(plan=plan)[0] == ["measure"], "the same numbers"
    bench.write("state", "2")
    (bench.folder / "b.json").unlink()
    ran, printed = bench.run(plan=plan)
    assert ran == ["measure", "report"] and "report: running (b.json changed" in printed
    bench.write("b.json", "3")  # made by hand
    assert bench.run(plan=plan)[0] == ["report"]
    assert (bench.folder / "report").read_text() == "3"
    later(bench.folder / "b.json")
    assert bench.run(plan=plan)[0] == []


def test_a_task_that_makes_nothing_is_redone_with_its_inputs(bench):
    mend = ["sh", "-c", "echo mended >> data/wav.scp; echo mend >> ran"]
    plan = [*bench.plan()[: bench.plan().index("3") - 1], "::", "1", "mend", "--needs", "data/wav.scp", "--", *mend]
    use = ["::", "2", "use", "--needs", "data/wav.scp", "@mend", "--makes", "used", "--"]
    plan += [*use, "sh", "-c", "cp data/wav.scp used; echo use >> ran"]
    assert bench.run(plan=plan)[0] == ["prepare", "mend", "use"]
    assert bench.run(plan=plan)[0] == []
    (bench.folder / "data/wav.scp").unlink()
    assert bench.run(plan=plan)[0][:2] == ["prepare", "mend"]
    assert "mended" in (bench.folder / "used").read_text()


# --- models moved aside and back ---


def two_models(bench):
    """Train with seed 0, score, then with seed 1, score; the first model lies in model.old-1 then."""
    bench.seed = "0"
    plan = bench.plan
    bench.plan = lambda: [word.replace("echo m >", f"echo {bench.seed} >") for word in plan()]
    bench.run()
    bench.seed = "1"
    bench.run()
    assert (bench.folder / "exp/x/score").read_text() == "1\n"


def swap(bench):
    model, old, away = (bench.folder / f"exp/x/{name}" for name in ("model", "model.old-1", "away"))
    model.rename(away)
    old.rename(model)
    away.rename(old)


def test_a_model_moved_back_counts_with_the_settings_it_was_made_with(bench):
    two_models(bench)
    swap(bench)
    bench.seed = "0"
    ran, printed = bench.run()
    assert ran == ["score"] and (bench.folder / "exp/x/score").read_text() == "0\n", printed
    assert bench.run()[0] == []
    bench.seed = "1"
    ran, printed = bench.run()
    assert ran == ["train", "score"] and "--seed 0 -> 1" in printed
    assert (bench.folder / "exp/x/model.old-2/model.json").read_text() == "0\n"


def test_a_model_put_in_the_place_of_another_is_not_taken_for_it(bench):
    two_models(bench)
    shutil.rmtree(bench.folder / "exp/x/model")
    shutil.copytree(bench.folder / "exp/x/model.old-1", bench.folder / "exp/x/model")
    (bench.folder / "exp/x/model/.mark.json").unlink()
    ran, printed = bench.run()
    assert ran == ["train"] and "exp/x/model/model.json is not the one that was made here" in printed
    assert (bench.folder / "exp/x/model/model.json").read_text() == "1\n"
    assert (bench.folder / "exp/x/model.old-2/model.json").read_text() == "0\n"
    assert not (bench.folder / "exp/x/model.old-2/.mark.json").exists()


# --- marks of earlier versions, moved work ---


def as_version_1(bench):
    """Take out of all marks what version 0.1 did not write."""
    for path in (bench.folder / "exp/x/.stages").glob("*.done"):
        mark = json.loads(path.read_text())
        del mark["outputs"]
        states = mark["fingerprint"]["inputs"]
        for name, state in states.items():
            tree = inputs.state_of_version_1(bench.folder / name) if state.startswith("tree") else None
            states[name] = tree or state.partition(",")[0]
        path.write_text(json.dumps(mark))


@pytest.mark.parametrize(
    "line",
    ["a: 1", "a: 'b # c'", 'a: "b \\" # c"', "a: [x, '#y', \"# z\"]", "a: b#c", "  a: don't", "{a: {'it''s # 1': x}}"],
)
def test_a_comment_at_the_end_of_a_line_of_settings_is_none_of_them(line):
    for comment in ("", "  # words", " #", "\t# it's 'so' # and so"):
        assert without_comment(line + comment) == line


def test_a_changed_comment_behind_a_setting_is_no_reason_to_redo_and_none_in_old_marks_is(bench):
    bench.write("conf/train.yaml", "base: base.yaml\nsteps: 100  # few\n")
    bench.run()
    (mark,) = [path for path in (bench.folder / "exp/x/.stages").glob("*.done") if "steps: 100" in path.read_text()]
    assert "few" not in mark.read_text()
    mark.write_text(mark.read_text().replace("steps: 100", "steps: 100   # as version 0.2 keeps it"))
    bench.write("conf/train.yaml", "base: base.yaml\nsteps: 100  # a few\n")
    assert bench.run()[0] == []
    bench.write("conf/train.yaml", "base: base.yaml\nsteps: 101  # a few\n")
    assert "-steps: 100; +steps: 101" in bench.run()[1]


def decoding(parts, beam="4"):
    """A task like those of decodings, in so many parts (--decode-nj)."""
    part, combine = [], []
    if parts > 1:
        part = ["--shard", "JOB", "--num-shards", str(parts)]
        combine = ["true", "-m", "steps.combine_decodes", "--num-shards", str(parts), ":then:"]
    command = ["sh", "-c", "echo decode >> ran; touch hyp", "--beam", beam, *part]
    array = [f"JOB=1:{parts}"] if parts > 1 else []
    return ["::", "8", "decode", "--makes", "hyp", "--", *array, *command, ":then:", *combine, "true", "--score"]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_the_number_of_parts_of_a_decoding_is_no_reason(bench, before, after):
    bench.run(plan=decoding(before))
    assert bench.run(plan=decoding(after)) == ([], "stage 8 decode: up to date; --force to redo\n")
    assert "--beam 4 -> 5" in bench.run(plan=decoding(after, beam="5"))[1]


def test_marks_of_version_1_hold(bench):
    bench.run()
    as_version_1(bench)
    assert bench.run()[0] == []
    bench.write("corpus/b.txt", "more")
    assert bench.run()[0] == ["prepare", "train", "score"]
    as_version_1(bench)
    bench.seed = "1"
    assert bench.run()[0] == ["train", "score"]
    assert bench.run()[0] == []


def test_copied_work_without_its_times_holds(bench):
    bench.run()
    copy = bench.folder.with_name("copy")
    shutil.copytree(bench.folder, copy, copy_function=shutil.copyfile)
    for path in (bench.folder / "corpus").iterdir():
        shutil.copystat(path, copy / "corpus" / path.name)
    bench.folder = copy
    assert bench.run()[0] == []


def test_only_whole_names_of_places_are_left_out(bench):
    """The work folder /a does not make /b/a/x and /b/x the same."""
    plan = ["::", "0", "prepare", "--", "true", f"/b{bench.folder}/x"]
    bench.run("--workdir", str(bench.folder), plan=plan)
    printed = bench.run("--workdir", str(bench.folder), plan=[*plan[:-1], "/bx"])[1]
    assert "running" in printed


@pytest.mark.parametrize("place", ["./1.wav", "corpus/1.wav", "{folder}/corpus/1.wav"])
def test_sound_that_a_folder_names_is_noticed_when_it_is_replaced(bench, place):
    """Of a data folder written by hand, no list of used files tells."""
    for name in ("corpus/1.wav", "data/1.wav"):
        bench.write(name, "speech")
    bench.write("data/wav.scp", f"utt\t {place.format(folder=bench.folder)}\nlost nowhere.wav\nodd \0\n")
    work = ["sh", "-c", "echo hear >> ran; touch heard"]
    fields = ["--needs", "data/wav.scp", "--makes", "heard"]
    old = ["::", "0", "hear", *fields, "--", *work]
    plan = ["::", "0", "hear", *fields, "--sounds", "data/wav.scp", "--", *work]
    assert [bench.run(plan=words)[0] for words in (old, plan)] == [["hear"], []]
    assert bench.run("--force", plan=plan)[0] == ["hear"] and bench.run(plan=plan)[0] == []
    later(bench.folder / ("data" if place.startswith(".") else "corpus") / "1.wav")
    ran, printed = bench.run(plan=plan)
    assert ran == ["hear"] and "sound of data/wav.scp changed" in printed
    for table in ("utt2spk", "segments"):
        bench.write(f"data/{table}", "utt 0 1\n")
        assert bench.run(plan=plan)[0] == ["hear"], table
        later(bench.folder / "data" / table)
        assert bench.run(plan=plan)[0] == []

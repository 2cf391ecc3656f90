"""The data folder tools: run as files with the standard library only; every file is cut, joined or copied alike."""

import itertools
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from steps.core.copies import is_copy
from steps.core.datadir import read_data_dir, read_table, validate_data_dir

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"ann": 3, "bob": 5, "eve": 2}


def make_data(folder, speakers=COUNTS, features=True, segments=False):
    """A data folder with every kind of file; utterance i lasts (i % 4 + 1) * 0.5 seconds."""
    folder.mkdir(parents=True)
    utts = [(f"{speaker}-{i}", speaker) for speaker, count in speakers.items() for i in range(count)]
    write = {name: [] for name in ("utt2spk", "text", "utt2dur", "wav.scp", "feats.scp", "utt2num_frames", "segments")}
    for index, (utt, speaker) in enumerate(utts):
        seconds = (index % 4 + 1) * 0.5
        audio = folder / f"{utt} it's.wav"
        with wave.open(str(audio), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(round(seconds * 16000)))
        write["utt2spk"].append(f"{utt} {speaker}\n")
        write["text"].append(f"{utt} WORD{index}\n")
        write["utt2dur"].append(f"{utt} {seconds}\n")
        write["wav.scp"].append(f"{f'rec-{utt}' if segments else utt} {audio}\n")
        write["segments"].append(f"{utt} rec-{utt} 0 {seconds}\n")
        write["feats.scp"].append(f"{utt} /feats.ark:{index}\n")
        write["utt2num_frames"].append(f"{utt} {round(seconds * 100)}\n")
    drop = set() if features else {"feats.scp", "utt2num_frames"}
    drop |= set() if segments else {"segments"}
    for name in write.keys() - drop:
        (folder / name).write_text("".join(write[name]))
    groups = itertools.groupby(utts, key=lambda pair: pair[1])
    lines = [f"{speaker} {' '.join(utt for utt, _ in group)}\n" for speaker, group in groups]
    (folder / "spk2utt").write_text("".join(lines))
    (folder / "spk2gender").write_text("".join(f"{speaker} f\n" for speaker in speakers))
    return folder


def run(tool, *options, status=0):
    """Run a tool with no installed package in reach. Returns: what it printed, stderr included."""
    command = [sys.executable, "-I", "-S", str(ROOT / "utils" / f"{tool}.py"), *map(str, options)]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def ids(folder):
    return [utt.utt_id for utt in read_data_dir(folder)]


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[False, True], ids=["whole files", "segments"])
def data(request, tmp_path):
    return make_data(tmp_path / "data", segments=request.param)


def test_validate_names_every_folder_and_changes_nothing(data, tmp_path):
    before = snapshot(data)
    assert "10 utterances, 3 speakers, 0.00 h: no problems" in run("validate_data_dir", data)
    (data / "text").write_text("".join((data / "text").read_text().splitlines(True)[1:]))
    other = make_data(tmp_path / "other")
    (other / "utt2spk").unlink()
    message = run("validate_data_dir", data, other, status=1)
    assert f"{data}/utt2spk:1: id 'ann-0' is not in text" in message
    assert f"{other}/utt2spk: no such file" in message
    assert snapshot(data).keys() == before.keys()
    run("validate_data_dir", data, tmp_path / "nothing", status=1)
    assert "no such data folder" in run("validate_data_dir", tmp_path / "nothing", status=5)


def test_validate_reads_sound_files_on_request(data):
    (data / "bob-1 it's.wav").write_bytes(b"")
    command = [sys.executable, str(ROOT / "utils" / "validate_data_dir.py"), "--audio", "true", str(data)]
    assert run("validate_data_dir", data)
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "bob-1 it's.wav: not a readable sound file" in result.stderr


def test_subset_cuts_every_file_alike(data, tmp_path):
    run("subset_data_dir", "--first", 4, data, tmp_path / "out")
    assert ids(tmp_path / "out") == ["ann-0", "ann-1", "ann-2", "bob-0"]
    tables = validate_data_dir(tmp_path / "out")
    assert tables.keys() == validate_data_dir(data).keys() and {"feats.scp", "utt2num_frames"} <= tables.keys()
    assert {name: len(table) for name, table in tables.items() if len(table) != 4} == {"spk2utt": 2, "spk2gender": 2}
    whole = validate_data_dir(data)
    for name in tables.keys() - {"spk2utt"}:
        assert all(whole[name][key] == value for key, value in tables[name].items())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--shortest", "3"], ["ann-0", "bob-1", "eve-0"]),
        (["--per-spk", "2"], ["ann-0", "ann-1", "bob-0", "bob-1", "eve-0", "eve-1"]),
        (["--spk-list", "{list}"], ["ann-0", "ann-1", "ann-2", "eve-0", "eve-1"]),
    ],
)
def test_ways_to_choose(data, tmp_path, options, expected):
    (tmp_path / "list").write_text("eve x y\n\nann\n")
    run("subset_data_dir", *[option.format(list=tmp_path / "list") for option in options], data, tmp_path / "out")
    assert ids(tmp_path / "out") == expected


def test_subset_by_utterances_and_its_mistakes(data, tmp_path):
    (tmp_path / "list").write_text("eve-1\nann-2\n")
    run("subset_data_dir", "--utt-list", tmp_path / "list", data, tmp_path / "out")
    assert ids(tmp_path / "out") == ["ann-2", "eve-1"]
    (tmp_path / "list").write_text("eve-1\nzoe-1\n")
    assert "1 of 2 ids are not" in run(
        "subset_data_dir", "--utt-list", tmp_path / "list", data, tmp_path / "none", status=1
    )
    assert "11 utterances were asked for" in run("subset_data_dir", "--first", 11, data, tmp_path / "none", status=1)
    run("subset_data_dir", "--first", 0, data, tmp_path / "none", status=2)
    run("subset_data_dir", data, tmp_path / "none", status=2)
    run("subset_data_dir", "--first", 1, "--per-spk", 1, data, tmp_path / "none", status=2)
    run("subset_data_dir", "--first", 1, data, data, status=2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("segments", [False, True])
def test_a_folder_may_count_more_than_the_others(tmp_path, segments):
    first, second = (make_data(tmp_path / name, {name: 2}, segments=segments) for name in ("ann", "sue"))
    run("combine_data_dir", tmp_path / "all", first, second, "--copies", 3)
    utterances = {utt.utt_id: utt for utt in read_data_dir(tmp_path / "all", check_audio=False)}
    assert sorted(utterances) == [
        "ann-0", "ann-1", "copy2-ann-0", "copy2-ann-1", "copy3-ann-0", "copy3-ann-1", "sue-0", "sue-1"
    ]  # fmt: skip
    assert [name for name in sorted(utterances) if not is_copy(name, utterances)] == [
        "ann-0",
        "ann-1",
        "sue-0",
        "sue-1",
    ]
    copy, own = utterances["copy3-ann-1"], utterances["ann-1"]
    assert copy.speaker == "copy3-ann" and copy.audio == own.audio
    assert (copy.text, copy.start_s, copy.end_s) == (own.text, own.start_s, own.end_s)
    run("combine_data_dir", tmp_path / "none", first, "--copies", 2, status=2)


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_split_keeps_speakers_whole_and_combine_undoes_it(data, tmp_path, num_parts):
    before = snapshot(data)
    run("split_data_dir", data, num_parts)
    parts = [data / f"split{num_parts}" / str(number) for number in range(1, num_parts + 1)]
    assert [utt for part in parts for utt in ids(part)] == ids(data)
    speakers = [speaker for part in parts for speaker in read_table(part / "spk2utt")]
    assert sorted(speakers) == sorted(COUNTS)
    run("combine_data_dir", tmp_path / "again", *reversed(parts))
    again = snapshot(tmp_path / "again")
    assert again == {name: before[name] for name in again} and "feats.scp" in again


def test_split_by_utterances(data):
    assert "--per-utt true" in run("split_data_dir", data, 4, status=1)
    run("split_data_dir", "--per-utt", "true", data, 4)
    sizes = [len(ids(data / "split4utt" / str(number))) for number in range(1, 5)]
    assert sum(sizes) == 10 and max(sizes) - min(sizes) <= 1
    run("split_data_dir", "--per-utt", "true", data, 11, status=1)


def test_combine_refuses_clashes_and_says_what_it_leaves_out(tmp_path):
    first = make_data(tmp_path / "first")
    second = make_data(tmp_path / "second", {"sue": 2}, features=False)
    message = run("combine_data_dir", tmp_path / "all", first, second)
    assert "left out feats.scp" in message and "left out utt2num_frames" in message
    assert len(ids(tmp_path / "all")) == 12 and not (tmp_path / "all" / "feats.scp").exists()
    clash = make_data(tmp_path / "clash", {"ann": 1, "zoe": 1})
    message = run("combine_data_dir", tmp_path / "none", first, clash, status=1)
    assert f"{clash}/utt2spk:1: id 'ann-0' is in an earlier folder, too" in message and "zoe" not in message
    assert not (tmp_path / "none").exists()


def test_combined_folders_with_and_without_segments_keep_their_sound(tmp_path):
    """Also recordings of one name, and copies."""
    whole, first, second = (make_data(tmp_path / f"{i}", {name: 2}, segments=i > 0) for i, name in enumerate("abc"))
    for folder in (first, second):
        for name in ("wav.scp", "segments"):
            path = folder / name
            path.write_text(path.read_text().replace("rec-b-0", "long").replace("rec-c-0", "long"))
    wanted = {utt.utt_id: utt for folder in (whole, first, second) for utt in read_data_dir(folder, check_audio=False)}
    run("combine_data_dir", tmp_path / "all", whole, first, second, "--copies", 2)
    validate_data_dir(tmp_path / "all", audio=True)
    found = {utt.utt_id: utt for utt in read_data_dir(tmp_path / "all")}
    assert len(found) == 8 and set(wanted) < set(found)
    for utt_id, utt in found.items():
        own = wanted[utt_id.removeprefix("copy2-")]
        assert (utt.audio, utt.start_s, utt.text, utt.duration_s) == (own.audio, own.start_s, own.text, own.duration_s)
        assert utt.end_s == own.end_s or own.end_s is None


@pytest.mark.parametrize(
    "names",
    [(["001"], ["001", "001-2"]), (["001", "001-2"], ["001", "001-2"]), (["001"], ["001"], ["001", "001-3", "001-2"])],
)
def test_a_recording_gets_no_name_that_another_has(tmp_path, names):
    """Files of one stem are called `001` and `001-2` in each folder."""
    folders = [make_data(tmp_path / "abc"[i], {"abc"[i]: len(own)}, segments=True) for i, own in enumerate(names)]
    for folder, own in zip(folders, names, strict=True):
        for name in ("wav.scp", "segments"):
            text = (folder / name).read_text()
            for i, new in enumerate(own):
                text = text.replace(f"rec-{folder.name}-{i}", new)
            (folder / name).write_text("".join(sorted(text.splitlines(True))))
    wanted = {utt.utt_id: utt.audio for folder in folders for utt in read_data_dir(folder, check_audio=False)}
    run("combine_data_dir", tmp_path / "all", *folders)
    assert {utt.utt_id: utt.audio for utt in read_data_dir(tmp_path / "all", check_audio=False)} == wanted
    assert len(set(wanted.values())) == sum(map(len, names))


def test_speed_copies(data, tmp_path):
    run("perturb_data_dir_speed", "--speeds", "0.9 1.0 1.1", data, tmp_path / "sp")
    validate_data_dir(tmp_path / "sp")
    plain, copies = read_data_dir(data), {utt.utt_id: utt for utt in read_data_dir(tmp_path / "sp")}
    assert len(copies) == 3 * len(plain)
    for utt in plain:
        for speed, prefix in ((0.9, "sp0.9-"), (1.0, ""), (1.1, "sp1.1-")):
            copy = copies[prefix + utt.utt_id]
            assert (copy.speaker, copy.speed) == (prefix + utt.speaker, speed)
            assert (copy.text, copy.audio, copy.start_s, copy.end_s) == (utt.text, utt.audio, utt.start_s, utt.end_s)
            assert copy.duration_s == pytest.approx(utt.duration_s / speed, abs=1e-6)
    assert not (tmp_path / "sp" / "feats.scp").exists()
    assert "already" in run("perturb_data_dir_speed", tmp_path / "sp", tmp_path / "spsp", status=1)
    for speeds in ("0", "nan", "fast", "", "3"):
        run("perturb_data_dir_speed", "--speeds", speeds, data, tmp_path / "none", status=2)


def test_speed_one_alone_is_a_copy(data, tmp_path):
    run("perturb_data_dir_speed", "--speeds", "1.0", data, tmp_path / "sp")
    assert read_data_dir(tmp_path / "sp") == read_data_dir(data) and not (tmp_path / "sp" / "utt2speed").exists()


def damage(data):
    """Faults of every kind, four utterances lost by them."""
    text = (data / "text").read_text().splitlines(True)
    text[1] = "ann-1\n"  # empty
    del text[3]  # bob-0
    (data / "text").write_bytes(
        b"\xef\xbb\xbf" + "".join(reversed(text)).replace("\n", "\r\n").encode() + b"zoe-1 X\r\n"
    )
    (data / "bob-2 it's.wav").unlink()
    durations = (data / "utt2dur").read_text().replace("eve-0 0.5", "eve-0 -1")
    (data / "utt2dur").write_text(durations + durations.splitlines(True)[0])
    (data / "spk2utt").unlink()


def test_fix_keeps_what_is_whole_and_says_what_it_dropped(data):
    before = snapshot(data)
    assert "nothing to mend" in run("fix_data_dir", data)
    assert snapshot(data) == before
    damage(data)
    broken = snapshot(data)
    message = run("fix_data_dir", data)
    assert "left out 4 of 10 utterances" in message
    for told in ("the transcript of 'ann-1' is empty", "id 'bob-0' is not in text", "no such sound file", "not '-1'",
                 "byte order mark", "DOS line ends", "is there twice", "id 'zoe-1' is not in utt2spk"):  # fmt: skip
        assert told in message
    assert ids(data) == ["ann-0", "ann-2", "bob-1", "bob-3", "bob-4", "eve-1"]
    tables = validate_data_dir(data)
    assert all(len(tables[name]) == 6 for name in ("feats.scp", "utt2num_frames", "wav.scp"))
    for name in ("text", "utt2dur", "wav.scp", "feats.scp"):
        assert (data / ".backup" / name).read_bytes() == broken[name]
    assert "nothing to mend" in run("fix_data_dir", data)


def test_fix_drops_segments_that_end_after_their_sound_file(tmp_path):
    data = make_data(tmp_path / "data", segments=True)
    lines = (data / "segments").read_text().splitlines(True)
    (data / "segments").write_text("".join([lines[0].replace(" 0.5", " 5.0"), *lines[1:]]))
    (data / "utt2dur").unlink()
    done = fix_with_audio(data)
    assert "ends at 5.0 s, but its sound file after 0.50 s" in done and "left out 1 of 10" in done
    assert "ann-0" not in ids(data)


def fix_with_audio(data):
    command = [sys.executable, str(ROOT / "utils/fix_data_dir.py"), "--audio", "true", str(data)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_subset_refuses_to_write_into_a_foreign_folder(data, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text").write_text("mine\n")
    assert "is not a data folder" in run("subset_data_dir", "--first", 1, data, tmp_path / "notes", status=1)
    assert snapshot(tmp_path / "notes") == {"text": b"mine\n"}


def test_fix_to_another_folder_leaves_the_first_alone(data, tmp_path):
    damage(data)
    before = snapshot(data)
    run("fix_data_dir", "--out", tmp_path / "out", data)
    assert snapshot(data) == before and len(ids(tmp_path / "out")) == 6
    assert "not empty" in run("fix_data_dir", "--out", tmp_path / "out", data, status=1)


def test_fix_never_empties_a_folder(data):
    (data / "text").write_text("zoe-1 X\n")
    before = snapshot(data)
    assert "no utterance would be left" in run("fix_data_dir", data, status=1)
    (data / "wav.scp").unlink()
    assert "a missing file cannot be mended" in run("fix_data_dir", data, status=1)
    assert snapshot(data) == {name: before[name] for name in before if name != "wav.scp"}

"""Data folders: what is written reads back, Kaldi's rules hold, and every fault is named with file and line."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from steps.core.cli import MissingInput, UserError
from steps.core.datadir import Utterance, read_data_dir, read_table, validate_data_dir, write_data_dir
from steps.data.features import load_audio
from steps.data.index import open_index
from tests.core.sound_formats import without_xing

ROOT = Path(__file__).resolve().parents[2]


def make_rows(folder, seconds=(1.0, 1.5, 0.5)):
    """Three utterances of two speakers with sound files in `folder`."""
    rows = []
    for number, (speaker, length) in enumerate(zip(("ann", "ann", "bob"), seconds, strict=True)):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.full(round(8000 * length), 0.1), 8000)
        rows.append(Utterance(f"{speaker}-{number}", speaker, "HELLO WORLD", str(path), duration_s=length))
    return rows


@pytest.fixture
def data(tmp_path):
    write_data_dir(tmp_path / "data", make_rows(tmp_path))
    return tmp_path / "data"


def problems_of(folder, **options):
    with pytest.raises(UserError) as error:
        validate_data_dir(folder, **options)
    return str(error.value)


def test_round_trip_whatever_the_order(tmp_path):
    rows = make_rows(tmp_path)
    write_data_dir(tmp_path / "data", random.Random(1).sample(rows, len(rows)))
    assert read_data_dir(tmp_path / "data") == rows
    assert not (tmp_path / "data" / "segments").exists() and not (tmp_path / "data" / "utt2speed").exists()


def test_round_trip_with_limits_and_speeds(tmp_path):
    first, second, third = make_rows(tmp_path)
    rows = [
        replace(first, utt_id="ann-a", start_s=0.25, end_s=0.75, duration_s=0.5),
        replace(first, utt_id="ann-b", start_s=0.5, end_s=1.0, duration_s=0.625, speed=0.8),
        replace(second, utt_id="ann-c", duration_s=1.5),
        third,
    ]
    write_data_dir(tmp_path / "data", rows)
    expected = [*rows[:2], replace(rows[2], end_s=1.5), replace(rows[3], end_s=0.5)]
    assert read_data_dir(tmp_path / "data") == expected
    assert len(read_table(tmp_path / "data" / "wav.scp")) == 3


def test_order_is_that_of_bytes_not_of_the_locale(tmp_path):
    base = make_rows(tmp_path)[0]
    names = ["b", "B", "é", "z", "a1", "a", "日", "Z"]
    write_data_dir(tmp_path / "data", [replace(base, utt_id=f"{name}-1", speaker=name) for name in names])
    written = [line.split()[0] for line in (tmp_path / "data" / "utt2spk").read_text(encoding="utf-8").splitlines()]
    assert written == sorted(written, key=str.encode)
    sort = subprocess.run(
        ["sort", "-c", "-u", "-k1,1", tmp_path / "data" / "utt2spk"], env={"LC_ALL": "C", "PATH": os.environ["PATH"]}
    )
    assert sort.returncode == 0


def test_strange_paths_and_words_are_only_data(tmp_path):
    name = tmp_path / 'it\'s; $(touch owned) `x` "two  words" #1.wav'
    soundfile.write(name, np.zeros(800), 8000)
    row = Utterance("s-1", "s", '$(touch owned) ; don\'t "quote"', str(name), duration_s=0.1)
    write_data_dir(tmp_path / "data", [row])
    assert read_data_dir(tmp_path / "data") == [row]
    validate_data_dir(tmp_path / "data", audio=True)
    assert not (tmp_path / "owned").exists() and not Path("owned").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"utt_id": "ann 0"},
        {"utt_id": ""},
        {"speaker": "a\tb"},
        {"text": ""},
        {"text": "two\nlines"},
        {"text": " x"},
        {"audio": "cmd |"},
        {"audio": "a.wav "},
        {"audio": "a\udcff.wav"},
        {"text": "<s> x"},
        {"text": "a\u00a0b"},
        {"duration_s": -1.0},
        {"duration_s": float("nan")},
        {"speed": 0.0},
        {"start_s": 2.0, "end_s": 1.0},
    ],
    ids=str,
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, change):
    rows = make_rows(tmp_path)
    with pytest.raises(UserError):
        write_data_dir(tmp_path / "data", [replace(rows[0], **change), *rows[1:]])
    assert not (tmp_path / "data").exists()


def test_repeated_ids_are_not_written(tmp_path):
    rows = make_rows(tmp_path)
    with pytest.raises(UserError, match=r"ann-0: the id of \S+ and of again.wav; rename one"):
        write_data_dir(tmp_path / "data", [*rows, replace(rows[0], audio="again.wav")])


def edit(path, function):
    path.write_bytes(function(path.read_bytes()))


def put(old, new):
    """A change of one file: every `old` becomes `new`."""
    return lambda content: content.replace(old, new)


FAULTS = {
    "byte order mark": ("text", put(b"ann-0", b"\xef\xbb\xbfann-0"), "text:1: starts with a byte order mark"),
    "DOS line ends": ("text", put(b"\n", b"\r\n"), "text:1: DOS line ends"),
    "not UTF-8": ("text", put(b"bob-2 H", b"bob-2 \xff"), "text:3: not UTF-8"),
    "no final line end": ("text", lambda old: old[:-1], "text: the last line does not end"),
    "no transcript": ("text", put(b"1 HELLO WORLD", b"1"), "text:2: the transcript of 'ann-1' is empty"),
    "reserved word": ("text", put(b"1 HELLO", b"1 </s>"), "text:2: Kaldi does not allow"),
    "no-break space": ("text", put(b"1 HELLO", b"1 A\xc2\xa0B"), "text:2: white space other than"),
    "empty file": ("text", lambda old: b"", "text: the file is empty"),
    "empty line": ("text", put(b"\nbob", b"\n\nbob"), "text:3: the line starts with a blank or is empty"),
    "twice": ("utt2spk", lambda old: old + b"bob-2 bob\n", "utt2spk:4: id 'bob-2' is there twice (first on line 3)"),
    "unsorted": ("utt2dur", lambda old: b"bob-2 1\nann-0 1\nann-1 1\n", "utt2dur:2: not in C-locale order"),
    "unknown id": ("text", lambda old: old + b"zoe-9 HI\n", "text:4: id 'zoe-9' is not in utt2spk"),
    "lacking id": ("utt2dur", put(b"bob-2 0.5\n", b""), "utt2spk:3: id 'bob-2' is not in utt2dur"),
    "spk2utt": ("spk2utt", put(b"ann-0 ann-1", b"ann-1 ann-0"), "spk2utt:1: the utterances of 'ann'"),
    "two speakers": ("utt2spk", put(b" bob", b" bob x"), "utt2spk:3: expected `utterance-id speaker-id`"),
    "speaker order": ("utt2spk", put(b"0 ann", b"0 bob"), "utt2spk:1: Kaldi wants the same order"),
    "NaN": ("utt2dur", put(b"0.5", b"nan"), "utt2dur:3: expected a number above 0, not 'nan'"),
    "infinite": ("utt2dur", put(b"0.5", b"1e999"), "utt2dur:3: expected a number above 0"),
    "negative": ("utt2dur", put(b"0.5", b"-0.5"), "utt2dur:3: expected a number above 0"),
    "pipe": ("wav.scp", put(b"2.wav", b"2.wav cat |"), "wav.scp:3: a command is not run here"),
    "no such audio": ("wav.scp", put(b"2.wav", b"7.wav"), "wav.scp:3: no such sound file"),
    "no path": ("wav.scp", lambda old: b"ann-0\n" + old.split(b"\n", 1)[1], "wav.scp:1: no sound file is named"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_file_and_line(data, fault):
    name, function, expected = FAULTS[fault]
    edit(data / name, function)
    assert f"{data}/{expected}" in problems_of(data)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ann-0 r 0.9 0.2", "segments:1: 'ann-0' ends at 0.2 s, not after its start at 0.9 s"),
        ("ann-0 r 0 9.0", "segments:1: 'ann-0' ends at 9.0 s, but its recording after 2 s"),
        ("ann-0 r 2.1 2.4", "segments:1: 'ann-0' starts at 2.1 s, but its recording ends after 2 s"),
        ("ann-0 r 2.0 -1", "segments:1: 'ann-0' starts at 2.0 s, but its recording ends after 2 s"),
        ("ann-0 r -1 -1", "segments:1: expected `utterance-id recording-id start end`"),
        ("ann-0 r 0 -2", "segments:1: expected `utterance-id recording-id start end`"),
        ("ann-0 r 0 nan", "segments:1: expected `utterance-id recording-id start end`"),
        ("ann-0 r 0", "segments:1: expected `utterance-id recording-id start end`"),
        (
            "ann-0 r 0 1 2",
            "segments:1: expected `utterance-id recording-id start end` in seconds (end -1: to the end), "
            "not ann-0 r 0 1 2; a channel is not read here",
        ),
        ("ann-0 other 0 1", "segments:1: id 'other' is not in wav.scp"),
    ],
)
def test_faulty_segments(data, line, expected):
    for name in ("text", "utt2spk"):
        edit(data / name, lambda old: old.splitlines(True)[0])
    (data / "spk2utt").write_text("ann ann-0\n")
    (data / "utt2dur").unlink()
    (data / "wav.scp").write_text(f"r {data.parent}/0.wav\n")
    (data / "reco2dur").write_text("r 2\n")
    (data / "segments").write_text("ann-0 r 0 1.0\n")
    validate_data_dir(data)
    (data / "segments").write_text(line + "\n")
    assert f"{data}/{expected}" in problems_of(data)


@pytest.mark.parametrize("end", ["-1", "-1.0", "-1.00"])
def test_a_segment_may_end_at_minus_one_the_end_of_its_recording(tmp_path, data, end):
    audio = f"{tmp_path}/1.wav"  # of 1.5 s
    write_data_dir(
        data,
        [Utterance("ann-0", "ann", "A", audio, 0.0, 0.5, 0.5), Utterance("ann-1", "ann", "B", audio, 0.25, 1.5, 1.25)],
    )
    edit(data / "segments", put(b"0.25 1.5", f"0.25 {end}".encode()))
    validate_data_dir(data, audio=True)
    assert read_data_dir(data)[1] == Utterance("ann-1", "ann", "B", audio, 0.25, None, 1.25)
    assert open_index(data).utterance(1) == read_data_dir(data)[1]
    assert len(load_audio(audio, 8000, 0.25, None)) == 10000
    write_data_dir(tmp_path / "copy", read_data_dir(data))
    assert (tmp_path / "copy/segments").read_text().splitlines()[1] == "ann-1 1 0.25 1.5"
    edit(data / "utt2dur", put(b"1.25", b"2.25"))
    assert "utt2dur:2: 'ann-1' lasts 1.25 s, not 2.25 s" in problems_of(data, audio=True)
    edit(data / "segments", put(b" 0.25 -", b" 1.75 -"))
    assert "'ann-1' starts at 1.75 s, but its sound file ends after 1.50 s" in problems_of(data, audio=True)
    (data / "utt2dur").unlink()
    edit(data / "segments", put(b" 1.75 -", b" 0.25 -"))
    write_data_dir(tmp_path / "copy", read_data_dir(data))
    assert (tmp_path / "copy/segments").read_text().splitlines()[1] == "ann-1 1 0.25 -1"


def test_ids_need_not_begin_with_their_speaker(tmp_path, capsys):
    """Folders of Kaldi's --no-spk-sort, as ESPnet's are."""
    rows = [replace(row, utt_id=f"utt{i}") for i, row in enumerate(reversed(make_rows(tmp_path)))]
    write_data_dir(tmp_path / "data", rows)
    assert "Kaldi's tools want --no-spk-sort" in capsys.readouterr().out
    assert read_data_dir(tmp_path / "data") == rows
    validate_data_dir(tmp_path / "data", spk_sort=False)
    assert "utt2spk:1: Kaldi wants the same order" in problems_of(tmp_path / "data")
    run = [sys.executable, str(ROOT / "utils/validate_data_dir.py"), tmp_path / "data"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0 and "no problems" in done.stdout and "--no-spk-sort" in done.stdout
    assert subprocess.run([*run, "--spk-sort", "true"], capture_output=True).returncode == 1
    assert "--no-spk-sort" not in subprocess.run([*run, "--spk-sort", "false"], capture_output=True, text=True).stdout


def test_all_problems_come_at_once_and_long_lists_are_cut(data):
    edit(data / "text", lambda old: old.replace(b"ann-1 HELLO WORLD", b"ann-1"))
    edit(data / "wav.scp", lambda old: old.replace(b"2.wav", b"7.wav"))
    (data / "spk2utt").unlink()
    message = problems_of(data)
    assert message.startswith("3 problems found") and len(message.splitlines()) == 4
    (data / "utt2dur").write_text("".join(f"x{number:03} 1\n" for number in range(100)))
    message = problems_of(data)
    assert message.startswith("106 problems found") and len(message.splitlines()) == 22
    assert message.endswith("... and 86 more")


def test_missing_folder_and_files(data):
    with pytest.raises(MissingInput, match="no such data folder"):
        read_data_dir(data / "nothing")
    (data / "wav.scp").unlink()
    with pytest.raises(UserError, match="wav.scp: no such file"):
        read_data_dir(data)


def test_audio_need_not_be_there_to_read_features(data):
    (data.parent / "2.wav").unlink()
    assert len(read_data_dir(data, check_audio=False)) == 3
    with pytest.raises(UserError, match="no such sound file"):
        read_data_dir(data)


def test_headers_are_checked_on_request(data):
    (data.parent / "0.wav").write_bytes(b"")
    (data.parent / "1.wav").write_bytes(b"RIFF but not really")
    soundfile.write(data.parent / "2.wav", np.zeros(80000), 8000)
    validate_data_dir(data)
    message = problems_of(data, audio=True)
    assert "wav.scp:1: " in message and "wav.scp:2: " in message and "not a readable sound file" in message
    assert "utt2dur:3: 'bob-2' lasts 10.00 s, not 0.5 s" in message


def test_sound_of_several_channels_is_a_problem(data):
    soundfile.write(data.parent / "1.wav", np.zeros((6000, 2)), 8000)
    message = problems_of(data, audio=True)
    assert "wav.scp:2: " in message and "has 2 channels, and which one is meant is not said" in message


def test_times_are_compared_with_the_sound_not_with_a_guess(data):
    """The header of an MP3 file from a pipe gives a wrong length, here one that is too long."""
    path = data.parent / "2.mp3"
    noise = 0.3 * np.random.default_rng(0).standard_normal(8 * 8000).clip(-1, 1)
    soundfile.write(path, np.concatenate([np.zeros(8 * 8000), noise]), 8000)
    without_xing(path)
    assert soundfile.info(path).duration > 20
    edit(data / "wav.scp", lambda old: old.replace(b"2.wav", b"2.mp3"))
    edit(data / "utt2dur", lambda old: old.replace(b"bob-2 0.5", b"bob-2 16.05"))
    validate_data_dir(data, audio=True)
    edit(data / "utt2dur", lambda old: old.replace(b"bob-2 16.05", b"bob-2 22"))
    assert "'bob-2' lasts 16.2" in problems_of(data, audio=True)


def test_blanks_in_transcripts_are_evened_out(data):
    edit(data / "text", lambda old: old.replace(b"bob-2 HELLO WORLD", b"bob-2  HELLO \t  WORLD  "))
    assert [utt.text for utt in read_data_dir(data)] == ["HELLO WORLD"] * 3


def test_features_of_other_audio_do_not_survive_a_rewrite(tmp_path, data):
    rows = make_rows(tmp_path)
    for name in ("feats.scp", "utt2num_frames"):
        (data / name).write_text("".join(f"{row.utt_id} 5\n" for row in rows))
    write_data_dir(data, [replace(row, text="OTHER") for row in rows])
    assert (data / "feats.scp").exists() and (data / "utt2num_frames").exists()
    write_data_dir(data, [replace(rows[0], speed=1.1), *rows[1:]])
    assert not (data / "feats.scp").exists() and not (data / "utt2num_frames").exists()
    write_data_dir(data, rows)
    assert not (data / "utt2speed").exists()


def test_needs_the_standard_library_only():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import steps.core.datadir"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def kaldi_rules(folder):
    """The order and agreement rules of Kaldi's utils/validate_data_dir.sh, by the same sort and awk."""
    script = r"""
    set -e; export LC_ALL=C; cd "$1"
    for f in utt2spk spk2utt text wav.scp utt2dur; do
        awk '{print $1}' $f > /dev/stdout | sort -u | cmp - <(awk '{print $1}' $f)
        [ -z "$(tail -c1 $f)" ]
    done
    sort -k2 utt2spk | cmp - utt2spk
    cmp <(awk '{print $1, $2}' utt2spk) <(awk '{for (i = 2; i <= NF; i++) print $i, $1}' spk2utt)
    for f in text utt2dur; do cmp <(awk '{print $1}' utt2spk) <(awk '{print $1}' $f); done
    awk '{ if (NF != 2 || !($2 > 0)) exit 1 }' utt2dur
    if [ -f segments ]; then
        awk '{ if (NF != 4 || $4 <= $3) exit 1 }' segments
        cmp <(awk '{print $1}' utt2spk) <(awk '{print $1}' segments)
        cmp <(awk '{print $2}' segments | sort -u) <(awk '{print $1}' wav.scp)
    else
        cmp <(awk '{print $1}' utt2spk) <(awk '{print $1}' wav.scp)
    fi
    """
    return subprocess.run(["bash", "-c", script, "-", str(folder)], capture_output=True, text=True)


def test_kaldi_accepts_what_is_written(tmp_path, data):
    assert kaldi_rules(data).returncode == 0, kaldi_rules(data)
    base = make_rows(tmp_path)[0]
    speakers = ["mdcs", "mdcs2", "sp0.9-mdcs", "sp0.9-mdcs2", "M", "é"]
    rows = [replace(base, utt_id=f"{name}-{i}", speaker=name, start_s=i / 10, end_s=i / 10 + 0.05, duration_s=0.05)
            for name in speakers for i in range(3)]  # fmt: skip
    write_data_dir(tmp_path / "cut", rows)
    assert kaldi_rules(tmp_path / "cut").returncode == 0, kaldi_rules(tmp_path / "cut")
    edit(tmp_path / "cut" / "spk2utt", lambda old: old.replace(b"M-0 M-1", b"M-1 M-0"))
    assert kaldi_rules(tmp_path / "cut").returncode != 0

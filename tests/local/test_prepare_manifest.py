"""Manifests: JSON lines, CSV and TSV; what is read, what is refused."""

import json

import numpy as np
import pytest

from tests.local import corpora
from tests.local.readers import good, refused, sizes


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_manifest(tmp_path, kind):
    corpora.manifest(tmp_path, kind)
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    assert sets["train"][0].speaker == "sp_0" and sets["train"][0].text.endswith(", yes?")


def test_manifest_of_segments_in_one_list_is_split_by_speakers(tmp_path):
    corpora.save(tmp_path / "long.wav", corpora.whistle(["ABED" * 20], 1))
    rows = [
        f'{{"audio_filepath": "long.wav", "offset": {i / 2}, "duration": 0.5, "text": "a {i}", "speaker": "s{i}"}}\n'
        for i in range(10)
    ]
    (tmp_path / "manifest.json").write_text("".join(rows))
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (8, 8), "dev": (1, 1), "test": (1, 1)}
    assert {utt.duration_s for utts in sets.values() for utt in utts} == {0.5}


def test_manifest_durations_are_those_of_nemo_or_refused(tmp_path):
    """Without an offset the first `duration` seconds are meant, not the whole file."""
    corpora.manifest(tmp_path)
    path = tmp_path / "train_manifest.json"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    corpora.save(tmp_path / "train/long.wav", corpora.whistle(["ABED" * 20], 1))
    lines.append({"audio_filepath": "train/long.wav", "duration": 1.9, "text": "a b", "speaker": "z"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sets, said = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    limits = {utt.speaker: (utt.start_s, utt.end_s, utt.duration_s) for utt in sets["train"]}
    assert limits["z"] == (0.0, 1.9, 1.9) and limits["sp_0"][1] == limits["sp_0"][2] != 1.9
    assert "train_manifest.json: 1 of 13 rows have no offset and a duration shorter than the file" in said
    assert "train_manifest.json:13): its beginning is taken" in said
    path.write_text(path.read_text().replace("1.9", "1900"))
    said = refused("manifest", tmp_path / "b", "--corpus-dir", tmp_path)
    assert "train_manifest.json:13: duration is 1900 s" in said and "durations are in seconds" in said


def test_manifest_columns_that_matter(tmp_path):
    corpora.manifest(tmp_path)
    rows = []
    for name in ("train", "dev", "test"):
        for line in (tmp_path / f"{name}_manifest.json").read_text(encoding="utf-8-sig").splitlines():
            rows.append(
                json.loads(line) | {"split": {"dev": "Validation"}.get(name, name), "channel": 1, "up_votes": len(rows)}
            )
        (tmp_path / f"{name}_manifest.json").unlink()
    write = lambda: (tmp_path / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))  # noqa: E731
    write()
    sets, said = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    assert {utt.speaker for utt in sets["dev"]} == {"sp_4", "sp_5"}
    assert "manifest.json: not used, though it may matter: channel (1); up_votes (0, 1, 2, ...)" in said
    rows[0]["split"] = "extra"
    write()
    assert "split is 'extra'; expected train, dev" in refused("manifest", tmp_path / "b", "--corpus-dir", tmp_path)


def test_a_row_of_another_split_than_its_manifest_is_named(tmp_path):
    corpora.manifest(tmp_path)
    path = tmp_path / "dev_manifest.json"
    path.write_text(path.read_text(encoding="utf-8-sig").replace('"speaker"', '"split": "train", "speaker"', 1))
    assert "dev_manifest.json:1: split is 'train', in the manifest of dev" in refused(
        "manifest", tmp_path, "--corpus-dir", tmp_path
    )


def test_manifest_tsv_keeps_all_rows(tmp_path):
    corpora.manifest(tmp_path, "csv")
    for name in ("train", "dev", "test"):
        table = tmp_path / name / "metadata.csv"
        lines = [line.replace('"', "").replace(", yes", " yes").split(",") for line in table.read_text().splitlines()]
        lines[1][1], lines[3][1] = f'"{lines[1][1]}', f'{lines[3][1]}"'
        table.with_suffix(".tsv").write_text("\n".join("\t".join(line) for line in lines))
        table.unlink()
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (12, 4), "dev": (6, 2), "test": (6, 2)}
    assert [utt.text.count('"') for utt in sets["test"]] == [1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"audio_filepath": "a.wav"}', "train.jsonl:1: no text; expected a field text, "),
        ('{"path": "a.wav", "words": "x"}', "there are: path, words"),
        ('{"path": "a.wav", "text": ""}', "train.jsonl:1: text is ''; expected a text, or the row left out"),
        ('{"audio_filepath": "b.wav", "text": "x"}', "train.jsonl:1: no such sound file"),
        ('{"audio_filepath": "a.wav", "text": "x", "offset": "soon"}', "offset and duration must be seconds"),
        ('{"audio_filepath": ["a.wav"], "text": "x"}', "audio_filepath is ['a.wav']; expected a text"),
        ('{"audio_filepath": "a\\u0000.wav", "text": "x"}', "train.jsonl:1: no such sound file"),
        ('{"audio_filepath": "loop.wav", "text": "x"}', "train.jsonl:1: no such sound file"),
        ('{"audio_filepath": "%s.wav", "text": "x"}' % ("a" * 5000), "train.jsonl:1: no such sound file"),
        ('{"audio_filepath": "a.wav", "text": true}', "train.jsonl:1: text is True; expected a text"),
        ('{"audio_filepath": "a.wav", "text": "x", "duration": true}', "offset and duration must be seconds"),
        ('{"audio_filepath": "a.wav", "text": "x", "offset": 0.1}', "starts at 0.10 s, but"),
        ('{"audio_filepath": "a.wav", "text": "x", "offset": 7}', "starts at 7.00 s, but"),
        ("[1, 2]", "train.jsonl:1: expected one JSON object a line"),
        ("\x00\x01", "train.jsonl:1: expected one JSON object a line"),
    ],
)
def test_manifest_mistakes_have_a_place(tmp_path, line, said):
    corpora.manifest(tmp_path)
    corpora.save(tmp_path / "a.wav", np.ones(1600))
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "train_manifest.json").unlink()
    (tmp_path / "train.jsonl").write_text(line + "\n")
    assert said in refused("manifest", tmp_path, "--corpus-dir", tmp_path)


def write_rows(folder, *rows):
    """A corpus whose train has these files, audio and text each; the files are made."""
    corpora.manifest(folder)
    (folder / "train_manifest.json").unlink()
    for number, name in enumerate(dict.fromkeys(name for name, _ in rows)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        corpora.save(folder / name, np.full(1600, 0.1 * (number + 1)))
    lines = [json.dumps({"audio_filepath": name, "text": text, "speaker": "ann"}) for name, text in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def test_files_whose_paths_end_alike_have_names_of_their_own(tmp_path):
    write_rows(tmp_path, ("1/ann/wav/a.wav", "one"), ("2/ann/wav/a.wav", "two"), ("2/ann/wav/b.wav", "three"))
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path)
    found = {utt.utt_id: utt.text for utt in sets["train"]}
    assert found == {"ann-1_ann_wav_a": "one", "ann-2_ann_wav_a": "two", "ann-ann_wav_b": "three"}


def test_a_recording_in_two_rows_and_names_that_cannot_be_told_apart_are_named_with_their_lines(tmp_path):
    write_rows(tmp_path, ("a.wav", "one"), ("b.wav", "two"), ("a.wav", "three"), ("b b.wav", "x"), ("b_b.wav", "y"))
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert f"train.jsonl:3: the recording of {tmp_path}/train.jsonl:1 once more; leave one of them out" in said
    assert f"train.jsonl:5: its id, ann-b_b, is that of {tmp_path}/train.jsonl:4, too; rename one" in said


def test_an_empty_file_is_called_empty(tmp_path):
    write_rows(tmp_path, ("a.wav", "one"))
    (tmp_path / "a.wav").write_bytes(b"")
    said = refused("manifest", tmp_path, "--corpus-dir", tmp_path)
    assert "a.wav: not a readable sound file (it is empty: 0 bytes)" in said and "PyAV" not in said


def test_blanks_inside_numbers_are_still_there_when_these_become_words(tmp_path):
    write_rows(tmp_path, ("a.wav", "1\u202f000\n euros "))
    (tmp_path / "options.yaml").write_text("text: {language: fr, numbers: true}\n")
    sets, _ = good("manifest", tmp_path, "--corpus-dir", tmp_path, "--options", tmp_path / "options.yaml")
    assert [utt.text for utt in sets["train"]] == ["mille euros"]

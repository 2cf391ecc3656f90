"""Stored labels: what is kept, and files that hold something else."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from steps.core.cli import MissingInput, UserError
from steps.core.config import load_config, to_dict
from steps.core.outdir import atomic_file
from steps.data.feature_config import FeatureConfig
from steps.data.label_description import Description, LabelConfig
from steps.data.labels import (
    HEADER,
    INDEX,
    LabelPart,
    Labels,
    LabelWriter,
    part_name,
    read_facts,
    unit_type,
)
from steps.data.sparse_posteriors import SparsePosteriors

V = 6


def posteriors(frames=40, units=V, seed=0):
    """(T, V) float32, nearly all blanks from frame 10 to 29."""
    logits = np.random.default_rng(seed).normal(size=(frames, units)) * 3
    logits[10:30] = 0
    logits[10:30, 0] = 12
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def test_the_settings_file_holds_the_defaults():
    assert load_config(LabelConfig, Path(__file__).resolve().parents[2] / "conf/label.yaml") == LabelConfig()


def test_all_kept_is_what_half_precision_keeps():
    log_probs = posteriors()
    kept = SparsePosteriors.of(log_probs, None, 0.0)
    assert np.array_equal(kept.expand(), log_probs.astype(np.float16).astype(np.float32))
    assert len(kept.runs) == 0


@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("threshold", [0.0, 1e-3, 0.1])
def test_what_is_kept_is_right_and_the_rest_has_the_mass_that_is_left(keep, threshold):
    log_probs = posteriors()
    rows = SparsePosteriors.of(log_probs, keep, threshold)
    found = rows.expand()
    assert found.shape == log_probs.shape and found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=2e-3)
    assert (found.argmax(axis=1) == log_probs.argmax(axis=1)).all()
    best = np.sort(log_probs, axis=1)[:, -keep:][:, :1]
    own = (log_probs >= best) & (np.exp(log_probs) >= threshold)
    own[10:30] = False
    np.testing.assert_allclose(found[own], log_probs[own], rtol=1e-3, atol=1e-3)
    for frame in set(range(40)) - set(range(10, 30)):
        rest = found[frame][~own[frame] & (np.arange(V) != log_probs[frame].argmax())]
        assert len(rest) == 0 or np.ptp(rest) == 0


def test_runs_of_blanks_are_one_row_of_their_mean():
    log_probs = posteriors()
    log_probs[10:30, 0] = np.log(np.linspace(0.99, 0.999, 20))
    rows = SparsePosteriors.of(log_probs, 8, 1e-3)
    assert rows.runs.tolist()[-1] >= 20 and len(rows.counts) <= 21 and rows.lengths().sum() == 40
    np.testing.assert_allclose(np.exp(rows.expand()[10:30, 0]), np.linspace(0.99, 0.999, 20).mean(), atol=1e-3)


def describe(vocabulary=V, **changes):
    facts = {
        "teacher": "t",
        "identity": "x",
        "features": to_dict(FeatureConfig()),
        "frame_shift_ms": 40.0,
        "depth": 2,
        "width": 3,
    }
    facts |= {"dev_wer": 10.0, "settings": LabelConfig(), "places": [], "part": 1, "num_parts": 1, "inputs": ""}
    return Description(vocabulary=["<blk>", *map(str, range(vocabulary - 1))], **(facts | changes))


def write(path, utt_ids, **changes):
    with atomic_file(path, "wb") as file:
        writer = LabelWriter(file, describe(**changes))
        for number, utt_id in enumerate(utt_ids):
            hidden = [np.full((40, 3), number, np.float32) for _ in writer.description.places]
            writer.add(
                utt_id,
                SparsePosteriors.of(posteriors(seed=number, units=changes.get("vocabulary", V)), 8, 1e-3),
                hidden,
            )
        writer.close()
    return path


def test_a_part_without_a_frame(tmp_path):
    description = describe(places=[0], settings=LabelConfig(hidden_layers=[0], hidden_codes=2))
    with atomic_file(tmp_path / part_name(1, 1), "wb") as file:
        writer = LabelWriter(file, description)
        writer.add("a", SparsePosteriors.of(posteriors(seed=0, units=V)[:0], 8, 1e-3), [np.zeros((0, 3), np.float32)])
        writer.close()
    labels = Labels(tmp_path, 1, 1)
    assert labels.frames(labels.find(["a"])).tolist() == [0]


@pytest.mark.parametrize("vocabulary", [V, 300])
def test_what_was_written_is_read(tmp_path, vocabulary):
    write(tmp_path / part_name(1, 1), ["a", "b"], num_parts=2, places=[0, 2], vocabulary=vocabulary)
    write(tmp_path / part_name(1, 2), ["c"], num_parts=2, places=[0, 2], part=2, vocabulary=vocabulary)
    labels = Labels(tmp_path, 1, 2)
    numbers = labels.find(["c", "nobody", "b", "a"])
    assert numbers[1] == -1 and len(set(numbers)) == 4 and labels.frames(numbers[[0, 2]]).tolist() == [40, 40]
    for number, seed, state in ((numbers[0], 0, 0), (numbers[2], 1, 1), (numbers[3], 0, 0)):
        rows, hidden = labels.read(int(number))
        wanted = SparsePosteriors.of(posteriors(seed=seed, units=vocabulary), 8, 1e-3).expand()
        assert np.array_equal(rows.expand(), wanted)
        assert len(hidden) == 2 and (hidden[1] == state).all() and hidden[1].shape == (40, 3)
    assert labels.description == describe(num_parts=2, places=[0, 2], vocabulary=vocabulary)


def test_units_are_as_wide_as_the_vocabulary_needs():
    assert [unit_type(units).itemsize for units in (127, 128, 32_767, 32_768)] == [1, 2, 2, 4]


def test_an_empty_part_is_one(tmp_path):
    assert len(LabelPart(write(tmp_path / part_name(1, 1), [])).index) == 0
    assert Labels(tmp_path, 1, 1).find(["a"]).tolist() == [-1]


def test_parts_of_other_settings_and_utterances_twice_are_refused(tmp_path):
    write(tmp_path / part_name(1, 1), ["a"], num_parts=2)
    write(tmp_path / part_name(1, 2), ["b"], num_parts=2, part=2, identity="y")
    with pytest.raises(UserError, match=r"labels.1.2.bin: made with other settings than labels.1.1.bin"):
        Labels(tmp_path, 1, 2)
    write(tmp_path / part_name(1, 2), ["a"], num_parts=2, part=2)
    with pytest.raises(UserError, match="an utterance is in two parts"):
        Labels(tmp_path, 1, 2)
    with pytest.raises(MissingInput, match="labels.1.3.bin: no such file"):
        Labels(tmp_path, 1, 3)


def sealed(content, at=None, record=None):
    """The file with sums that fit again. Args: at, record: a record changed."""
    _, count, described, index_at, _, _ = HEADER.unpack(content[:44])
    index = np.frombuffer(content, INDEX, count, index_at).copy()
    body = bytearray(content[:index_at])
    if record is not None:
        body[index["at"][0] : index["at"][0] + index["size"][0]] = record
        index["crc"][0] = zlib.crc32(record)
    if at is not None:
        index[at[0]] = at[1]
    tail = index.tobytes() + content[len(content) - described :]
    head = HEADER.pack(b"SLIMLAB1", count, described, index_at, zlib.crc32(tail), bytes(16))
    return head + struct.pack("<I", zlib.crc32(head)) + bytes(body[48:]) + tail


def test_damage_is_named_wherever_it_is(tmp_path):
    path = write(tmp_path / part_name(1, 1), ["a"])
    whole = path.read_bytes()
    assert sealed(whole) == whole
    for place in [*range(60), *range(60, len(whole), 7)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"labels.1.1.bin: .*run steps.label_data again"):
            LabelPart(path).read(0)
        if place % 5 == 0:
            path.write_bytes(whole[:place])
            with pytest.raises(UserError, match=r"labels.1.1.bin: "):
                LabelPart(path)


def test_numbers_that_no_writer_wrote_are_refused(tmp_path):
    path = write(tmp_path / part_name(1, 1), ["a"])
    whole = path.read_bytes()
    entry = LabelPart(path).index[0]
    record = bytearray(whole[int(entry["at"]) : int(entry["at"]) + int(entry["size"])])
    entries, _ = struct.unpack_from("<II", record)
    harms = {
        "no rows": (8, b"\x01"),
        "unit 127 of 6": (8, b"\xff"),
        "no log-probabilities": (8 + entries, np.float16("nan").tobytes()),
        "rows are not of 40 frames": (len(record) - 2, b"\xff\xff"),
        "not as long as it says": (0, b"\xff\xff\xff\xff"),
    }
    for words, (place, harm) in harms.items():
        wrong = bytes(record[:place] + harm + record[place + len(harm) :])
        path.write_bytes(sealed(whole, record=wrong))
        with pytest.raises(UserError, match=words):
            LabelPart(path).read(0)
    for field, value in (("frames", 1 << 31), ("at", 1 << 60), ("at", (1 << 64) - 5), ("size", 5)):
        path.write_bytes(sealed(whole, at=(field, value)))
        with pytest.raises(UserError, match="labels.1.1.bin: "):
            LabelPart(path).read(0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "files": {}, "teachers": 10000000, "parts": 1}']
)
def test_a_list_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(UserError, match="labels.json: not .*run steps.label_data again"):
        read_facts(tmp_path)

"""States as codes: what they lose, and that files hold just what was encoded."""

import struct
import zlib

import numpy as np
import pytest

from steps.core.cli import UserError
from steps.core.config import from_dict, to_dict
from steps.core.outdir import atomic_file
from steps.data import labels as module
from steps.data.label_description import LabelConfig
from steps.data.labels import HEADER, LabelPart, LabelWriter
from steps.data.sparse_posteriors import SparsePosteriors
from steps.data.state_codes import decode, fit, nearest, spread_order
from tests.data.test_labels import describe, posteriors, sealed


def states(frames, width=12, seed=0):
    """(T, width) float32 near a plane, one channel a hundred times as large, one that never changes."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(frames, 4)) @ np.random.default_rng(9).normal(size=(4, width)) + 5
    own += 0.05 * rng.normal(size=own.shape)
    own[:, 0] *= 100
    own[:, 1] = 7
    return own.astype(np.float32)


def test_more_codebooks_lose_less_and_no_channel_is_left_out():
    train, test = states(3000), states(500, seed=1)
    lost = [fit(train, count).lost(test) for count in (1, 2, 4)]
    assert lost[0] < 0.3 and lost[1] < 0.5 * lost[0] and lost[2] < 0.5 * lost[1]
    books = fit(train, 4)
    told = decode(books.vectors, books.encode(test))
    share = ((told - test)[:, 2:] ** 2).mean(axis=0) / test[:, 2:].var(axis=0)
    assert share.max() < 0.2 and np.allclose(told[:, 1], 7, atol=0.02)
    assert ((told - test)[:, 0] ** 2).mean() / test[:, 0].var() < 0.2


def test_codes_are_better_than_those_of_one_book_after_the_other():
    train, test = states(3000), states(500, seed=1)
    books = fit(train, 4)
    vectors, left = books.vectors.astype(np.float32) * books.scale, test * books.scale
    for book in vectors:
        left = left - book[nearest(left, book)]
    chosen = (test - decode(books.vectors, books.encode(test))) * books.scale
    assert (chosen**2).sum() < 0.97 * (left**2).sum()


def test_fewer_frames_than_vectors_are_told_whole():
    own = states(40)
    books = fit(own, 2)
    assert books.lost(own) < 1e-4 and fit(own, 2).vectors.tobytes() == books.vectors.tobytes()


CODED = LabelConfig(hidden_layers=[-1], hidden_codes=3)


def write(path, count, monkeypatch):
    """A part of `count` utterances of 40 frames. Returns: the states, the writer's share that was lost."""
    monkeypatch.setattr(module, "SAMPLE_FRAMES", 100)
    monkeypatch.setattr(module, "CHECK_FRAMES", 20)
    own = [states(40, seed=number) for number in range(count)]
    with atomic_file(path, "wb") as file:
        writer = LabelWriter(file, describe(settings=CODED, places=[2], width=12))
        for number, hidden in enumerate(own):
            writer.add(str(number), SparsePosteriors.of(posteriors(seed=number), 8, 1e-3), [hidden])
        writer.close()
    return own, writer.lost


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_file_holds_codes_of_every_utterance(tmp_path, monkeypatch, count):
    """Five: two of them come after the codebooks were fitted to the first three."""
    own, lost = write(tmp_path / "labels.1.1.bin", count, monkeypatch)
    part = LabelPart(tmp_path / "labels.1.1.bin")
    assert len(part.index) == count and len(lost) == min(count, 1)
    keys = {int(key): row for row, key in enumerate(part.index["key"])}
    for number, hidden in enumerate(own):
        row = keys[int(module.keys_of([str(number)])[0])]
        rows, (told,) = part.read(row)
        wanted = SparsePosteriors.of(posteriors(seed=number), 8, 1e-3).expand()
        assert np.array_equal(rows.expand(), wanted) and told.shape == hidden.shape and told.dtype == np.float32
        assert ((told - hidden) ** 2).mean() < 0.2 * hidden.var()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 21, 64, 100])
def test_the_first_few_of_an_order_lie_evenly(count):
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    for few in range(1, count + 1):
        places = [-1, *sorted(order[:few]), count]
        assert max(b - a for a, b in zip(places, places[1:], strict=False)) <= 3 * count / few


def test_what_codes_lose_is_measured_on_frames_they_were_not_fitted_to(tmp_path, monkeypatch):
    """128 frames are told whole by as many vectors, others are not."""
    monkeypatch.setattr(module, "SAMPLE_FRAMES", 128)
    monkeypatch.setattr(module, "CHECK_FRAMES", 64)
    own, lost = [states(40, seed=number) for number in range(6)], []
    for count in (3, 6):
        with atomic_file(tmp_path / "labels.1.1.bin", "wb") as file:
            writer = LabelWriter(file, describe(settings=CODED, places=[2], width=12))
            for number in range(count):
                assert writer.is_fitted is (number == 5)
                writer.add(str(number), SparsePosteriors.of(posteriors(seed=number), 8, 1e-3), [own[number]])
            writer.close()
        assert writer.is_fitted and writer.is_checked is (count == 6)
        lost += writer.lost
    whole = np.concatenate(own[:5])
    assert lost[0] < 0.01 and lost[1] > 0.05 and lost[1] == fit(whole[:128], 3).lost(whole[128:])


def test_damaged_codebooks_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "labels.1.1.bin"
    write(path, 2, monkeypatch)
    whole = path.read_bytes()
    start = HEADER.size + 4
    path.write_bytes(whole[: start + 9] + b"\x55" + whole[start + 10 :])
    with pytest.raises(UserError, match=r"labels.1.1.bin: its codebooks are damaged; run steps.label_data again"):
        LabelPart(path)
    size = 2 * 3 * 256 * 12
    content = np.float16("nan").tobytes() + whole[start + 2 : start + size]
    harmed = whole[:start] + content + struct.pack("<I", zlib.crc32(content)) + whole[start + size + 4 :]
    path.write_bytes(sealed(harmed))
    with pytest.raises(UserError, match="its codebooks are damaged"):
        LabelPart(path)
    path.write_bytes(sealed(whole, at=("at", start + 8)))
    with pytest.raises(UserError, match="its codebooks are not as long as it says"):
        LabelPart(path)


def test_settings():
    assert "hidden_codes" not in to_dict(LabelConfig())
    for wrong, words in (
        ({"hidden_codes": 0, "hidden_layers": [-1]}, "1 to 64"),
        ({"hidden_codes": 8}, "hidden_layers"),
    ):
        with pytest.raises(UserError, match=words):
            from_dict(LabelConfig, wrong, "label.yaml")

"""Checkpoints: exact, bounded on disk, damage noticed, no pickled code executed."""

import pickle

import pytest
import torch

from steps.core.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from steps.core.cli import UserError

STATE = {"step": 3, "model": {"w": torch.arange(6.0)}, "best": {"loss": float("inf")}, "names": ["a", "b"]}


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path, 3, STATE)
    state = load_checkpoint(tmp_path)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])
    assert {key: state[key] for key in ("step", "best", "names")} == {
        key: STATE[key] for key in ("step", "best", "names")
    }


def test_an_empty_folder_has_none(tmp_path):
    assert load_checkpoint(tmp_path / "nothing") is None


def test_only_the_newest_two_stay(tmp_path):
    for step in (1, 20, 300, 4000):
        save_checkpoint(tmp_path, step, STATE)
    (tmp_path / ".step-000000001-0123456789abcdef.pt.tmp").write_bytes(b"of a run that was killed")
    save_checkpoint(tmp_path, 50_000, STATE)
    steps = [path.name.split("-")[1] for path in list_checkpoints(tmp_path)]
    assert steps == ["000050000", "000004000"]
    assert len(list(tmp_path.iterdir())) == 2


def test_steps_are_compared_as_numbers(tmp_path):
    for step in (999_999_999, 1_000_000_000):
        save_checkpoint(tmp_path, step, STATE | {"step": step})
    assert load_checkpoint(tmp_path)["step"] == 1_000_000_000


def test_the_earlier_ones_stay_until_the_new_one_reads_back(tmp_path, monkeypatch):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, STATE | {"step": step})
    monkeypatch.setattr("steps.core.checkpoint.sha256_file", lambda path: "0" * 64)
    with pytest.raises(UserError, match="reads back differently"):
        save_checkpoint(tmp_path, 3, STATE)
    monkeypatch.undo()
    next(tmp_path.glob("step-000000003-*")).write_bytes(b"what the disk made of it")
    assert load_checkpoint(tmp_path)["step"] == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_one_is_named_and_passed_over(tmp_path, capsys, damage):
    save_checkpoint(tmp_path, 1, STATE | {"step": 1})
    save_checkpoint(tmp_path, 2, STATE | {"step": 2})
    newest = list_checkpoints(tmp_path)[0]
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        newest.write_bytes(content[:-10])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.write_bytes(b"")
    assert load_checkpoint(tmp_path)["step"] == 1
    assert "step-000000002-" in capsys.readouterr().out


def test_all_damaged_is_an_error(tmp_path):
    save_checkpoint(tmp_path, 1, STATE)
    list_checkpoints(tmp_path)[0].write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint is whole"):
        load_checkpoint(tmp_path)


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("executed",)


def test_pickled_code_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, pickle.PicklingError, RuntimeError, AttributeError)):
        save_checkpoint(tmp_path / "c", 1, {"x": Evil()})
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "executed").exists()

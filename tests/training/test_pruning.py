"""Cutting in rounds, and zeros that stay zeros while a sparse model recovers."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from steps.compress import plan
from steps.compress.footprint import count_nonzero
from steps.compress.sparsity import SparsityConfig, measured_sparsity, sparsify_
from steps.compress.surgery import shrink
from steps.core.cli import MissingInput, UserError
from steps.models.build import CARRIED, build_model, new_spec, save_model
from steps.prune_model import PruneConfig, cut_model, recover, report_cut

SIZES = {"d_model": 24, "context": 3, "num_blocks": 2, "block": {"units": 96}}


class Bench:
    """What cut_model and recover take from Setup, without data: models by folder, and what they were handed."""

    def __init__(self, folder, model=None, **settings):
        torch.manual_seed(1)
        model = model or build_model(new_spec("dnn", SIZES, 20, 11, "test"))
        for name in CARRIED:
            (folder / name).write_text(name)
        save_model(folder / "parent", model, {name: folder / name for name in CARRIED})
        self.config = PruneConfig(**settings)
        self.args = SimpleNamespace(model=folder / "parent", teacher=None)
        self.models, self.trained = {self.args.model: model}, None

    def load(self, folder):
        return self.models[folder]

    def save(self, folder, model, parent):
        self.models[folder] = model

    def objective(self, model, teacher):
        return None

    def train(self, model, objective, out, parent, after_update, epochs):
        self.trained = after_update


def rounds(bench, count):
    """The model after each of `count` portions, no training between them."""
    folders = [bench.args.model, *(bench.args.model.parent / str(number) for number in range(count))]
    for number, (parent, out) in enumerate(zip(folders[:-1], folders[1:], strict=True), start=1):
        cut_model(bench, parent, out, number / count)
        yield bench.models[out]


def test_each_round_takes_the_same_share_of_what_is_left(tmp_path):
    wanted = {"target": "parameters", "keep": 0.4, "importance": "magnitude"}
    bench = Bench(tmp_path, method="structured", structured=plan.StructuredConfig(**wanted))
    whole = plan.cost(bench.models[bench.args.model].spec, "parameters")
    left = [plan.cost(model.spec, "parameters") / whole for model in rounds(bench, 3)]
    for share, number in zip(left, (1, 2, 3), strict=True):
        assert 0.93 * 0.4 ** (number / 3) < share <= 0.4 ** (number / 3)


def test_a_cut_of_nothing_is_refused():
    whole, blocks = plan.StructuredConfig(keep=1.0), plan.StructuredConfig(keep=1.0, drop_blocks=1)
    with pytest.raises(ValueError, match="structured: keep: 1 without drop_blocks cuts nothing"):
        PruneConfig(method="structured", structured=whole)
    assert PruneConfig(method="structured", structured=blocks) and PruneConfig(method="sparse", structured=whole)


def units(model):
    """Widths of the blocks of a dnn."""
    return [block["units"] for block in model.spec["model"]["blocks"]]


def test_the_least_share_is_one_of_the_original_sizes_after_all_rounds(tmp_path):
    wanted = {"target": "parameters", "keep": 0.75, "min_fraction": 0.5, "importance": "magnitude"}
    bench = Bench(tmp_path, method="structured", structured=plan.StructuredConfig(**wanted))
    # beside a few of its parts the others of the first block count for little
    with torch.no_grad():
        bench.models[bench.args.model].blocks[0].up.weight[:4] *= 1000
    first, *later = [units(model)[0] for model in rounds(bench, 3)]
    assert 48 < first < 96 and later == [48, 48]
    # as an older version left its rounds
    (tmp_path / "sizes.json").unlink()
    cut_model(bench, tmp_path / "1", tmp_path / "again", 1.0)
    assert units(bench.models[tmp_path / "again"])[0] == 48
    unreachable = dataclasses.replace(bench.config.structured, keep=0.4)
    bench.config = dataclasses.replace(bench.config, structured=unreachable)
    with pytest.raises(UserError, match=r"keep: 0.4 of the parameters cannot be reached, 0.\d+ is the least"):
        cut_model(bench, bench.args.model, tmp_path / "out", 1 / 3)
    assert tmp_path / "out" not in bench.models


def test_the_least_share_holds_for_blocks_that_were_renamed(tmp_path):
    """Of blocks 96, 96 and 48 wide the second goes; the third has its name then, and may have 24 units."""
    torch.manual_seed(1)
    model = build_model(new_spec("dnn", SIZES | {"num_blocks": 3}, 20, 11, "test"))
    model = shrink(model, {"blocks.2.units": range(48)})
    wanted = {"target": "parameters", "keep": 0.42, "min_fraction": 0.5, "importance": "magnitude", "scope": "local"}
    wanted |= {"drop_blocks": 1, "drop_order": "spread"}
    bench = Bench(tmp_path, model, method="structured", structured=plan.StructuredConfig(**wanted))
    *_, (first, second) = [units(model) for model in rounds(bench, 3)]
    assert first >= 48 and 24 <= second < 48
    (tmp_path / "sizes.json").unlink()
    with pytest.raises(MissingInput, match=r"sizes.json: no such file; an older version .* remove .* and cut again"):
        cut_model(bench, tmp_path / "0", tmp_path / "out", 1.0)


def test_sparse_rounds_follow_the_ramp(tmp_path):
    bench = Bench(tmp_path, method="sparse")
    zeros = [measured_sparsity(model) for model in rounds(bench, 2)]
    assert zeros == pytest.approx([0.5 * 0.875, 0.5], abs=1e-3)


@pytest.mark.parametrize(("there", "asked"), [(0.6, 0.6), (0.6, 0.3), (0.0, 0.0), (0.0, 1e-6)])
def test_a_cut_that_makes_no_zeros_is_refused(tmp_path, there, asked):
    bench = Bench(tmp_path, method="sparse", sparse=SparsityConfig(fraction=asked))
    sparsify_(bench.models[bench.args.model], there)
    with pytest.raises(UserError, match=f"sparse: fraction: {asked:g}, but .*parent has {there:.1%} zeros already"):
        cut_model(bench, bench.args.model, "out", 1.0)
    assert "out" not in bench.models


def test_a_last_round_that_has_nothing_left_to_do_does_not_end_the_training(tmp_path):
    bench = Bench(tmp_path, method="sparse")
    (first,) = rounds(bench, 1)
    assert measured_sparsity(cut_model(bench, tmp_path / "0", "out", 1.0)) == measured_sparsity(first)


def test_zeros_that_are_there_do_not_end_the_first_of_several_rounds(tmp_path):
    bench = Bench(tmp_path, method="sparse", sparse=SparsityConfig(fraction=0.7))
    sparsify_(bench.models[bench.args.model], 0.68)
    zeros = [measured_sparsity(model) for model in rounds(bench, 2)]
    assert zeros == pytest.approx([0.68, 0.7], abs=1e-3)


@pytest.mark.parametrize("zeros", [0.0, 0.8])
def test_zeros_that_factors_undo_are_warned_of(tmp_path, capsys, zeros):
    bench = Bench(tmp_path, method="low_rank")
    model = bench.models[bench.args.model]
    if zeros:
        sparsify_(model, zeros)
        save_model(bench.args.model, model, {name: tmp_path / name for name in CARRIED})
    small = cut_model(bench, bench.args.model, tmp_path / "out", 1.0)
    report_cut(bench.args.model, small)
    told = capsys.readouterr().out
    assert ("parent: is sparse, and two factors of a matrix with zeros have none" in told) is bool(zeros)
    assert f"non-zero {count_nonzero(model):,} -> {count_nonzero(small):,}," in told


def test_zeros_stay_while_a_sparse_model_recovers(tmp_path):
    bench = Bench(tmp_path, method="sparse")
    model = bench.models[bench.args.model]
    masks = sparsify_(model, 0.6)
    recover(bench, bench.args.model, tmp_path / "out", 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    bench.trained(model)
    assert measured_sparsity(model) == pytest.approx(0.6, abs=1e-3)
    assert all((model.get_parameter(name)[mask] != 0).any() for name, mask in masks.items())


def test_a_dense_model_recovers_freely(tmp_path):
    bench = Bench(tmp_path, method="sparse")
    recover(bench, bench.args.model, tmp_path / "out", 1)
    assert bench.trained is None

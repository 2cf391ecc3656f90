"""Bits under a budget: the choice is the best there is, and its size is what was asked for or less."""

import itertools
import json
import random

import pytest
import torch

from steps.compress.budget import (
    Knapsack,
    Option,
    bits_of,
    candidates,
    describe_budget,
    measure_options,
    read_options,
    size_of_codes,
    within_bits,
    within_file,
    written_options,
)
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import rounding_coder
from steps.compress.rounding import short_scales
from steps.compress.sparsity import sparsify_
from steps.core.cli import UserError


def random_options(seed, layers=5):
    draw = random.Random(seed)
    rows = {}
    for place in range(layers):
        weights, cost = draw.choice([24, 40, 112]), 0.0
        rows[f"l{place}"] = row = []
        for bits in (8, 4, 2, 1):
            row.append(Option(bits, weights * bits, cost))
            cost += draw.choice([0.0, draw.random()])
    return rows


def every_choice(options):
    for row in itertools.product(*options.values()):
        yield size_of_codes(dict(zip(options, row, strict=True))), sum(option.cost for option in row)


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_of_this_size_costs_less(seed):
    options = random_options(seed)
    knapsack, found = Knapsack(options), list(every_choice(options))
    assert knapsack.smallest == min(size for size, _ in found) and knapsack.largest == max(size for size, _ in found)
    for size in range(knapsack.smallest, knapsack.largest + 30, 17):
        chosen = knapsack.choose(size)
        assert list(chosen) == list(options)
        assert size_of_codes(chosen) <= size
        cost = sum(option.cost for option in chosen.values())
        assert cost == pytest.approx(min(cost for its_size, cost in found if its_size <= size))


def test_sizes_without_a_common_measure_are_rounded_up(monkeypatch):
    monkeypatch.setattr("steps.compress.budget.MOST_UNITS", 10)
    options = {f"l{place}": [Option(8, 97 * (place + 1), 0.0), Option(1, 11 + place, 1.0)] for place in range(6)}
    knapsack = Knapsack(options)
    assert knapsack.unit > 100
    for size in range(knapsack.smallest, knapsack.largest, 50):
        assert size_of_codes(knapsack.choose(size)) <= size


def test_the_file_is_never_larger_than_asked_and_impossible_sizes_are_named():
    knapsack = Knapsack(random_options(1))

    def export_bytes(layers):
        # graph and names, and a table for each number of bits
        return size_of_codes({n: next(o for o in knapsack.options[n] if o.bits == b) for n, b in layers.items()}) + (
            1000 + 100 * len(set(layers.values()))
        )

    # with one table the smallest
    smallest = knapsack.smallest + 1100
    for target in range(smallest, smallest + 1200, 37):
        found = within_file(knapsack, target, export_bytes)
        assert export_bytes(bits_of(found)) <= target
        # what these bytes of codes buy with all the tables there can be is no better
        cost = sum(option.cost for option in found.values())
        assert cost <= sum(option.cost for option in knapsack.choose(max(knapsack.smallest, target - 1400)).values())
    with pytest.raises(UserError, match=rf"smallest export has {smallest / 1000:.1f} kB, with 1 bits"):
        within_file(knapsack, smallest - 1, export_bytes)


def test_bits_a_weight_on_average():
    options = {"a": [Option(8, 100, 0.0), Option(1, 13, 0.5)], "b": [Option(8, 100, 0.0), Option(1, 13, 0.1)]}
    knapsack = Knapsack(options)
    assert bits_of(within_bits(knapsack, 4.6, 200)) == {"a": 8, "b": 1}
    with pytest.raises(UserError, match=r"target_bits: 1, but the fewest are 1\.04"):
        within_bits(knapsack, 1.0, 200)
    told = describe_budget(knapsack, within_bits(knapsack, 4.6, 200), 1.0, 200, 5000)
    assert told["chosen"] == {"code_bytes": 113, "bits": 4.52, "loss": 1.1, "layers": {"a": 8, "b": 1}}
    assert told["alternatives"][0]["layers"] == {"a": 1, "b": 1}
    assert told["alternatives"][-1]["loss"] == 1.0


def test_what_is_measured_is_the_loss_with_one_layer_coded_and_never_falls(make, tmp_path):
    model = make("dnn")
    config = QuantizeConfig(target_bits=3, skip=["blocks.0", "blocks.2"], layers={"output": 8}, bits=4)
    formats = candidates(model, config)
    assert set(formats) == {"frontend.linear", "blocks.1.up", "blocks.1.down"}
    assert [format.bits for format in formats["blocks.1.up"]] == [4, 3, 2, 1]
    state, asked = {name: t.clone() for name, t in model.state_dict().items()}, []

    def loss(tried):
        coded = [name for name, layer in tried.named_modules() if type(layer).__name__ == "QuantLinear"]
        asked.append(tuple(coded))
        # fewer bits would cost less
        return 1.0 + 0.1 * sum(tried.get_submodule(name).format.bits for name in coded)

    options = {}
    base = measure_options(model, formats, rounding_coder("mse", short_scales), loss, options)
    assert base == 1.0 and sorted(map(len, set(asked))) == [0, 1, 1, 1]
    assert [option.cost for option in options["blocks.1.up"]] == pytest.approx([0.4] * 4)
    rows, columns = model.blocks[1].up.weight.shape
    assert options["blocks.1.up"][2].size_bytes == rows * -(-columns * 2 // 8)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    asked.clear()
    (tmp_path / "known.json").write_text(
        json.dumps(written_options({name: options[name] for name in list(options)[:2]}))
    )
    again = read_options(tmp_path / "known.json")
    assert (
        measure_options(model, formats, rounding_coder("mse", short_scales), loss, again) == base and again == options
    )
    assert {name for names in asked for name in names} == {list(options)[2]}, "only what is not known is measured"
    (tmp_path / "known.json").write_text('{"a": [{"bits": 3}]}')
    with pytest.raises(UserError, match="known.json: is not what was measured; remove it"):
        read_options(tmp_path / "known.json")


@pytest.mark.parametrize(("most", "tried"), [(8, [8, 6, 4, 3, 2, 1]), (7, [7, 6, 4, 3, 2, 1]), (5, [5, 4, 3, 2, 1])])
def test_a_layer_may_get_the_most_bits_there_are(make, most, tried):
    formats = candidates(make("dnn"), QuantizeConfig(target_bits=3, bits=most))
    assert [[format.bits for format in row] for row in formats.values()] == [tried] * len(formats)


def test_a_sparse_model_gets_no_format_without_a_zero(make):
    model = make("dnn")
    sparsify_(model, 0.5)
    formats = candidates(model, QuantizeConfig(target_bits=3))
    assert all(format.grid != "half" for row in formats.values() for format in row)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"target_kb": 1, "target_bits": 2}, "not both"),
        ({"target_kb": 0}, "above 0"),
        ({"target_bits": 2, "bits": 1}, "2 to 8"),
        ({"target_bits": 2, "bits": "ternary"}, "2 to 8"),
        ({"target_bits": 2, "bits": 2, "grid": "half"}, "grid must be auto"),
    ],
)
def test_settings_that_do_not_fit_a_target_are_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        QuantizeConfig(**settings)

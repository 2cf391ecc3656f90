"""Bits under a budget: what few bits cost each layer, measured, and the choice of bits that costs least within a size."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import Coder, block_tensors, choose_formats, covers, quantized_tensors, round_rest
from steps.core.cli import UserError, say
from steps.models.asr_model import AsrModel
from steps.models.codes import CodeFormat
from steps.models.quant_layers import quantized_like

# tried below the most that a layer may get
FEWER_BITS = (6, 4, 3, 2, 1)
# sizes are rounded up to units of at most this share of the range, where layers have no larger common measure
MOST_UNITS = 200_000
# rounds of choosing and exporting; each goes by what the last ones found of the size of graph and names
ROUNDS = 8
ALTERNATIVES = 9


@dataclass(frozen=True)
class Option:
    """A layer with some bits. size_bytes: of its codes, packed.   cost: what it adds to the loss, nats per frame, >= 0."""

    bits: int
    size_bytes: int
    cost: float


Options = Mapping[str, Sequence[Option]]


def candidates(model: AsrModel, config: QuantizeConfig) -> dict[str, list[CodeFormat]]:
    """The formats that each layer may get, most bits first: of Linears and LSTMs, without those that `layers` decides about."""
    sparse = bool(model.spec["sparsity"])
    names = [
        name
        for name in choose_formats(model, config)
        if isinstance(model.get_submodule(name), (nn.Linear, nn.LSTM))
        and not any(covers(entry, name) for entry in config.layers)
    ]
    if not names:
        raise UserError("nothing to choose: `layers` and `skip` decide about every layer; leave out the target")
    most = int(config.bits)
    tried = [most, *(bits for bits in FEWER_BITS if bits < most)]
    formats = [config.format({"bits": bits, "group": config.group}, sparse) for bits in tried]
    # a sparse model keeps its zeros
    return dict.fromkeys(names, [format for format in formats if not (sparse and format.grid == "half")])


def unmeasured(model: AsrModel, formats: Mapping[str, Sequence[CodeFormat]]) -> Options:
    """Sizes alone: what each layer may get, as if it cost nothing."""
    found = dict[str, Sequence[Option]]()
    for name, choices in formats.items():
        layer = model.get_submodule(name)
        shapes = [tuple(codes.codes.shape) for codes in quantized_like(layer, choices[0]).matrices().values()]
        found[name] = [Option(form.bits, sum(form.code_bytes(*shape) for shape in shapes), 0.0) for form in choices]
    return found


def measure_options(
    model: AsrModel,
    formats: Mapping[str, Sequence[CodeFormat]],
    coder: Coder,
    loss: Callable[[AsrModel], float],
    options: dict[str, Sequence[Option]],
) -> float:
    """Measure what each format costs each layer, the others left in float.

    Args:    formats: most bits first.   coder: rounds.   loss: of a model, nats per frame.   options: by layer, what is known already;
             gets the rest layer by layer, costs that never fall with fewer bits.
    Returns: loss of the float model.
    """
    base = loss(model)
    for name, choices in formats.items():
        if name not in options:
            layer, found = model.get_submodule(name), list[Option]()
            for format in choices:
                coded = quantized_like(layer, format)
                coded.load_state_dict(quantized_tensors(name, coded, layer.state_dict(), coder))
                model.set_submodule(name, coded.to(next(layer.parameters()).device))
                cost = max(loss(model) - base, found[-1].cost if found else 0.0)
                size = sum(format.code_bytes(*codes.codes.shape) for codes in coded.matrices().values())
                found.append(Option(format.bits, size, cost))
            model.set_submodule(name, layer)
            options[name] = found
        say(f"  {name}: " + ", ".join(f"{option.bits} bits +{option.cost:.5f}" for option in options[name]))
    return base


def written_options(options: Options) -> dict[str, list[dict[str, float]]]:
    """Options for JSON."""
    return {name: [asdict(option) for option in row] for name, row in options.items()}


def read_options(path: Path) -> dict[str, Sequence[Option]]:
    """What `written_options` wrote. Raises: UserError when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: [Option(**option) for option in row] for name, row in content.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: is not what was measured; remove it, and all layers are measured again") from None


class Knapsack:
    """The cheapest choice for every size, by dynamic programming over the bytes beyond the smallest choice.

    Args:       options: of each layer.
    Attributes: smallest, largest: bytes of the smallest and of the largest choice.
    """

    def __init__(self, options: Options):
        self.options = options
        least = {name: min(option.size_bytes for option in row) for name, row in options.items()}
        extra = {name: [option.size_bytes - least[name] for option in row] for name, row in options.items()}
        self.smallest = sum(least.values())
        self.largest = self.smallest + sum(max(row) for row in extra.values())
        common = functools.reduce(math.gcd, (size for row in extra.values() for size in row), 0) or 1
        self.unit = common * max(1, math.ceil((self.largest - self.smallest) / common / MOST_UNITS))
        most = sum(-(-max(row) // self.unit) for row in extra.values())
        costs = np.zeros(most + 1)
        self.steps: list[tuple[str, list[int], np.ndarray]] = []
        for name, row in extra.items():
            sizes = [-(-size // self.unit) for size in row]
            tried = np.full((len(sizes), most + 1), np.inf)
            for place, (size, option) in enumerate(zip(sizes, options[name], strict=True)):
                tried[place, size:] = costs[: most + 1 - size] + option.cost
            self.steps.append((name, sizes, tried.argmin(axis=0).astype(np.uint8)))
            costs = tried.min(axis=0)

    def choose(self, size_bytes: int) -> dict[str, Option]:
        """The choice of least cost whose codes take at most this many bytes. Args: size_bytes: `smallest` or more."""
        left = min((size_bytes - self.smallest) // self.unit, len(self.steps[0][2]) - 1)
        chosen = {}
        for name, sizes, best in reversed(self.steps):
            place = int(best[left])
            chosen[name] = self.options[name][place]
            left -= sizes[place]
        return dict(reversed(chosen.items()))


@torch.no_grad()
def as_if_trained_(model: AsrModel) -> None:
    """Give norms, biases and whatever else training will change numbers that no two of them share, so that an export is no smaller
    than a trained one: equal constants are stored once, and what float16 has, as float16. Args: model: with codes.
    """
    random = torch.Generator().manual_seed(0)
    rest, blocks = (model.spec["quantization"] or {}).get("rest"), block_tensors(model)
    moved = {
        name: tensor + 0.01 * torch.rand(tensor.shape, generator=random) for name, tensor in model.named_parameters()
    }
    moved = round_rest(moved, rest, blocks)
    for name, tensor in model.named_parameters():
        tensor.copy_(moved[name])


def size_of_codes(chosen: Mapping[str, Option]) -> int:
    """Bytes of packed codes."""
    return sum(option.size_bytes for option in chosen.values())


def bits_of(chosen: Mapping[str, Option]) -> dict[str, int]:
    """The entries of `layers` that a choice stands for."""
    return {name: option.bits for name, option in chosen.items()}


def within_file(
    knapsack: Knapsack, target_bytes: int, export_bytes: Callable[[dict[str, int]], int]
) -> dict[str, Option]:
    """The choice of least cost whose export is not larger than asked; every other number of bits in it costs a table, 200 bytes.

    Args:   export_bytes: of the export with these bits.   Raises: UserError that names the smallest size there is.
    """
    chosen, size = smallest_file(knapsack, target_bytes, export_bytes)
    # of codes, that fit, and that do not
    fits, tried = knapsack.smallest, target_bytes - (size - knapsack.smallest)
    too_many, less = tried + 1, 0
    for _ in range(ROUNDS):
        more = knapsack.choose(max(tried, fits))
        size = export_bytes(bits_of(more))
        if size <= target_bytes:
            chosen, fits = more, max(tried, fits)
            tried = (fits + too_many) // 2
        else:
            # by what it is over, then by more and more, but never by more than half of what is left
            too_many, less = tried, max(size - target_bytes, 2 * less)
            tried = max(tried - less, (fits + too_many) // 2)
        if too_many - fits <= knapsack.unit:
            break
    return chosen


def smallest_file(
    knapsack: Knapsack, target_bytes: int, export_bytes: Callable[[dict[str, int]], int]
) -> tuple[dict[str, Option], int]:
    """The choice with the fewest bits, and the bytes of its export. Raises: UserError where these are more than asked for."""
    chosen = knapsack.choose(knapsack.smallest)
    size = export_bytes(bits_of(chosen))
    if size > target_bytes:
        raise UserError(
            f"target_kb: {target_bytes / 1000:g}, but the smallest export has {size / 1000:.1f} kB, with "
            f"{min(option.bits for option in chosen.values())} bits; ask for more, give all the rest fewer bits "
            "(convolutions: 6, rest: int8), or shrink the model first"
        )
    return chosen, size


def within_bits(knapsack: Knapsack, target_bits: float, weights: int) -> dict[str, Option]:
    """The choice of least cost with this many bits for each weight on average. Args: weights: their number.

    Raises: UserError that names the fewest there are.
    """
    budget = math.floor(target_bits * weights / 8)
    if budget < knapsack.smallest:
        raise UserError(f"target_bits: {target_bits:g}, but the fewest are {8 * knapsack.smallest / weights:.2f}")
    return knapsack.choose(budget)


def describe_budget(
    knapsack: Knapsack, chosen: Mapping[str, Option], base: float, weights: int, export_bytes: int
) -> dict[str, Any]:
    """The content of budget.json: the choice, what was measured, and what other sizes would have got."""
    span = knapsack.largest - knapsack.smallest
    others = [knapsack.choose(knapsack.smallest + span * step // (ALTERNATIVES - 1)) for step in range(ALTERNATIVES)]
    rows = [
        {"code_bytes": size_of_codes(row), "bits": round(8 * size_of_codes(row) / weights, 3),
         "loss": round(base + sum(option.cost for option in row.values()), 5), "layers": bits_of(row)}
        for row in (chosen, *others)
    ]  # fmt: skip
    measured = {
        name: {
            str(option.bits): {"code_bytes": option.size_bytes, "loss": round(base + option.cost, 5)} for option in row
        }
        for name, row in knapsack.options.items()
    }
    facts = {"export_bytes": export_bytes, "float_loss": round(base, 5)}
    return facts | {"chosen": rows[0], "alternatives": rows[1:], "measured": measured}

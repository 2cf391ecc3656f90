"""Rounding that makes up for its errors: what a rounded weight gets wrong, later ones of its row correct, as far as the layer's inputs
let them.

Source: Frantar et al. 2022 (arXiv:2210.17323), sections 3.2 and 3.3, without their lazy batches; scales are those of least
squares. The gates of an LSTM are treated as two layers, for the input and for the previous output. A sparse model's zeros stay,
and what they would have taken on goes to later weights (SparseGPT, Frantar and Alistarh 2023, arXiv:2301.00774).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from steps.compress import rounding
from steps.compress.quantizer import Coder, layer_suffix
from steps.data.batches import Batch
from steps.models.asr_model import AsrModel
from steps.models.codes import CodeFormat, Codes
from steps.models.context import Windows, padding_mask

# share of the mean square of the inputs that is added to each, so that the matrix can be inverted
DAMPING = 0.01


def gptq_coder(
    model: AsrModel,
    formats: Mapping[str, CodeFormat],
    batches: Sequence[Batch],
    shorten: rounding.Shorten | None,
    fallback: Coder,
) -> Coder:
    """Round the layers of a model in the order of its modules, each by what it hears when those before are rounded already.

    Args:    model: its weights become those that the codes stand for.   batches: features and lengths of training data.
             shorten: of scales, see rounding.shortener.   fallback: codes convolutions, and layers that hear no frames: those of a
             transducer behind its encoder.
    Returns: a coder that gives the codes found here.
    """
    found: dict[tuple[str, str], Codes] = {}
    sparse = bool(model.spec["sparsity"])
    for names in stages(model, formats):
        moments = second_moments(model, names, batches)
        for (name, matrix), moment in moments.items():
            weight = getattr(model.get_submodule(name), matrix + layer_suffix(model.get_submodule(name)))
            codes = compensated(weight.detach(), moment, formats[name], rounding.of_matrix(shorten, matrix), sparse)
            weight.data.copy_(codes.dequantized())
            found[name, matrix] = Codes(codes.codes.cpu(), codes.scales.cpu(), codes.format)

    def code(name: str, matrix: str, weight: torch.Tensor, format: CodeFormat) -> Codes:
        return found[name, matrix] if (name, matrix) in found else fallback(name, matrix, weight, format)

    return code


def stages(model: AsrModel, names: Mapping[str, Any]) -> Iterator[list[str]]:
    """The Linear and LSTM layers among `names` in groups that are looked at in one pass over the data: the front end's, each
    block's, the head's.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if isinstance(model.get_submodule(name), (nn.Linear, nn.LSTM)):
            parts = name.split(".")
            groups.setdefault(".".join(parts[:2]) if parts[0] == "blocks" else parts[0], []).append(name)
    order = [name for name, _ in model.named_modules()]
    yield from sorted(groups.values(), key=lambda group: order.index(group[0]))


@torch.no_grad()
def second_moments(
    model: AsrModel, names: Sequence[str], batches: Sequence[Batch]
) -> dict[tuple[str, str], torch.Tensor]:
    """Mean products of the inputs of layers, padding left out; inputs of two axes are no frames, and none of them is padding.

    Returns: {(layer, matrix): (I, I) float64}.
    """
    sums: dict[tuple[str, str], torch.Tensor] = {}
    # of each utterance in the batch that runs: encoder frames, and frames in its blocks, of each window where they run in such
    lengths = of_blocks = torch.empty(0)

    def add(key: tuple[str, str], inputs: torch.Tensor) -> None:
        if inputs.dim() > 2:
            own = of_blocks if key[0].startswith(("blocks.", "widening.")) else lengths
            inputs = inputs[~padding_mask(own, inputs.shape[1])]
        # (frames, I), or more of them where the input has more axes
        rows = inputs.flatten(0, -2).double()
        sums[key] = sums.get(key, 0.0) + rows.T @ rows / len(rows)

    def listen(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: Any) -> None:
            if isinstance(layer, nn.LSTM):
                add((name, "weight_ih"), inputs[0])
                add((name, "weight_hh"), nn.functional.pad(outputs[0], (0, 0, 1, 0))[:, :-1])
            else:
                add((name, "weight"), inputs[0])

        return hook

    handles = [model.get_submodule(name).register_forward_hook(listen(name)) for name in names]
    model.eval()
    for batch in batches:
        lengths = model.output_lengths(batch.lengths)
        of_blocks = model.block_lengths(lengths)
        if model.ahead:
            frames = int(model.output_lengths(torch.tensor(batch.feats.shape[1])))
            of_blocks = Windows.of(frames, model.chunk, model.ahead).lengths(lengths)
        model(batch.feats, batch.lengths)
    for handle in handles:
        handle.remove()
    return {key: total / len(batches) for key, total in sums.items()}


def compensated(
    weight: torch.Tensor,
    moment: torch.Tensor,
    format: CodeFormat,
    shorten: rounding.Shorten | None,
    keep_zeros: bool = False,
) -> Codes:
    """Codes of a matrix by GPTQ.

    Args: weight (O, I).   moment: (I, I), mean products of its inputs.   shorten: of scales; None: they stay.
          keep_zeros: weights that are zero stay so; for a format with a zero.
    """
    scales = rounding.least_squares_scales(weight, format)
    scales = scales if shorten is None else shorten(scales)
    columns = weight.shape[1]
    spread = rounding.spread(scales, format, columns).expand(-1, columns)
    mean = moment.diagonal().mean().clamp(min=1e-30)
    damped = moment + DAMPING * mean * torch.eye(columns, dtype=moment.dtype, device=moment.device)
    # of the inverse, upper triangular: row j says how an error in column j is spread over the later ones
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    left, codes = weight.double().clone(), torch.zeros_like(weight, dtype=torch.int8)
    for column in range(columns):
        one = rounding.round_to_codes(
            left[:, column : column + 1].float(), spread[:, column], CodeFormat(format.bits, format.grid)
        )
        rounded = one.dequantized()[:, 0].double()
        if keep_zeros:
            is_zero = weight[:, column] == 0
            one.codes[is_zero], rounded[is_zero] = 0, 0.0
        codes[:, column] = one.codes[:, 0]
        error = (left[:, column] - rounded) / inverse[column, column]
        left[:, column + 1 :] -= error.unsqueeze(1) * inverse[column, column + 1 :]
    return Codes(codes, scales, format)

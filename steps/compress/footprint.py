"""What a model costs: parameters, non-zero parameters, multiply-accumulates per second of audio."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from steps.models.asr_model import AsrModel
from steps.models.build import build_model, weights_of

FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class Footprint:
    """parameters: count.   macs_per_second: multiply-accumulates per second of audio."""

    parameters: int
    macs_per_second: float


def count_parameters(model: AsrModel) -> int:
    """Number of parameters; a quantized weight counts as one whatever its bits."""
    return sum(tensor.numel() for tensor in weights_of(model))


def count_nonzero(model: AsrModel) -> int:
    """Number of parameters that are not exactly zero."""
    return sum(int(tensor.count_nonzero()) for tensor in weights_of(model))


class _CountLstm(TorchFunctionMode):
    """Counts LSTM calls by formula, one multiply-accumulate per matrix entry and frame, and skips the recurrence.

    The dispatcher's counter sees nothing of a fused CPU LSTM, and thousands of small products on the meta device.
    """

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.lstm:
            return func(*args, **(kwargs or {}))
        inputs, state, weights, _, _, _, _, bidirectional, _ = args
        self.macs += inputs.shape[0] * inputs.shape[1] * sum(weight.numel() for weight in weights if weight.dim() == 2)
        width = weights[1].shape[1] * (2 if bidirectional else 1)
        return inputs.new_empty(*inputs.shape[:2], width), *state


class _Whole(torch.nn.Module):
    """A model with every layer that recognises, once a frame: of a whole utterance, or of one chunk after others."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, feats, counts):
        model = self.model
        if not model.chunk:
            return model.head.probe(model, model(feats, counts)[0])
        hidden, _ = model.encode_chunk(feats, model.first_states(1), counts)
        return model.head.probe(model, model.classify(hidden))


def macs_per_second(model: AsrModel, seconds: float = 10.0) -> float:
    """Multiply-accumulates of the whole graph (Linear, convolution, LSTM, attention products), batch 1.

    Args:    model: on any device; left unchanged.   seconds: length of the utterance; attention grows with its square. Of a model
             that runs in chunks one chunk is counted, with the frames that it reads again and looks back at.
    Returns: multiply-accumulates per second of audio at 100 feature frames per second.
    """
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in model.state_dict().items()}
    frames = model.chunk_frames() if model.chunk else round(seconds * FRAMES_PER_SECOND)
    heard_s = model.chunk * model.frontend.stride / FRAMES_PER_SECOND if model.chunk else seconds
    feats = torch.empty(1, frames, model.feature_mean.numel(), device="meta")
    # of the utterance, or of encoder frames before the chunk
    counts = torch.empty(1, dtype=torch.int64, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _CountLstm() as lstm:
        torch.func.functional_call(_Whole(model), {f"model.{name}": t for name, t in state.items()}, (feats, counts))
    return (flops.get_total_flops() / 2 + lstm.macs) / heard_s


def predict(spec: dict[str, Any], macs: bool = True) -> Footprint:
    """Footprint of the model that `spec` describes, without memory for weights or arithmetic.

    Args: spec: content of model.json.   macs: False leaves `macs_per_second` at 0, which is much faster.
    """
    with torch.device("meta"):
        model = build_model(spec).eval()
    return Footprint(count_parameters(model), macs_per_second(model) if macs else 0.0)

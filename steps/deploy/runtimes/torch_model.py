"""A model folder run by torch, with the interface of an exported file."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from steps.models.build import load_model
from steps.models.heads.transducer import TransducerHead


class TorchModel:
    """A model folder. Args: device: torch device.   num_threads: CPU threads of this process."""

    def __init__(self, folder: str | Path, device: str = "cpu", num_threads: int = 1):
        torch.set_num_threads(num_threads)
        self.model = load_model(folder, device)
        self.device = device
        self.feature_dim, self.vocab_size = self.model.spec["feature_dim"], self.model.spec["vocab_size"]

    @torch.inference_mode()
    def run(self, function: Callable[..., Any], *arrays: np.ndarray) -> Any:
        """Call a function of tensors with arrays. Returns: array, or tuple of arrays."""
        result = function(*(torch.tensor(array, device=self.device) for array in arrays))
        return tuple(part.cpu().numpy() for part in result) if isinstance(result, tuple) else result.cpu().numpy()


class TorchCtc(TorchModel):
    """One whose head gives log-probabilities; see Network in steps/deploy/runtimes/ctc.py."""

    def log_probs(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""
        return self.run(self.model, feats, lengths)


class TorchTransducer(TorchModel):
    """A transducer; see Network in steps/deploy/runtimes/transducer.py."""

    def __init__(self, folder: str | Path, device: str = "cpu", num_threads: int = 1):
        super().__init__(folder, device, num_threads)
        self.context = self.model.head_sizes.context
        head = cast(TransducerHead, self.model.head)
        self._predict, self._join = (functools.partial(part, self.model) for part in (head.predict, head.join))

    def encode(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See Network."""
        return self.run(self.model, feats, lengths)

    def predict(self, last: np.ndarray) -> np.ndarray:
        """See Network."""
        return self.run(self._predict, last)

    def join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """See Network."""
        return self.run(self._join, encoded, predicted)

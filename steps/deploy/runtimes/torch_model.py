"""A model folder run by torch, with the interface of an exported file."""

from pathlib import Path

import numpy as np
import torch

from steps.models.build import load_model


class TorchModel:
    """A model folder whose head gives log-probabilities. Args: device: torch device.   num_threads: CPU threads of this process."""

    def __init__(self, folder: str | Path, device: str = "cpu", num_threads: int = 1):
        torch.set_num_threads(num_threads)
        self.model = load_model(folder, device)
        self.device = device
        self.feature_dim, self.vocab_size = self.model.spec["feature_dim"], self.model.spec["vocab_size"]

    def log_probs(self, feats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run a batch. Args: feats (N, T, D) float32; lengths (N,) int64.  Returns: (N, T', V) float32, (N,) int64."""
        with torch.inference_mode():
            inputs = (torch.tensor(array, device=self.device) for array in (feats, lengths))
            outputs, out_lengths = self.model(*inputs)
            return outputs.cpu().numpy(), out_lengths.cpu().numpy()

"""Running mean of the weights after the last epochs (checkpoint averaging, as in Vaswani et al. 2017, section 6.1)."""

from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Mean of a model's floating-point tensors over the epochs added to it."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, torch.Tensor] = {}

    def add(self, model: nn.Module) -> None:
        """Include the model's weights as they are now."""
        self.count += 1
        for name, tensor in model.state_dict().items():
            if name not in self.mean:
                self.mean[name] = tensor.detach().clone()
            elif tensor.is_floating_point():
                self.mean[name].lerp_(tensor, 1.0 / self.count)
            else:
                self.mean[name].copy_(tensor)

    def copy_to_(self, model: nn.Module) -> None:
        """Copy the mean into the model; leave that unchanged when nothing has been added yet."""
        if self.count:
            with torch.no_grad():
                model.load_state_dict(self.mean)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """From the checkpoint."""
        self.count = state["count"]
        self.mean = {name: tensor.to(device) for name, tensor in state["mean"].items()}

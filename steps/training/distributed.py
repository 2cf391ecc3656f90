"""Devices and processes: one process by default, several through torchrun."""

import ctypes
import datetime
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from steps.core.cli import UserError

# How long processes wait for one another. Process 0 alone chooses bits, cuts and writes, which may take hours; torchrun ends those
# that wait for one that is gone.
PATIENCE = datetime.timedelta(days=7)


def start(device_name: str, num_threads: int, deterministic: bool = False) -> torch.device:
    """Set CPU threads, join the processes torchrun started (if any) and choose this one's device.

    Args: device_name: auto, cpu, cuda or cuda:N.   num_threads: CPU threads of this process.
          deterministic: on CUDA, for the rest of this process, only bit-reproducible algorithms; others raise.
    Raises: UserError when there is no such device.
    """
    torch.set_num_threads(num_threads)
    device = choose_device(device_name)
    # slower in bf16 where shapes change with each batch (conf/README.md); it seems to plan for every new shape
    torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic and device.type == "cuda":
        # cuBLAS reads it on first use; without a fixed workspace it may add up in a different order each time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        # PR_SET_PDEATHSIG: never outlive a killed torchrun
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


def choose_device(name: str) -> torch.device:
    """Turn --device into a torch.device; `auto` is CUDA when there is one. Raises: UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: no such CUDA device here; use --device cpu")
    return device


def rank() -> int:
    """Number of this process, 0 for the one that writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def together(call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Take part in what all processes do at once. Args: call: of torch.distributed.   Raises: UserError when another one is gone."""
    try:
        call(*args, **options)
    except RuntimeError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"another process of this training has ended; where it says nothing here it was killed, e.g. for memory ({reason})"
        ) from None


def sum_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """Add up each number over all processes."""
    if world_size() == 1:
        return [float(value) for value in values]
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    together(distributed.all_reduce, total)
    return total.tolist()


def sum_gradients_(parameters: Sequence[nn.Parameter]) -> None:
    """Add up gradients over all processes, in place; a parameter without one counts as zero, a frozen one stays without."""
    if world_size() == 1:
        return
    # an optimizer decays whatever has a gradient, zeros too
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    together(distributed.all_reduce, flat)
    offset = 0
    for parameter in parameters:
        parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
        offset += parameter.numel()


def from_first_process(values: Sequence[float], device: torch.device) -> list[float]:
    """Process 0's numbers for every process: what decides when to stop must not differ in the last bit."""
    if world_size() == 1:
        return [float(value) for value in values]
    numbers = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    together(distributed.broadcast, numbers, 0)
    return numbers.tolist()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Process 0 runs the block before the others, so that they find what it makes there, or meet the same error."""
    if rank() > 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def barrier() -> None:
    """Wait for the other processes."""
    if distributed.is_initialized():
        together(distributed.barrier)


def max_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """Largest of each number over all processes."""
    if world_size() == 1:
        return [float(value) for value in values]
    largest = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    together(distributed.all_reduce, largest, op=distributed.ReduceOp.MAX)
    return largest.tolist()

"""What the machine is, and which packages it lacks for the GPU check.

    python3 -m tests.gpu.card --device cuda --out /tmp/card.json --left-out /tmp/left-out

Writes facts and two measured ceilings (a large product in bfloat16, a large copy) to --out; for every section of the check
that cannot run here, a file of its name with the reason to --left-out. Imports nothing of the project, so that it can tell
what is missing. Status 3: there is no such device, so nothing can run.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Dense bfloat16 TFLOP/s by NVIDIA's data sheets; the first name that is part of the card's own counts.
PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200 NVL": 836, "H200": 989, "GH200": 989,
         "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}  # fmt: skip
TRAINING = (
    "torch", "torchaudio", "numpy", "yaml", "safetensors", "sentencepiece", "tensorboard",
    "kaldiio", "soundfile", "rapidfuzz",
)  # fmt: skip
SECTIONS = {
    "corpus": TRAINING, "teacher": TRAINING, "small_conformer": TRAINING, "large_conformer": TRAINING,
    "on_the_fly": TRAINING, "deterministic": TRAINING, "limits": TRAINING, "kills": TRAINING, "tests": (*TRAINING, "pytest"),
}  # fmt: skip


def peak_flops(name: str) -> float | None:
    """Dense bfloat16 operations a second that the maker states for a card, None for one not listed. Args: name: of the card."""
    words = f" {name} ".replace("-", " ")
    return next((1e12 * tflops for known, tflops in PEAKS.items() if f" {known} " in words), None)


def left_out(packages: Callable[[str], bool]) -> dict[str, str]:
    """Why sections cannot run. Args: packages: function (import name) -> whether it is there.  Returns: dict of sentences."""
    missing = {name: [package for package in needed if not packages(package)] for name, needed in SECTIONS.items()}
    return {name: f"needs {', '.join(lacking)}" for name, lacking in missing.items() if lacking}


def is_there(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def git_commit() -> str | None:
    """Short hash of the checkout, with + when files differ from it; None outside of one."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def facts(device):
    """Card, versions, processor."""
    import torch

    found = {"python": platform.python_version(), "cores": os.cpu_count()}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d")}
    # loader workers hand over their batches there
    found |= {"shared_memory_gb": shutil.disk_usage("/dev/shm").total / 1e9 if Path("/dev/shm").is_dir() else None}
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    found |= {"processor": names[0] if names else platform.machine()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"card": properties.name, "memory_gb": properties.total_memory / 1e9}
        found |= {"cudnn": torch.backends.cudnn.version(), "peak_flops": peak_flops(properties.name)}
        found |= ceilings(device)
    return found


def ceilings(device, size=8192, repeats=10):
    """What the card really does: bfloat16 products and copies of random data. Returns: dict tflops, gb per second."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    other = torch.empty_like(left)
    timed = {}
    for name, work in (("product", lambda: torch.mm(left, right, out=other)), ("copy", lambda: other.copy_(left))):
        for _ in range(3):
            work()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize(device)
        timed[name] = start.elapsed_time(end) / 1000 / repeats
    # 134 MB are far beyond the second-level cache of today's cards.
    moved = 2 * left.numel() * left.element_size()
    return {
        "measured_bf16_tflops": 2 * size**3 / timed["product"] / 1e12,
        "measured_gb_per_s": moved / timed["copy"] / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="JSON")
    parser.add_argument("--commit", default="", help="what is tested; default: git is asked")
    parser.add_argument("--left-out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    missing = left_out(is_there)
    for name, reason in missing.items():
        args.left_out.mkdir(parents=True, exist_ok=True)
        (args.left_out / name).write_text(f"{reason}\n")
    for reason in sorted(set(missing.values())):
        print(f"left out: {', '.join(name for name in missing if missing[name] == reason)}: {reason}")
    if not is_there("torch"):
        print("this python3 has no torch; put one that has on PATH")
        return 3
    import torch

    device = torch.device(args.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        print(f"--device {args.device}: torch {torch.__version__} sees no such CUDA device here")
        return 3
    found = facts(device) | {"commit": args.commit or git_commit(), "left_out": missing}
    print(json.dumps(found, indent=1))
    args.out.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

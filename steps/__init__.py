"""Stage programs of the recipe (`steps/*.py`, one per verb) and the library they stand on (the subpackages)."""

import os
import sys
from types import TracebackType

# what requirements.txt installs, as it is imported
PACKAGES = {
    "jiwer", "kaldiio", "matplotlib", "noisereduce", "num2words", "numpy", "onnx", "onnxruntime", "rapidfuzz", "safetensors",
    "scipy", "sentencepiece", "silero_vad", "soundfile", "tensorboard", "torch", "torchaudio", "yaml",
}  # fmt: skip

if sys.version_info < (3, 11):  # noqa: UP036 (whoever starts a program by hand may have an older one)
    sys.exit(
        f"slim-asr needs Python 3.11 or 3.12, and {sys.executable} is older; . .venv/bin/activate (./run.sh makes it)"
    )

# libgomp reads this when torch is imported. Its own 300,000 keep the threads of a training spinning for each other for longer than the
# scheduler's turns: with something else on the same cores, ten times slower (utils/README.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def remedy() -> str:
    """How to come to a Python that has the packages."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    venv = os.environ.get("SLIM_ASR_VENV") or os.path.join(root, ".venv")
    if os.path.realpath(sys.prefix) == os.path.realpath(venv):
        return "./run.sh completes this environment"
    if os.path.isfile(os.path.join(venv, "bin", "activate")):
        return f"`. {venv}/bin/activate`, then the same command again"
    return "./run.sh makes an environment that has it, .venv; then `. .venv/bin/activate`"


def tell_of_the_environment(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A program started outside the environment says so in one line; any other error is shown as before."""
    name = str(getattr(error, "name", "")).partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or name not in PACKAGES:
        show_error(kind, error, trace)
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = spec.name if spec else sys.argv[0]
    print(f"{program}: error: {sys.executable} has no package {name}; {remedy()}", file=sys.stderr)


show_error, sys.excepthook = sys.excepthook, tell_of_the_environment

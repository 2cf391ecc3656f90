"""Settings of a quantization: formats of weights by layer, method, fixed scales, a target."""

from dataclasses import dataclass, field
from typing import Any

from steps.compress.calibrate import ActivationConfig
from steps.core.config import LATER, check
from steps.models.codes import REST, CodeFormat

METHODS = ("rtn", "mse", "gptq", "qat")
AUTO = "auto"
TERNARY = "ternary"


@dataclass(kw_only=True)
class QuantizeConfig:
    """How weights become codes.

    bits: per weight of Linear and LSTM layers, 8 to 1, or ternary. 8 and 7 take a byte on disk, as they are when they run;
    with 7 the fastest integer kernels of processors without VNNI are exact, and are used. With fewer, codes are packed.
    method: rtn, round to nearest; mse, clip so that the squared error is least; gptq, mse and then make up for each rounding
    error in the weights that are not rounded yet, by what the layer hears in training data; qat, train with rounded weights;
    auto, mse with a target and rtn without.
    grid: symmetric, half (no zero, no unused code) or auto: half for 2 bits and 1, symmetric for more.
    group: neighbours in a row that share a scale; null: the whole row. A layer with groups multiplies in float.
    layers: other formats, by names of layers or modules: bits, a mapping of bits, grid and group, or null, like all others; the
    longest name decides. What a mapping leaves out is as everywhere, but other bits have grid auto.
    skip: names of layers, or of modules with all their layers, that stay float whatever `layers` says.
    convolutions: bits of their kernels, 8 to 2, which are packed but multiply in float; null: float. With `activations` they
    multiply in integers, and null means 7, or 8 where `bits` is 8.
    activations: fixed scales for activations, by calibration data; null: each input gets its own when the file runs.
    rest: float32 or float16, for what stays float in a packed file; int8: norms, biases and scales of codes
    in 8 bits, with a power of two for every eight numbers, the rest in float16.
    calibration_batches: of training data, for gptq and activations; of dev data, for a target.
    target_kb: size of the whole export in 1000 bytes, or target_bits: of a weight on average. Then `bits` is the most that a
    layer may get; each layer's are chosen by what fewer bits do to its dev loss. Neither: all layers have `bits`.
    """

    bits: int | str = 8
    method: str = AUTO
    grid: str = "auto"
    group: int | None = None
    layers: dict = field(default_factory=dict)
    skip: list[str] = field(default_factory=list)
    convolutions: int | None = None
    rest: str = "float32"
    activations: ActivationConfig | None = field(default=None, metadata=LATER)
    calibration_batches: int = 8
    target_kb: float | None = None
    target_bits: float | None = None

    def __post_init__(self):
        if self.method == AUTO:
            self.method = "mse" if self.has_target else "rtn"
        check(self.method in METHODS, f"method must be one of {', '.join((AUTO, *METHODS))}, not {self.method!r}")
        check(self.rest in REST, f"rest must be one of {', '.join(REST)}, not {self.rest!r}")
        check(self.calibration_batches >= 1, "calibration_batches must be at least 1")
        self.format()
        self.check_target()
        reads = self.method == "gptq" or self.activations is not None or self.has_target
        own = self.calibration_batches != type(self).calibration_batches
        check(
            reads or not own,
            "calibration_batches: of method gptq, activations, target_kb and target_bits; leave it out",
        )
        for name, entry in self.layers.items():
            # whether it names a convolution, only the model knows
            kinds = [False] if self.kernel_bits is None else [False, True]
            if all(errors := [self._trouble(entry, kernel) for kernel in kinds]):
                raise ValueError(f"layers: {name}: {errors[0]}")
        check(self.convolutions != 1, "convolutions must be 2 to 8 bits")
        if self.convolutions is not None:
            CodeFormat(self.convolutions)

    def _trouble(self, entry: Any, kernel: bool) -> str:
        try:
            self.format(entry, kernel=kernel)
        except (TypeError, ValueError) as error:
            return str(error)
        return ""

    @property
    def kernel_bits(self) -> int | None:
        """Bits of the kernels of convolutions; None: they stay float."""
        if self.convolutions is None and self.activations is not None:
            return 8 if self.bits == 8 else 7
        return self.convolutions

    @property
    def has_target(self) -> bool:
        """Whether bits are chosen layer by layer."""
        return self.target_kb is not None or self.target_bits is not None

    def check_target(self) -> None:
        """Raise ValueError where a target does not fit the other settings."""
        check(self.target_kb is None or self.target_bits is None, "give target_kb or target_bits, not both")
        check(self.target_kb is None or self.target_kb > 0, "target_kb must be above 0")
        check(self.target_bits is None or self.target_bits > 0, "target_bits must be above 0")
        if self.has_target:
            check(self.grid == "auto", "with a target, grid must be auto")
            check(type(self.bits) is int and self.bits > 1, "with a target, bits is the most a layer may get, 2 to 8")

    def format(self, entry: Any = None, sparse: bool = False, kernel: bool = False) -> CodeFormat:
        """The format that the settings, or an entry of `layers`, ask for.

        Args:   sparse: whether the model has zeros to keep, which decides what auto means at few bits.
                kernel: whether a convolution has it, of `kernel_bits` where the entry names none.
        Raises: ValueError, TypeError when there is no such format.
        """
        wanted: dict[str, Any] = {"bits": self.bits, "grid": self.grid, "group": self.group}
        if kernel:
            wanted |= {"bits": self.kernel_bits, "grid": "auto"}
        given = entry if isinstance(entry, dict) else {} if entry is None else {"bits": entry}
        if given.get("bits", wanted["bits"]) != wanted["bits"]:
            wanted["grid"] = "auto"
        wanted |= given
        unknown = sorted(wanted.keys() - {"bits", "grid", "group"})
        check(not unknown, f"unknown key {unknown[0] if unknown else ''!r}; known: bits, grid, group")
        bits, grid = wanted["bits"], wanted["grid"]
        if bits == TERNARY:
            check(grid in ("auto", TERNARY), "bits ternary has grid auto")
            bits, grid = 2, TERNARY
        check(type(bits) is int and 1 <= bits <= 8, f"bits must be 1 to 8 or ternary, not {bits!r}")
        check(grid in ("auto", "symmetric", "half", TERNARY), f"grid must be auto, symmetric or half, not {grid!r}")
        if grid == "auto":
            grid = "symmetric" if bits > 2 else TERNARY if sparse and bits == 2 else "half"
        return CodeFormat(bits, grid, wanted["group"])

"""Fixed scales of activations, from what a model computes on calibration data."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from steps.core.cli import UserError
from steps.core.config import check
from steps.data.batches import Batch
from steps.models.asr_model import AsrModel
from steps.models.fixed_point import activation_ranges
from steps.models.quant_layers import bias_codes, quantized_layers
from steps.models.ranges import LARGEST, ActivationRange, scale_of

WAYS = ("minmax", "percentile", "mse")
# of a histogram from the smallest to the largest number: 8 for each step of the scale that covers all of it
BINS = 8 * (LARGEST + 1)
# what the smallest and the largest number are multiplied by, in search of the least squares
SHARES = [0.1 * 10 ** (step / 19) for step in range(20)]


@dataclass
class ActivationConfig:
    """How fixed scales of activations are chosen.

    static: minmax, all numbers of the calibration data are covered; percentile, all but the outermost; mse, those that make the
    squared error least.   percentile: above 50; what lies below it is covered, and at the other end as much.
    """

    static: str = "minmax"
    percentile: float = 99.99

    def __post_init__(self):
        check(self.static in WAYS, f"static must be one of {', '.join(WAYS)}, not {self.static!r}")
        check(50 < self.percentile <= 100, "percentile must be above 50 and at most 100")
        own = self.percentile != type(self).percentile
        check(self.static == "percentile" or not own, "percentile: of static: percentile; leave it out")


@dataclass(frozen=True)
class RangeNoise:
    """What rounding costs the activations at one place. low, high: what is covered.   smallest, largest: what there was.
    snr_db: power of the activations against that of the error.   clipped: share of them beyond what is covered, 0..1."""

    name: str
    low: float
    high: float
    smallest: float
    largest: float
    snr_db: float
    clipped: float


class Histogram:
    """How often numbers come, in BINS of equal width. Args: low, high: ends; numbers beyond them are not counted."""

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        width = (high - low) / BINS
        self.centres = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)

    def add(self, numbers: torch.Tensor) -> None:
        """Count numbers."""
        self.counts += torch.histc(numbers.float(), BINS, self.low, self.high).double().cpu()

    def percentile(self, percent: float) -> float:
        """Below which this share of the numbers lies, to the end of its bin."""
        shares = self.counts.cumsum(0) / self.counts.sum()
        place = int(torch.searchsorted(shares, percent / 100 - 1e-12))
        return self.low + (self.high - self.low) * min(place + 1, BINS) / BINS

    def errors(self, ends: Sequence[tuple[float, float]]) -> torch.Tensor:
        """Mean squared error of rounding with scales for each pair of ends. Returns: (pairs,) float64."""
        found = [scale_of(low, high) for low, high in ends]
        scales, zeros = (torch.tensor(column, dtype=torch.float64).unsqueeze(1) for column in zip(*found, strict=True))
        codes = ((self.centres / scales).round() + zeros).clamp(0, LARGEST)
        return ((codes - zeros) * scales - self.centres).square() @ (self.counts / self.counts.sum())

    def least_squares(self) -> tuple[float, float]:
        """The ends with the least squared error among shares of the outermost numbers, found in turns.

        Source: Banner et al. 2019 (arXiv:1810.05723), section 3; by search, and with two ends.
        """
        low, high = self.low, self.high
        for _ in range(2):
            highs = [(low, share * self.high) for share in SHARES]
            high = highs[int(self.errors(highs).argmin())][1]
            lows = [(share * self.low, high) for share in SHARES]
            low = lows[int(self.errors(lows).argmin())][0]
        return low, high

    def ends(self, config: ActivationConfig) -> tuple[float, float]:
        """What is to be covered."""
        if config.static == "minmax":
            return self.low, self.high
        if config.static == "mse":
            return self.least_squares()
        return self.percentile(100 - config.percentile) - (self.high - self.low) / BINS, self.percentile(
            config.percentile
        )

    def noise(self, name: str, low: float, high: float) -> RangeNoise:
        """What covering this much costs. Args: name: of the place."""
        share = self.counts / self.counts.sum()
        power, error = float(self.centres.square() @ share), float(self.errors([(low, high)])[0])
        # what lies less than half a step beyond is rounded as well as the rest
        half = (high - low) / LARGEST / 2
        clipped = float(share[(self.centres < low - half) | (self.centres > high + half)].sum())
        snr_db = 10 * math.log10(max(power, 1e-30) / max(error, 1e-30))
        return RangeNoise(name, low, high, self.low, self.high, snr_db, clipped)


@torch.no_grad()
def calibrate_(model: AsrModel, batches: Iterable[Batch], config: ActivationConfig) -> list[RangeNoise]:
    """Set every range of a model by what it computes on data, utterance by utterance: no padding is looked at.

    Args:    model: in eval mode, with ranges; on the device of the batches.
    Returns: what each range costs, in the model's order.
    Raises:  UserError when a number is not finite, or a bias does not fit its scale.
    """
    ranges, batches = activation_ranges(model), list(batches)
    ends: dict[str, tuple[float, float]] = {}

    def widen(name: str, numbers: torch.Tensor) -> None:
        low, high = (float(number) for number in torch.aminmax(numbers))
        if not math.isfinite(low) or not math.isfinite(high):
            raise UserError(f"{name}: an activation is not finite; look at the calibration data")
        before = ends.get(name, (low, high))
        ends[name] = min(low, before[0]), max(high, before[1])

    _listen(model, ranges, batches, widen)
    histograms = {name: Histogram(*pair) for name, pair in ends.items()}
    _listen(model, ranges, batches, lambda name, numbers: histograms[name].add(numbers))
    noise = []
    for name, one in ranges.items():
        if not one.is_given:
            one.set_(*histograms[name].ends(config))
        noise.append(histograms[name].noise(name, *one.limits()))
    check_biases(model)
    return noise


def keep_apart_(model: AsrModel) -> None:
    """Give every range a scale and a zero point that no other has, so that an export is no smaller than with those of data."""
    for number, one in enumerate(activation_ranges(model).values()):
        # of usual size, so that biases are not all rounded to the same zeros
        one.scale.fill_((1 + number / 4096) / 64)
        one.zero_point.fill_(number % (LARGEST + 1))


def check_biases(model: AsrModel) -> None:
    """Raise UserError for a layer whose bias does not fit into integers."""
    for name, layer in quantized_layers(model).items():
        if isinstance(getattr(layer, "input", None), ActivationRange) and layer.bias is not None:
            try:
                bias_codes(layer)
            except ValueError as error:
                raise UserError(f"{name}: {error}; name it in skip") from None


def _listen(
    model: AsrModel, ranges: dict[str, ActivationRange], batches: list[Batch], hear: Callable[[str, torch.Tensor], None]
) -> None:
    """Run the model on each utterance alone, in float, and show what there is at each place."""
    for name, one in ranges.items():
        one.listen = lambda numbers, name=name: hear(name, numbers)
    try:
        for batch in batches:
            for feats, length in zip(batch.feats, batch.lengths, strict=True):
                model(feats[None, :length], length[None])
    finally:
        for one in ranges.values():
            one.listen = None

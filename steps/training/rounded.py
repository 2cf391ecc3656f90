"""Training with rounded weights, in the one training loop: of a finished model (method qat of steps.quantize_model), or of one that
never was float (a section `quantization` in the settings of a training)."""

from steps.compress import fake_quant, sparsity
from steps.compress.calibrate import RangeNoise, calibrate_
from steps.compress.cost import report
from steps.compress.oscillation import Oscillation
from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import choose_formats, describe, rounding_coder
from steps.compress.rounding import shortener
from steps.core.cli import say
from steps.models.asr_model import AsrModel
from steps.training import distributed
from steps.training.setup import Setup


def train_rounded(
    setup: Setup, model: AsrModel, teachers: str | None, config: QuantizeConfig, parent: str | None
) -> None:
    """Train with rounded weights, then make codes of them and write the finished folder; zeros of a sparse model stay zeros.

    Args:   model: float; changed.   teachers: comma-separated folders, or None.   parent: folder of the model this one was made from.
    Raises: UserError when the settings name a layer that is not there, or a code that a layer cannot have.
    """
    formats = choose_formats(model, config)
    quantization = describe(formats, config)
    shorten = shortener(quantization)
    masks = {}
    if model.spec["sparsity"]:
        masks = {name: weight.detach() != 0 for name, weight in sparsity.prunable_weights(model).items()}
    fake_quant.prepare_(model, formats, shorten)
    oscillation = Oscillation()

    def convert(trained: AsrModel) -> AsrModel:
        small = fake_quant.convert(trained, quantization, formats, rounding_coder("mse", shorten))
        ranges = fix_scales_(setup, small, config)
        if distributed.rank() == 0:
            report(setup.out, trained, small, config, ranges)
        return small

    def after_update(trained: AsrModel) -> None:
        sparsity.apply_masks_(trained, masks)
        if distributed.rank() == 0:
            oscillation.look(trained)

    def after_epoch(trained: AsrModel) -> None:
        if distributed.rank() == 0:
            say(fake_quant.describe_state(trained) + oscillation.describe())

    objective = setup.objective(model, teachers)
    setup.train(
        model, objective, setup.out, parent=parent, after_update=after_update, after_epoch=after_epoch, convert=convert
    )


def fix_scales_(setup: Setup, small: AsrModel, config: QuantizeConfig) -> list[RangeNoise]:
    """Set the fixed scales of activations by training data. Returns: what they cost; nothing where the settings have none."""
    if config.activations is None:
        return []
    batches, _ = setup.calibration(small, config.calibration_batches)
    say(f"activations: scales by {sum(int(batch.lengths.sum()) for batch in batches) / 100:,.0f} s of audio")
    noise = calibrate_(small.to(setup.device), batches, config.activations)
    small.cpu()
    return noise

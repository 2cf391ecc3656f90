"""What the page says of a model's tensors."""

import pytest

from steps.compress.quantize_config import QuantizeConfig
from steps.compress.quantizer import quantize_model
from steps.scoring.history import mean_bits, read_curves, read_layers
from tests.deploy.conftest import make_model, save_folder


@pytest.mark.parametrize(("bits", "shown", "numbers"), [(8, 8, 24 * 40), (4, 4, 24 * 40), ("ternary", 1.6, 24 * 40)])
def test_tensors_of_codes_are_counted_by_their_bits(tmp_path, bits, shown, numbers):
    model = quantize_model(make_model("dnn"), QuantizeConfig(bits=bits, rest="float16", layers={"output": 8}))
    save_folder(tmp_path / "m", model)
    layers = {row["name"]: row for row in read_layers(tmp_path / "m/model.safetensors")}
    found = layers["blocks.0.down.weight_codes"]
    assert (found["bits"], found["parameters"], found["bytes"]) == (shown, numbers, numbers * shown / 8)
    assert layers["output.weight_codes"]["bits"] == 8 and layers["norm.weight"]["bits"] == 16


def test_codes_of_a_byte_are_as_before(tmp_path):
    save_folder(tmp_path / "m", make_model("dnn", quantized=True))
    rows = [row for row in read_layers(tmp_path / "m/model.safetensors") if row["name"].endswith("_codes")]
    assert {row["bits"] for row in rows} == {8} and all(row["parameters"] == row["bytes"] for row in rows)


def test_bits_of_a_model_are_those_of_its_weights_and_not_of_its_smallest_layer(tmp_path):
    config = QuantizeConfig(bits=8, rest="float16", layers={"blocks.0.up": 1, "output": "ternary"})
    for name, wanted in (("mixed", config), ("plain", QuantizeConfig(bits=7))):
        save_folder(tmp_path / name, quantize_model(make_model("dnn"), wanted))
    save_folder(tmp_path / "float", make_model("dnn"))
    # frontend 24 x 140; blocks of 40 x 72 and 24 x 40; output 11 x 24, filled up to 25 a row
    weights = {8: 24 * 140 + 24 * 40 + 40 * 72 + 24 * 40, 1: 40 * 72, 1.6: 11 * 25}
    mean = sum(bits * count for bits, count in weights.items()) / sum(weights.values())
    assert mean_bits(tmp_path / "mixed") == round(mean, 1) == 6.1
    assert (mean_bits(tmp_path / "plain"), mean_bits(tmp_path / "float")) == (7, None)


def test_a_curve_that_was_taken_back_whole_is_none(tmp_path):
    """A training that goes on from before its first line takes back what had been written since."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "m/tensorboard"
    for suffix, start, tag in ((".1", None, "train/loss"), (".2", 1, "dev/loss")):
        with SummaryWriter(str(folder), purge_step=start, filename_suffix=suffix) as writer:
            writer.add_scalar(tag, 1.0, 5)
    for name, path in zip("ab", sorted(folder.iterdir(), key=lambda path: path.suffix), strict=True):
        path.rename(folder / f"events.out.tfevents.{name}")
    assert read_curves(tmp_path, ["m"]) == {"dev/loss": {"m": [(5, 1.0)]}}

"""Multiply-accumulates of the graph as it ran are those of the model, float and int8."""

import pytest

from steps.compress.footprint import macs_per_second
from steps.core.cli import UserError
from steps.deploy.export import export_folder
from steps.deploy.macs import count_macs, node_macs, quantized_fraction
from steps.models.quant_layers import quantized_layers
from tests.deploy.streams import VARIANTS


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", ["conformer", "rnn", "dnn"])
def test_counts_are_those_of_the_model(kind, quantized, make, save, tmp_path):
    model = make(kind, quantized)
    export_folder(save(tmp_path / "m", model), tmp_path / "m" / "export")
    expected = macs_per_second(make(kind))
    if kind == "conformer":
        # the channel that masks padding: 2 blocks, 2 heads, 249 frames of 10 s
        expected += 2 * 2 * 249**2 / 10
    assert count_macs(tmp_path / "m" / "export") == pytest.approx(expected, rel=1e-6)
    share, left = quantized_fraction(tmp_path / "m" / "export")
    # of 249 encoder frames in 10 s
    codes = sum(c.codes.numel() for layer in quantized_layers(model).values() for c in layer.matrices().values())
    assert share == pytest.approx(codes * 24.9 / expected, abs=1e-9)
    assert sum(left.values()) == pytest.approx(1 - share) and bool(left) is (kind != "dnn" or not quantized)


@pytest.mark.parametrize("name", ["conformer", "ahead", "pruned", "rnn", "dnn"])
def test_counts_of_a_streaming_model_are_those_of_its_chunks(name, save, tmp_path):
    model = VARIANTS[name]()
    export_folder(save(tmp_path / "m", model), tmp_path / "m" / "export")
    # 3 chunks of 160 ms; the last one begun
    for seconds in (0.48, 0.35):
        assert count_macs(tmp_path / "m" / "export", seconds) == pytest.approx(macs_per_second(model), rel=1e-9)


def test_an_export_that_multiplies_in_float_can_be_refused(make, save, tmp_path, capsys):
    folder = save(tmp_path / "m", make("rnn", quantized=True))
    with pytest.raises(UserError, match=r"of integers, \d+\.\d% Conv in float; --min-quantized-fraction 0\.9 asks for"):
        export_folder(folder, tmp_path / "out", min_quantized_fraction=0.9)
    assert not (tmp_path / "out").exists()
    export_folder(folder, tmp_path / "out", min_quantized_fraction=0.3)
    assert "% Conv in float" in capsys.readouterr().out


def node(name, inputs, outputs):
    shapes = {"input_type_shape": [{"float": s} for s in inputs], "output_type_shape": [{"float": s} for s in outputs]}
    return {"op_name": name} | shapes


def test_counts_by_hand():
    assert node_macs(node("MatMul", [[2, 7, 3], [3, 5]], [[2, 7, 5]])) == 2 * 7 * 3 * 5
    assert node_macs(node("FusedMatMul", [[4, 7, 3], [4, 5, 3]], [[4, 7, 5]])) == 4 * 7 * 3 * 5
    # both with one more axis, of which one has its utterances between frames and channels
    assert node_macs(node("FusedMatMul", [[3, 2, 4, 8], [12, 3, 2, 8]], [[3, 2, 4, 12]])) == 3 * 2 * 4 * 12 * 8
    assert node_macs(node("FusedMatMul", [[3, 2, 4, 12], [12, 3, 2, 8]], [[3, 2, 4, 8]])) == 3 * 2 * 4 * 12 * 8
    assert node_macs(node("MatMul", [[2, 4, 3], [6, 2, 3, 5]], [[6, 2, 4, 5]])) == 6 * 2 * 4 * 3 * 5
    assert node_macs(node("Conv", [[1, 8, 9], [8, 1, 3]], [[1, 8, 7]])) == 8 * 7 * 3
    assert node_macs(node("LSTM", [[6, 1, 4], [1, 20, 4], [1, 20, 5]], [[6, 1, 1, 5]])) == 6 * (80 + 100)
    assert node_macs(node("QLinearMatMul", [[2, 7, 3], [], [], [3, 5], [], [], [], []], [[2, 7, 5]])) == 2 * 7 * 3 * 5
    assert node_macs(node("QGemm", [[7, 3], [], [], [3, 5], [5], [5], [5]], [[7, 5]])) == 7 * 3 * 5
    assert (
        node_macs(node("QLinearConv", [[1, 8, 9], [], [], [8, 1, 3], [8], [8], [], [], [8]], [[1, 8, 7]])) == 8 * 7 * 3
    )
    assert node_macs(node("Softmax", [[5, 5]], [[5, 5]])) == 0


def test_an_unknown_product_is_refused_rather_than_left_out():
    with pytest.raises(UserError, match="QAttention"):
        node_macs(node("QAttention", [[1]], [[1]]))

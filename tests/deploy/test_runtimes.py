"""A model folder and its export look the same from outside; broken folders give one clear line."""

import numpy as np
import pytest

from steps.core.cli import MissingInput, UserError
from steps.core.exports import SUMS
from steps.data.tokenizer import read_tokens
from steps.deploy.export import export_folder
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.onnx_model import OnnxModel

CHECKED = ("tokens.txt", "features.yaml", "model.onnx")


@pytest.fixture(scope="module")
def folder(make, save, tmp_path_factory):
    path = save(tmp_path_factory.mktemp("models") / "m", make("conformer"))
    export_folder(path, path / "export")
    return path


@pytest.mark.parametrize("length", [1, 3, 4, 6, 7, 8, 9, 100])
def test_torch_and_onnx_agree_at_every_length(folder, length):
    recognisers = load_recogniser(folder), load_recogniser(folder / "export")
    feats = np.random.default_rng(0).standard_normal((length, 20)).astype(np.float32) * 3 - 6
    a, b = (recogniser.log_probs(feats) for recogniser in recognisers)
    assert a.shape == b.shape == (max(0, ((length - 1) // 2 - 1) // 2), 11)
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert recognisers[0].tokens == recognisers[1].tokens and recognisers[0].features == recognisers[1].features


def test_text_joins_pieces(folder):
    recogniser = load_recogniser(folder / "export")
    assert recogniser.blank_id == 0
    assert recogniser.text([2, 3, 0, 4, 2, 5, 2]) == "ab c"
    assert recogniser.text([]) == ""


def test_batches_of_the_float_export_equal_single_utterances(folder):
    model = OnnxModel(folder / "export")
    assert (model.feature_dim, model.vocab_size) == (20, 11)
    lengths = np.array([90, 41, 7])
    feats = np.random.default_rng(0).standard_normal((3, 90, 20)).astype(np.float32)
    log_probs, out_lengths = model.log_probs(feats, lengths)
    for row, length, out_length in zip(range(3), lengths, out_lengths, strict=True):
        single, _ = model.log_probs(feats[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(log_probs[row, :out_length], single[0], atol=1e-5)


BAD_TOKENS = [
    ("<blk> 0\na 2\n", r":2: expected `symbol 1`, not 'a 2'"),
    ("<blk> 0\na\n", r":2: expected `symbol 1`"),
    ("<blk> 0\n\na 1\n", r":2: expected `symbol 1`"),
    ("<blk> 0\na 1\na 2\n", r":3: symbol 'a' is there twice"),
    ("<blk> 0\r\na 1\r\n", r":1: expected `symbol 0`"),
    ("<blk>\t0\n", r":1: expected"),
    ("<blk> 0\n\x1b[2J 1\n", r":2: control character '\\x1b' in a symbol"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TOKENS)
def test_bad_tokens_name_the_line(tmp_path, text, message):
    (tmp_path / "tokens.txt").write_bytes(text.encode())
    with pytest.raises(UserError, match=message):
        read_tokens(tmp_path / "tokens.txt")


def test_tokens_that_are_not_text(tmp_path):
    (tmp_path / "tokens.txt").write_bytes(b"\xff 0\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_tokens(tmp_path / "tokens.txt")
    with pytest.raises(MissingInput):
        read_tokens(tmp_path / "none.txt")


def copy_export(folder, to):
    to.mkdir()
    for name in CHECKED:
        (to / name).write_bytes((folder / "export" / name).read_bytes())
    return to


@pytest.mark.parametrize("name", CHECKED)
def test_a_folder_with_sums_is_compared_with_them(folder, tmp_path, name):
    broken = copy_export(folder, tmp_path / "e")
    (broken / SUMS).write_bytes((folder / "export" / SUMS).read_bytes())
    load_recogniser(broken)
    content = bytearray((broken / name).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: not the file that SHA256SUMS names"):
        load_recogniser(broken)
    (broken / "features.yaml").unlink()
    with pytest.raises(MissingInput if name != "tokens.txt" else UserError):
        load_recogniser(broken)


@pytest.mark.parametrize("content", [b"", b"not a graph", None], ids=["empty", "text", "cut"])
def test_a_broken_graph_is_one_line(folder, tmp_path, content):
    broken = copy_export(folder, tmp_path / "e")
    whole = (broken / "model.onnx").read_bytes()
    (broken / "model.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match="model.onnx: ") as error:
        load_recogniser(broken)
    assert "\n" not in str(error.value) and "export the model again" in str(error.value)


MISFITS = [
    ("tokens.txt", "<blk> 0\na 1\n", "11 outputs, tokens.txt 2 tokens"),
    ("tokens.txt", "".join(f"t{i} {i}\n" for i in range(11)), "no blank"),
    ("features.yaml", "num_mel_bins: 40\n", "wants 20 features, features.yaml gives 40"),
    ("features.yaml", "mels: 40\n", "unknown key"),
]


@pytest.mark.parametrize(("name", "text", "message"), MISFITS)
def test_files_that_do_not_fit_together(folder, tmp_path, name, text, message):
    broken = copy_export(folder, tmp_path / "e")
    (broken / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_recogniser(broken)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(MissingInput, match="neither model.json nor SHA256SUMS"):
        load_recogniser(tmp_path)
    with pytest.raises(MissingInput, match="no such file"):
        OnnxModel(tmp_path)

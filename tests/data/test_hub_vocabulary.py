"""Tokenizers of models from a hub: read from their files, in our order, spelling as they spell."""

import io
import json

import pytest
import sentencepiece

from steps.core.cli import UserError
from steps.data.hub_vocabulary import read_vocabulary

TEXTS = ["the cat sat on the mat", "a hat on a cat", "that is the thing", "this is it then", "hot tea on the table"]


def trained(kind, size):
    """A SentencePiece model as NeMo makes it. Returns: content, its processor."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, model_type=kind, vocab_size=size, bos_id=-1, eos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    return model.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize(
    ("kind", "size", "name"),
    [("bpe", 40, "tokenizer.model"), ("unigram", 24, "tokenizer.model"), ("unigram", 24, "tokenizer.json")],
)
def test_pieces_spell_as_before(tmp_path, kind, size, name):
    content, theirs = trained(kind, size)
    pieces = [theirs.id_to_piece(i) for i in range(len(theirs))]
    if name == "tokenizer.model":
        (tmp_path / name).write_bytes(content)
    else:
        rows = [[piece, theirs.get_score(i)] for i, piece in enumerate(pieces)]
        model = {"type": "Unigram", "unk_id": 0, "vocab": rows}
        (tmp_path / name).write_text(json.dumps({"model": model, "added_tokens": [{"id": 0, "content": "<unk>"}]}))
    vocabulary = read_vocabulary(tmp_path, len(pieces) + 1, len(pieces))
    assert vocabulary.order == [len(pieces), *range(len(pieces))]
    for text in [*TEXTS, "tattoo is the best"]:
        ids = vocabulary.tokenizer.encode(text)
        assert [vocabulary.order[i] for i in ids] == theirs.encode(text)
        assert vocabulary.tokenizer.decode(ids) == theirs.decode(theirs.encode(text)).replace(" \u2047 ", "<unk>")


@pytest.mark.parametrize("first", [["<pad>", "</s>", "<unk>"], ["<epsilon>", "<s>", "</s>", "<unk>"]])
def test_pieces_are_chosen_by_their_scores_and_never_special(tmp_path, first):
    """LasrTokenizer's: special tokens have the best scores; with three of them in front `unk_id` names a piece."""
    scored = {
        "\u2581": -2.0,
        "\u2581a": -1.5,
        "a": -3.0,
        "b": -3.2,
        "ab": -7.0,
        "\u2581ab": -6.0,
        "s": -4.0,
        "<": -5.0,
        ">": -5.0,
    }
    pieces = [*first, *scored, "<extra_id_1>", "<extra_id_0>"]
    added = [{"id": i, "content": piece} for i, piece in enumerate(pieces) if piece not in scored]
    model = {"type": "Unigram", "unk_id": 3, "vocab": [[piece, scored.get(piece, 0.0)] for piece in pieces]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": first[0], "unk_token": "<unk>"}))
    # the last two have no output
    vocabulary = read_vocabulary(tmp_path, len(pieces) - 2, 0)
    tokenizer, unknown = vocabulary.tokenizer, pieces.index("<unk>")
    assert vocabulary.order == [0, unknown, *(i for i in range(1, len(pieces) - 2) if i != unknown)]
    assert [tokenizer.pieces[i] for i in tokenizer.encode("ab <s>")] == ["\u2581a", "b", "\u2581", "<", "s", ">"]
    assert [tokenizer.pieces[i] for i in tokenizer.encode("ax")] == ["\u2581a", "<unk>"]
    assert tokenizer.decode([*tokenizer.encode("ab"), tokenizer.pieces.index("</s>"), 0]) == "ab"


def test_the_blank_may_be_named_apart(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "[PAD]": 2, "<pad>": 3}))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": {"content": "[PAD]"}, "unk_token": None})
    )
    assert read_vocabulary(tmp_path, 4, 2).order[0] == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    assert read_vocabulary(tmp_path, 4, 3).order[0] == 3
    with pytest.raises(UserError):
        read_vocabulary(tmp_path, 4, 2)


@pytest.mark.parametrize("unit", ["a\u00a0", "\u2028", "\x85", "\x7f", "\ud800"])
def test_what_is_no_text_is_refused(tmp_path, unit):
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, unit: 1}))
    with pytest.raises(UserError, match="is empty or has white space or control characters"):
        read_vocabulary(tmp_path, 2, 0)


@pytest.mark.parametrize(
    "whole",
    [
        {"model": {"type": "Unigram", "vocab": [[["a"], 0.0]]}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}, "added_tokens": [{"id": 0, "content": ["a"]}]},
        {"model": {"type": "BPE", "vocab": [["a", 0]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}},
        {"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": 3},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", "x"]], "unk_token": ["a"]}},
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, whole):
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="tokenizer.json: .*; copy the tokenizer again"):
        read_vocabulary(tmp_path, 3, 2)

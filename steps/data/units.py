"""Units of other people's models: their order brought to ours, and a tokenizer that spells with them."""

from pathlib import Path
from typing import Any

import numpy as np

from steps.core.cli import UserError
from steps.core.limits import read_limited
from steps.data.tokenizer import BLANK, SPACE, UNKNOWN, Tokenizer, read_tokens

BLANKS = ("<blk>", "<blank>", "<eps>", "<pad>", "[PAD]")
# emitted by no transcript; their probability is given to the others
SPECIAL = ("<sos/eos>", "<s>", "</s>", "<sos>", "<eos>", "<pad>", "<blk>", "<blank>", "<eps>", "<mask>", "[PAD]")
# no SentencePiece model of speech recognition is larger
LARGEST_MODEL = 64 << 20
CHAR, BPE, UNIGRAM = 4, 2, 1
NORMAL, UNKNOWN_TYPE = 1, 2


class Units:
    """Units of a model as we order them: the blank, `<unk>`, then the rest as they come, without those of no transcript.

    Args: tokens: text of each output of the model.   where: for messages.
    Attributes: vocabulary: text of each unit.   columns: (V,) int64, the output for each; -1 for an `<unk>` that it lacks.
    Raises: UserError without a blank.
    """

    def __init__(self, tokens: list[str], where: str | Path):
        blank = next((tokens.index(name) for name in BLANKS if name in tokens), None)
        if blank is None:
            raise UserError(f"{where}: no blank among the tokens ({', '.join(BLANKS)}); call it {BLANK} there")
        if tokens[blank] == "<pad>" and blank and tokens[0] == "<s>":
            raise UserError(f"{where}: the blank may be <s> or <pad> (Omnilingual ASR: <s>); call it {BLANK} there")
        if SPACE not in "".join(tokens) and any(token.startswith("\u0120") for token in tokens):
            raise UserError(
                f"{where}: byte-level BPE of GPT-2's kind, whose symbols are bytes and not letters, is not read"
            )
        unknown = next((i for i, token in enumerate(tokens) if token in (UNKNOWN, "[UNK]")), -1)
        # of ours all units stay
        special = () if tokens[:2] == [BLANK, UNKNOWN] else SPECIAL
        rest = [i for i, token in enumerate(tokens) if i not in (blank, unknown) and token not in special]
        if not rest:
            raise UserError(f"{where}: no unit but the blank")
        space = _space(tokens, tokens[blank])
        self.vocabulary = [BLANK, UNKNOWN, *(SPACE if tokens[i] == space else tokens[i] for i in rest)]
        self.columns = np.array([blank, unknown, *rest], np.int64)

    def pick(self, log_probs: np.ndarray) -> np.ndarray:
        """Outputs of the model as posteriors over these units. Args: log_probs (..., outputs).  Returns: (..., V), normalised."""
        picked = log_probs[..., self.columns].astype(np.float64)
        picked[..., self.columns < 0] = -np.inf
        best = picked.max(axis=-1, keepdims=True)
        picked -= best + np.log(np.exp(picked - best).sum(axis=-1, keepdims=True))
        return picked.clip(-1000.0, 0.0).astype(np.float32)


def _space(tokens: list[str], blank: str) -> str:
    """The unit between words: ours; or a blank space, or the | of wav2vec 2.0, where no unit holds ours."""
    others = [" "] + (["|"] if blank in ("<pad>", "[PAD]") else [])
    return SPACE if SPACE in "".join(tokens) else next((token for token in others if token in tokens), SPACE)


def tokenizer_of(folder: str | Path) -> Tokenizer:
    """The tokenizer whose units are those of a model.

    Args:    folder: with tokens.txt; and tokenizer.model, if it is ours. Of others: a SentencePiece model (`*.model`), where its
             units are more than characters and in no order of merges.
    Raises:  MissingInput, UserError that names the remedy.
    """
    folder = Path(folder)
    tokens = read_tokens(folder / "tokens.txt")
    if (folder / "tokenizer.model").is_file() and tokens[:2] == [BLANK, UNKNOWN]:
        return Tokenizer.load(folder)
    if not (folder / "tokenizer.model").is_file() and (folder.parent / "tokenizer.model").is_file():
        own = Tokenizer.load(folder.parent / "tokenizer.model")
        if own.pieces == tokens:
            return own
    units = Units(tokens, folder / "tokens.txt").vocabulary
    models = sorted(folder.glob("*.model"))
    if len(models) > 1:
        raise UserError(
            f"{folder}: several SentencePiece models ({', '.join(path.name for path in models)}); leave one"
        )
    return Tokenizer(_with_scores(units, models[0]) if models else _by_rank(units, folder), str(folder))


def _by_rank(units: list[str], folder: Path) -> bytes:
    """A SentencePiece model of characters, of subwords in the order of their merges, or, where none but the space begins a word,
    of phones and the like: text in as few of them as it takes."""
    single = all(len(unit) == 1 for unit in units[2:])
    if not single and not any(unit.startswith(SPACE) and unit != SPACE for unit in units[2:]):
        return _model(units, dict.fromkeys(units, -1.0), UNIGRAM)
    scores = {unit: -float(rank) for rank, unit in enumerate(units)}
    model = _model(units, scores, CHAR if single else BPE)
    if not single:
        made = Tokenizer(model, str(folder))
        words = [unit for unit in units[2:] if unit.startswith(SPACE) and unit != SPACE]
        strange = [unit for unit in words if len(made.encode(unit.replace(SPACE, " "))) != 1]
        if strange:
            raise UserError(
                f"{folder}/tokens.txt: {strange[0]!r} and {len(strange) - 1} more are no merges of earlier units; put the "
                "SentencePiece model (bpe.model) beside it"
            )
    return model


def _with_scores(units: list[str], path: Path) -> bytes:
    """A foreign SentencePiece model with our order of the units, and its own scores. Raises: UserError."""
    proto = _proto()
    try:
        proto.ParseFromString(read_limited(path, LARGEST_MODEL, "SentencePiece model"))
        scores = {piece.piece: piece.score for piece in proto.pieces}
        kind = proto.trainer_spec.model_type
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{path}: not a SentencePiece model ({error})") from None
    except Exception as error:
        # protobuf's own kinds differ from version to version
        raise UserError(f"{path}: not a SentencePiece model ({type(error).__name__})") from None
    lacking = [unit for unit in units[2:] if unit not in scores]
    if lacking:
        raise UserError(
            f"{path}: has no {lacking[0]!r} and {len(lacking) - 1} more of tokens.txt; put its own model beside it"
        )
    return _model(units, scores, kind, proto)


def _model(units: list[str], scores: dict[str, float], kind: int, like: Any = None) -> bytes:
    """Content of a SentencePiece model. Args: like: a model whose normalisation is kept; None: text is taken as it is."""
    proto = _proto()
    if like is not None:
        proto.normalizer_spec.CopyFrom(like.normalizer_spec)
    else:
        proto.normalizer_spec.name, proto.normalizer_spec.add_dummy_prefix = "identity", kind == BPE
    spec = proto.trainer_spec
    spec.model_type, spec.vocab_size = kind, len(units) - 1
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, -1, -1, -1
    for unit in units[1:]:
        proto.pieces.add(piece=unit, score=scores.get(unit, 0.0), type=UNKNOWN_TYPE if unit == UNKNOWN else NORMAL)
    return proto.SerializeToString()


def _proto():
    # here, because it loads protobuf
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto()

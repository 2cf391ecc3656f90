"""What all recognisers of features share, whatever their head."""

from typing import Any

import numpy as np

from steps.core.cli import UserError
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import join_pieces

BLANKS = ("<blk>", "<blank>", "<eps>")
# feature frames that every front end can take; shorter utterances are padded to it
SHORTEST = 8


class FeatureRecogniser:
    """A network with the features it hears and the tokens it emits.

    Args: model: the network, with `feature_dim` and `vocab_size`.   name: folder, for messages.
    Attributes: model.   features: FeatureConfig.   tokens: text of each id.   blank_id.
    Raises: UserError when they do not fit together.
    """

    hears = "features"

    def __init__(self, model: Any, features: FeatureConfig, tokens: list[str], name: str):
        self.model, self.features, self.tokens = model, features, tokens
        blanks = [tokens.index(blank) for blank in BLANKS if blank in tokens]
        if not blanks:
            raise UserError(f"{name}/tokens.txt: no blank among the tokens ({', '.join(BLANKS)})")
        self.blank_id = blanks[0]
        if len(tokens) != model.vocab_size:
            raise UserError(f"{name}: the model has {model.vocab_size} outputs, tokens.txt {len(tokens)} tokens")
        if features.dim != model.feature_dim:
            raise UserError(f"{name}: the model wants {model.feature_dim} features, features.yaml gives {features.dim}")

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, heard: np.ndarray) -> None:
        """See Recogniser."""
        raise NotImplementedError

    def run_all(self, heard: np.ndarray) -> None:
        """Run every layer once a frame, as recognising does at most: what multiply-accumulates are counted of."""
        self.run(heard)

    def end_profiling(self) -> list[str]:
        """See Recogniser."""
        sessions = getattr(self.model, "sessions", None)
        if sessions is None:
            raise UserError("only onnxruntime profiles what it runs")
        return [session.end_profiling() for session in sessions]

    def text(self, ids: list[int]) -> str:
        """Text of token ids, without leading or trailing spaces."""
        return join_pieces(self.tokens, ids, self.blank_id)

    def words(self, ids: list[int]) -> str:
        """Text of token ids, words separated by single spaces."""
        return " ".join(self.text(ids).split())

    def check_heard(self, heard: np.ndarray, name: str) -> None:
        """Raise UserError for features of another width. Args: name: the utterance, for messages."""
        if heard.ndim != 2 or heard.shape[1] != self.features.dim:
            raise UserError(f"{name}: features {heard.shape}, the model wants (T, {self.features.dim})")


def filled_up(feats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A batch of one, padded to what front ends can take. Args: feats (T, D).  Returns: (1, T or more, D); (1,) int64, T."""
    length = len(feats)
    if length < SHORTEST:
        feats = np.pad(feats, ((0, SHORTEST - length), (0, 0)))
    return feats[None], np.array([length], dtype=np.int64)

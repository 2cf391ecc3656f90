"""A CTC model that others exported (steps/deploy/foreign.py), from sound to text: it writes as it teaches."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from steps.core.cli import UserError
from steps.data.features import compute_features
from steps.data.foreign_features import ForeignFeatures, foreign_features
from steps.deploy.foreign import ForeignCtc
from steps.deploy.runtimes.ctc import CtcRecogniser


class ForeignRecogniser(CtcRecogniser):
    """See Recogniser in steps/deploy/runtimes; it hears audio, because its features may be none of ours.

    Args: folder: as for ForeignCtc.   num_threads: CPU threads.   Raises: MissingInput, UserError.
    """

    hears = "audio"

    def __init__(self, folder: str | Path, num_threads: int = 1):
        self.foreign = ForeignCtc(folder, num_threads)
        features, units = self.foreign.features, self.foreign.vocabulary
        sizes = SimpleNamespace(feature_dim=features.dim, vocab_size=len(units))
        super().__init__(sizes, features, units, str(folder))

    def log_probs(self, heard: np.ndarray) -> np.ndarray:
        """Log-probabilities of one utterance. Args: heard (S,) float32.  Returns: (T', V) float32.  Raises: UserError."""
        samples, config = torch.from_numpy(heard), self.features
        if isinstance(config, ForeignFeatures):
            feats = foreign_features(samples, config)
        else:
            feats = compute_features(samples, config)
        return self.foreign.log_probs(feats.numpy())

    def recognise(self, heard: np.ndarray, name: str) -> dict[str, str]:
        """Text of one piece. Args: heard (S,) float32 in [-1, 1]; name: for messages.  Raises: UserError."""
        try:
            return self.read(self.log_probs(heard), name)
        except (ValueError, UserError) as error:
            raise UserError(f"{name}: {error}") from None

    def use_words(self, words_file: str | Path, folder: str | Path, word_score: float = 0.0) -> None:
        """See Recogniser; how it spells words need not be known."""

    def use_labels(self, labels_file: str | Path, folder: str | Path) -> None:
        """See Recogniser; as `use_words`."""

    def use_graph(self, folder: str | Path) -> None:
        """See Recogniser; as `use_words`."""

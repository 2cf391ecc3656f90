"""Extracted features as they lie on disk: feats.scp, the matrices it points to, and the settings they were made with."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kaldiio.matio
import numpy as np

from steps.core.cli import MissingInput, UserError
from steps.core.config import load_config
from steps.core.places import Places
from steps.core.tables import read_table
from steps.data.feature_config import FeatureConfig, differing


@dataclass(frozen=True)
class PartSettings:
    """What one part of an archive was made with: `settings.<part>.yaml`. compress: one byte a number."""

    features: FeatureConfig
    compress: bool


def read_feats_scp(path: str | Path) -> dict[str, str]:
    """Read a feats.scp. Returns: dict utterance id -> `file:offset`, to be opened.   Raises: MissingInput, UserError."""
    places = Places(Path(path).parent)
    return {utt_id: places.opened(place) for utt_id, place in read_table(path).items()}


def load_feature_matrix(place: str, utt_id: str = "") -> np.ndarray:
    """Read one matrix written by Kaldi or by `python3 -m steps.extract_features`.

    Args:    place: `file:offset`; pipes and ranges are refused.   utt_id: whose it must be, by the name before it; "": anybody's.
    Returns: (T, D) float32 array.
    Raises:  MissingInput; UserError for a place that holds no finite matrix.
    """
    path, _, offset = place.rpartition(":")
    if not path or not offset.isdigit():
        raise UserError(f"{place}: expected `file:offset`; commands and ranges in feats.scp are not run")
    try:
        with open(path, "rb") as file:
            name = f"{utt_id} ".encode() if utt_id else b""
            file.seek(max(0, int(offset) - len(name)))
            if file.read(len(name)) != name:
                raise UserError(f"{place}: not the features of {utt_id}; extract features again")
            if file.read(2) != b"\0B":
                raise UserError(f"{place}: no Kaldi matrix starts here; extract features again")
            file.seek(int(offset))
            matrix = kaldiio.matio.read_kaldi(file)
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such feature file; extract features again") from None
    except UserError:
        raise
    except (
        ValueError,
        AssertionError,
        OSError,
        EOFError,
        MemoryError,
        OverflowError,
        RuntimeError,
        struct.error,
    ) as error:
        raise UserError(
            f"{place}: damaged feature file ({error or type(error).__name__}); extract features again"
        ) from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise UserError(f"{place}: not a matrix of finite numbers; extract features again")
    return np.asarray(matrix, dtype=np.float32)


def check_feature_settings(
    data_dir: str | Path, places: Iterable[str], config: FeatureConfig, where: str | Path
) -> None:
    """Refuse features that were extracted with other settings than a model wants.

    Args:   data_dir: data folder.   places: of its matrices, `file:offset`: it may be a part of another folder, or several joined.
            Where there is no features.yaml beside them, which steps.extract_features writes, nothing is checked.
            config: FeatureConfig wanted.   where: the file that `config` comes from, for the message.
    Raises: UserError naming both files and the settings that differ.
    """
    folders = {str(Path(data_dir) / "feats"), *(place.rpartition("/")[0] for place in places)}
    for path in (Path(folder) / "features.yaml" for folder in sorted(folders)):
        if not path.is_file():
            continue
        pairs = differing(load_config(FeatureConfig, path), config)
        differ = ", ".join(f"{key} {there} and {wanted}" for key, (there, wanted) in pairs.items())
        if differ:
            raise UserError(
                f"{path} and {where} differ ({differ}); extract features again with the settings of {where}"
            )

"""A Hugging Face folder, looked at before anything is built from it, and opened by the library transformers.

Nothing is downloaded and no code of the folder is run: `local_files_only`, safetensors only, never `trust_remote_code`.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from steps.core.cli import MissingInput, UserError, is_out_of_memory
from steps.core.jsonfile import read_json
from steps.core.limits import show
from steps.models.build import build_model
from steps.models.hub_convert import FAMILIES, SECTIONS, SEQUENCE
from steps.models.hub_whisper import open_encoder
from steps.models.limits import LARGEST_SPEC_BYTES, tensor_heads

REQUIREMENTS = "requirements-hub.txt"
# names of output layers
HEADS = ("lm_head.", "ctc_head.")
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin")
# of a feature extractor, which transformers would make whatever they are; chunk_length in seconds
LARGEST = {"feature_size": 1024, "num_mel_bins": 1024, "n_fft": 1 << 14, "win_length": 1 << 14, "chunk_length": 60}
# parameters beyond those of the weights that a description may ask for: WavLM's distances, window and filters, SEW's identity
SPARE = 1 << 20


def check_code(folder: Path) -> None:
    """Refuse a folder whose settings ask for code of its own. Raises: UserError, also for what is no JSON."""
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in read_json(path, LARGEST_SPEC_BYTES):
            raise UserError(
                f"{path}: auto_map asks for code of its own, which is never run; only the library's own models"
            )


def check_extractor(folder: Path) -> None:
    """Refuse a feature extractor of sizes that only take memory. Raises: UserError."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        settings = read_json(path, LARGEST_SPEC_BYTES) if path.is_file() else {}
        inner = settings.get("feature_extractor")
        for place in (settings, inner if isinstance(inner, dict) else {}):
            for key, most in LARGEST.items():
                if isinstance(place.get(key), int | float) and not place[key] <= most:
                    raise UserError(
                        f"{path}: {key}: {show(place[key])} is more than any model has; copy the model again"
                    )


class HubFolder:
    """A folder whose config.json and weights have been looked at.

    Attributes: folder.   kind: model_type, one of FAMILIES.   weights: its safetensors files.   elements: numbers in them.
                has_head: whether there is an output layer among them; pretrained encoders have none.
    Raises: MissingInput, UserError.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / "config.json"
        if not path.is_file():
            raise MissingInput(
                f"{path}: no such file; name the folder of a model from a hub, as save_pretrained writes it"
            )
        self.settings = read_json(path, LARGEST_SPEC_BYTES)
        check_code(self.folder)
        kind = self.settings.get("model_type")
        if kind not in FAMILIES:
            raise UserError(f"{path}: model_type {show(kind)} cannot be imported; known: {', '.join(FAMILIES)}")
        self.kind = str(kind)
        self.weights = self._weight_files()
        heads = {name: shape for file in self.weights for name, (_, shape) in tensor_heads(file).items()}
        self.tensors, self.elements = len(heads), sum(map(math.prod, heads.values()))
        self.has_head = any(name.startswith(HEADS) for name in heads)
        body = self.settings.get(SECTIONS.get(self.kind, ""))
        named = "encoder_layers" if self.kind in SEQUENCE else "num_hidden_layers"
        layers = (body if isinstance(body, dict) else self.settings).get(named, 0)
        if type(layers) is not int or layers > self.tensors:
            raise UserError(f"{path}: {named} {show(layers)} does not fit {self.tensors} tensors of the weights")

    def _weight_files(self) -> list[Path]:
        single, index = self.folder / "model.safetensors", self.folder / INDEX
        if single.is_file():
            return [single]
        if index.is_file():
            names = read_json(index, LARGEST_SPEC_BYTES).get("weight_map")
            named = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
            if not named or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", name) for name in named):
                raise UserError(f"{index}: its weight_map names no files in this folder; copy the model again")
            if missing := [name for name in named if not (self.folder / name).is_file()]:
                raise MissingInput(f"{self.folder / missing[0]}: no such file; {INDEX} names it; copy the model again")
            return [self.folder / name for name in named]
        for name in PICKLES:
            if (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder / name}: pickled weights can hold programs and are not read; where you trust them, convert: "
                    "transformers' AutoModelForCTC.from_pretrained(FOLDER).save_pretrained(NEW)"
                )
        raise MissingInput(f"{single}: no such file; copy the weights of the model here")

    def check_size(self, spec: dict[str, Any]) -> None:
        """Refuse a description of more numbers than the weights hold. Args: spec: content of model.json."""
        with torch.device("meta"):
            wanted = sum(parameter.numel() for parameter in build_model(spec).parameters())
        if wanted > self.elements + SPARE:
            raise UserError(
                f"{self.folder}/config.json: describes {wanted:,} parameters, the weights hold {self.elements:,}; copy both again"
            )

    def open_settings(self) -> tuple[Any, Any]:
        """Configuration and feature extractor. Raises: UserError."""
        check_extractor(self.folder)
        with self.told("read its settings"):
            import transformers

            options = {"local_files_only": True, "trust_remote_code": False}
            config = transformers.AutoConfig.from_pretrained(self.folder, **options)
            return config, transformers.AutoFeatureExtractor.from_pretrained(self.folder, **options)

    def open_model(self) -> nn.Module:
        """The whole model, or the encoder of a sequence-to-sequence one, in float32, in eval mode. Raises: UserError."""
        if self.kind in SEQUENCE:
            config, _ = self.open_settings()
            with self.told("read the model"):
                return open_encoder(config, self.encoder_state())
        with self.told("read the model"):
            import transformers

            transformers.logging.set_verbosity_error()
            transformers.logging.disable_progress_bar()
            model, report = transformers.AutoModelForCTC.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
            )  # fmt: skip
        made_up = ("masked_spec_embed",) if self.has_head else ("masked_spec_embed", *HEADS)
        if lacking := sorted(name for name in report["missing_keys"] if not any(part in name for part in made_up)):
            raise UserError(f"{self.weights[0]}: lacks {', '.join(lacking[:3])}; copy the weights of the model here")
        return model.eval()

    def encoder_state(self) -> dict[str, torch.Tensor]:
        """Tensors of the encoder, under the names they have in it."""
        state = {}
        for path in self.weights:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - the file is no mapping
                    if match := re.fullmatch(r"(?:model\.)?encoder\.(.+)", name):
                        state[match[1]] = file.get_tensor(name)
        return state

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Whatever transformers raises about a stranger's folder, as one line. Args: what: what it was to do."""
        # read when it is imported
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            yield
        except (UserError, MemoryError):
            raise
        except ImportError as error:
            raise UserError(f"transformers cannot be imported ({error}); pip install -r {REQUIREMENTS}") from None
        # of any kind: its checks are spread over many classes
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{self.folder}: transformers cannot {what} ({reason}); copy the model again") from None

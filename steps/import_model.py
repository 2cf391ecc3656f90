"""Turn a model from a hub into a model folder, which decoding, scoring, pruning, quantization and export take as any other.

    python3 -m steps.import_model --hub models/wav2vec2-base-960h --out exp/mine/big

--hub is a local Hugging Face folder of a CTC model with safetensors weights and its tokenizer; nothing is downloaded, and no
code of the folder is run. The model hears samples of 16 kHz, whatever its feature extractor does with them being part of it.
Units become ours: the blank first, then <unk>. What was made is compared with transformers before it is written. Of Whisper
the encoder is taken, from such a folder or one of CTranslate2 (model.bin): steps.train_teacher gives it an output layer.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import check, from_dict, load_config, save_config
from steps.core.outdir import sha256_file
from steps.core.provenance import write_run_record
from steps.data.feature_config import FeatureConfig
from steps.data.hub_vocabulary import PAD, no_vocabulary, read_vocabulary
from steps.models.asr_model import AsrModel
from steps.models.build import build_model, new_spec, read_spec, save_model
from steps.models.hub_convert import SEQUENCE, hub_sizes, hub_state
from steps.models.hub_ctranslate import CTranslateFolder, is_ctranslate
from steps.models.hub_folder import HubFolder
from steps.models.hub_whisper import CroppedEncoder

STEP = "import_model"
# 10 ms frames of the noise that both models hear
LENGTHS = (60, 143)
# of the largest log-probability; float32 through dozens of layers
TOLERANCE = 1e-3


@dataclass
class ImportConfig:
    """Settings of an import. dropout: of every module when the model is trained further, 0..1; null: as in its config.json."""

    dropout: float | None = None

    def __post_init__(self) -> None:
        check(self.dropout is None or 0 <= self.dropout < 1, "dropout must be in [0, 1)")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--hub", required=True, metavar="DIR", help="folder of a CTC model or of Whisper, from a hub")
    add_common(parser, config="conf/hub.yaml", out="model folder to write")
    args = parser.parse_args()
    config, out = load_config(ImportConfig, args.config), Path(args.out)
    if (out / "model.json").is_file() and (step := read_spec(out).get("step")) != STEP:
        raise UserError(f"{out}: holds a finished model of {step}; choose another --out")
    source = open_folder(args.hub)
    model, tokenizer, features, difference = import_folder(source, config)
    tokenizer.save(out)
    save_config(out / "features.yaml", features)
    save_config(out / "conf.yaml", config)
    write_run_record(out, seed=None, device="cpu", torch=torch.__version__)
    save_model(out, model, {name: out / name for name in ("tokenizer.model", "tokens.txt", "features.yaml")})
    say(f"largest difference from transformers: {difference:.2g} nats")
    if not source.has_head:
        say("an encoder without output layer: it says nothing until steps.train_teacher --init gives it one")
    origin, size = model.spec["origin"], (out / "model.safetensors").stat().st_size
    say(
        f"{origin['model_type']}, {model.spec['parameters']:,} parameters, {len(model.blocks)} layers, "
        f"{model.spec['vocab_size']} units, a frame every {origin['frame_shift_ms']} ms: {size:,} bytes in {out}"
    )


def open_folder(folder: str) -> HubFolder:
    """Look at a folder in Hugging Face's format, or at one of CTranslate2. Raises: MissingInput, UserError."""
    return CTranslateFolder(folder) if is_ctranslate(Path(folder)) else HubFolder(folder)


def import_folder(source: HubFolder, config: ImportConfig) -> tuple[AsrModel, Any, FeatureConfig, float]:
    """Make a model of ours. Returns: model in eval mode, Tokenizer, FeatureConfig, largest difference in nats.

    Raises: MissingInput, UserError when the folder cannot be imported, or ours would compute something else.
    """
    settings, extractor = source.open_settings()
    heard = {"kind": "samples", "sample_rate_hz": extractor.sampling_rate}
    features = from_dict(FeatureConfig, heard, f"{source.folder}/preprocessor_config.json")
    try:
        sizes = hub_sizes(settings, extractor)
    except (AttributeError, TypeError, ValueError) as error:
        what = f"config.json and preprocessor_config.json do not belong together ({error})"
        raise UserError(f"{source.folder}: {what}; copy both again") from None
    if config.dropout is not None:
        sizes["dropout"] = config.dropout
    # the units of a decoder are not those of a CTC output layer; two are made up
    key = "blank_token_id" if source.kind == "omniasr_ctc" else PAD
    outputs, blank_id = (2, 0) if source.kind in SEQUENCE else (settings.vocab_size, getattr(settings, key))
    if type(outputs) is not int or type(blank_id) is not int or not 1 <= outputs <= source.elements:
        raise UserError(f"{source.folder}/config.json: vocab_size and {key}, the blank, must be numbers in the model")
    vocabulary = read_vocabulary(source.folder, outputs, blank_id, key) if source.has_head else no_vocabulary(outputs)
    where = f"{source.folder}/config.json"
    spec = new_spec("hub", sizes, features.dim, len(vocabulary.order), STEP, where)
    source.check_size(spec)
    whole = source.open_model()
    state = hub_state(whole, extractor, sizes, vocabulary.order)
    model = build_model(spec)
    try:
        # mean and scale of features stay as they are: 0 and 1
        model.load_state_dict(state | {name: model.state_dict()[name] for name in ("feature_mean", "feature_scale")})
    except RuntimeError as error:
        raise UserError(
            f"{source.folder}: the weights do not fit config.json: {' '.join(str(error).split())[:300]}"
        ) from None
    model.spec["origin"] = {
        "model_type": source.kind,
        "weights_sha256": [sha256_file(path) for path in source.weights],
        "frame_shift_ms": features.frame_shift_ms * model.frontend.stride,
        "blank_id": 0,
        "outputs": vocabulary.order,
    }
    difference = compare(model.eval(), source, whole, extractor, vocabulary.order)
    if not source.has_head:
        model = without_units(model)
    return model, vocabulary.tokenizer, features, difference


def without_units(model: AsrModel) -> AsrModel:
    """The same encoder under an output layer of blank and <unk> that emits nothing but the blank."""
    spec = model.spec | {"vocab_size": 2, "origin": model.spec["origin"] | {"outputs": [None, None]}}
    state, bare = model.state_dict(), build_model(spec)
    state |= {"output.weight": torch.zeros(2, model.config.d_model), "output.bias": torch.tensor([0.0, -1e4])}
    bare.load_state_dict(state)
    return bare.eval()


@torch.no_grad()
def compare(model: AsrModel, source: HubFolder, whole: nn.Module, extractor: Any, order: list[int | None]) -> float:
    """Let both hear noise. Returns: largest difference of log-probabilities, nats.   Raises: UserError when it is too large."""
    worst, random = 0.0, torch.Generator().manual_seed(0)
    for frames in LENGTHS:
        rate = model.spec["feature_dim"]
        samples = torch.randn(frames * rate, generator=random) * torch.linspace(0.02, 0.2, frames * rate)
        # fills up with silence, and has to say where it begins
        options = {"return_attention_mask": True} if isinstance(whole, CroppedEncoder) else {}
        with source.told("hear with the model"):
            heard = extractor(samples.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)
            theirs = whole(**heard).logits[0].float().log_softmax(dim=-1)
        ours, lengths = model(samples.view(1, frames, rate), torch.tensor([frames]))
        kept = [place for place, index in enumerate(order) if index is not None]
        theirs, ours = theirs[: lengths[0], [order[place] for place in kept]], ours[0, : lengths[0], kept]
        if theirs.shape != ours.shape:
            raise UserError(f"import: {len(ours)} frames instead of {len(theirs)}; this variant cannot be imported")
        difference = float((ours - theirs).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(theirs.abs().max())):
            raise UserError(
                f"import: {difference:.2g} nats from what transformers computes; this variant cannot be imported"
            )
        worst = max(worst, difference)
    return worst


if __name__ == "__main__":
    sys.exit(run_main(main))

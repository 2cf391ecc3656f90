"""From a model of transformers to a CTC model of ours: sizes, names of tensors, and what its feature extractor computes."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from steps.core.cli import UserError
from steps.models.hub_lasr import lasr_blocks, lasr_mel, lasr_state_
from steps.models.hub_mel import FFT, PREEMPHASIS, SHIFT, WINDOW, mel_tensors
from steps.models.hub_wave import wave_sizes
from steps.models.hub_whisper import whisper_sizes

# model_type of transformers -> family
TRANSFORMERS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat", "omniasr_ctc", "sew")
CONFORMERS = ("wav2vec2-conformer", "wav2vec2-bert", "parakeet_ctc", "lasr_ctc")
# a CTC output layer goes on its encoder
SEQUENCE = ("whisper",)
FAMILIES = (*TRANSFORMERS, *CONFORMERS, *SEQUENCE)
# section of config.json that has the sizes of the encoder, where it is not config.json itself
SECTIONS = {"parakeet_ctc": "encoder_config", "lasr_ctc": "encoder_config", "omniasr_ctc": "audio_config"}
# what only training reads
UNREAD = re.compile(
    r"masked_spec_embed|encoder\.embed_positions\..*|encoder\.encode_positions\..*|.*num_batches_tracked"
)
# name in transformers, without the model's own prefix -> our name
NAMES = [
    (r"(?:feature_extractor|audio_tower\.subsampling)\.conv_layers\.(\d+)\.conv\.", r"frontend.convs.\1.conv."),
    (r"(?:feature_extractor|audio_tower\.subsampling)\.conv_layers\.(\d+)\.layer_norm\.", r"frontend.convs.\1.norm."),
    (r"(?:feature_projection|audio_tower\.subsampling)\.layer_norm\.", "frontend.project_norm."),
    (r"(?:feature_projection|audio_tower\.subsampling)\.projection\.", "frontend.linear."),
    (r"(?:encoder\.pos_conv_embed|audio_tower\.encode_positions)\.conv\.", "frontend.positions.0."),
    (r"encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"frontend.positions.\1."),
    (r"(?:encoder|audio_tower)\.layer_norm\.", "frontend.end_norm."),
    (r"encoder\.subsampling\.linear\.", "frontend.linear."),
    (r"encoder\.subsampler\.dense_0\.", "frontend.first."),
    (r"encoder\.subsampler\.conv_(\d)\.", r"frontend.convs.\1."),
    (r"encoder\.subsampler\.dense_1\.", "frontend.linear."),
    (r"encoder\.out_norm\.", "frontend.end_norm."),
    (r"encoder\.conv1\.", "frontend.convs.0."),
    (r"encoder\.conv2\.", "frontend.convs.1."),
    (r"(?:encoder|audio_tower)\.layers\.", "blocks."),
    (r"(?:lm_head|ctc_head)\.", "output."),
    # SEW
    (r"layer_norm\.", "frontend.project_norm."),
    (r"feature_projection\.", "frontend.linear."),
    (r"encoder\.upsample\.projection\.", "widening.linear."),
]
# below blocks.N
BLOCK_NAMES = [
    # Transformers
    (r"attention\.([qkv])_proj\.", r"attention.\1."),
    (r"attention\.out_proj\.", "attention.out."),
    (r"attention\.gru_rel_pos_linear\.", "attention.gate."),
    (r"layer_norm\.", "attention_norm."),
    (r"feed_forward\.intermediate_dense\.", "ff.up."),
    (r"feed_forward\.output_dense\.", "ff.down."),
    (r"final_layer_norm\.", "ff_norm."),
    (r"adapter_layer\.norm\.", "adapter.0."),
    (r"adapter_layer\.linear_1\.", "adapter.1."),
    (r"adapter_layer\.linear_2\.", "adapter.3."),
    # Whisper
    (r"self_attn\.([qkv])_proj\.", r"attention.\1."),
    (r"self_attn\.out_proj\.", "attention.out."),
    (r"self_attn_layer_norm\.", "attention_norm."),
    (r"fc1\.", "ff.up."),
    (r"fc2\.", "ff.down."),
]
CONFORMER_NAMES = [
    (r"ffn([12])_layer_norm\.", r"ff\1_norm."),
    (r"ffn([12])\.intermediate_dense\.", r"ff\1.up."),
    (r"ffn([12])\.output_dense\.", r"ff\1.down."),
    (r"self_attn_layer_norm\.", "attention_norm."),
    (r"self_attn\.linear_([qkv])\.", r"attention.\1."),
    (r"self_attn\.linear_out\.", "attention.out."),
    (r"self_attn\.linear_pos\.", "attention.position."),
    (r"self_attn\.pos_bias_u", "attention.content_bias"),
    (r"self_attn\.pos_bias_v", "attention.position_bias"),
    (r"self_attn\.distance_embedding\.weight", "attention.table"),
    (r"conv_module\.layer_norm\.", "conv_norm."),
    (r"conv_module\.pointwise_conv1\.", "conv.pointwise_in."),
    (r"conv_module\.depthwise_conv\.", "conv.depthwise."),
    (r"conv_module\.depthwise_layer_norm\.", "conv.norm."),
    (r"conv_module\.batch_norm\.", "conv.batch."),
    (r"conv_module\.pointwise_conv2\.", "conv.pointwise_out."),
    (r"final_layer_norm\.", "end_norm."),
    # Parakeet, LASR
    (r"feed_forward([12])\.linear1\.", r"ff\1.up."),
    (r"feed_forward([12])\.linear2\.", r"ff\1.down."),
    (r"norm_feed_forward([12])\.", r"ff\1_norm."),
    (r"norm_self_att\.", "attention_norm."),
    (r"norm_conv\.", "conv_norm."),
    (r"norm_out\.", "end_norm."),
    (r"self_attn\.([qkv])_proj\.", r"attention.\1."),
    (r"self_attn\.o_proj\.", "attention.out."),
    (r"self_attn\.relative_k_proj\.", "attention.position."),
    (r"self_attn\.bias_u", "attention.content_bias"),
    (r"self_attn\.bias_v", "attention.position_bias"),
    (r"conv\.pointwise_conv1\.", "conv.pointwise_in."),
    (r"conv\.depthwise_conv\.", "conv.depthwise."),
    (r"conv\.norm\.", "conv.batch."),
    (r"conv\.pointwise_conv2\.", "conv.pointwise_out."),
]
LETTERS = {"q": "query", "k": "key", "v": "value"}


def hub_sizes(config: Any, extractor: Any) -> dict[str, Any]:
    """Settings of HubConfig, from those of transformers.

    Args:   config: a configuration of one of FAMILIES.   extractor: its feature extractor.
    Raises: UserError for a variant that cannot be imported.
    """
    kind = config.model_type
    if kind in SEQUENCE:
        return whisper_sizes(config, extractor)
    refused = ("add_adapter", "conv_pos_batch_norm", "use_intermediate_ffn_before_adapter")
    for name in refused:
        if getattr(config, name, False):
            raise UserError(f"config.json: {name}: such layers behind or in the encoder cannot be imported")
    body = getattr(config, SECTIONS[kind]) if kind in SECTIONS else config
    sizes: dict[str, Any] = {"d_model": body.hidden_size, "norm_eps": getattr(body, "layer_norm_eps", 1e-5)}
    heads = body.num_attention_heads
    if heads < 1 or body.hidden_size % heads:
        raise UserError(f"config.json: hidden_size {body.hidden_size} is no multiple of {heads} heads")
    sizes["head_dim"] = getattr(body, "head_dim", None) or body.hidden_size // heads
    sizes |= {"activation": body.hidden_act, "num_blocks": body.num_hidden_layers}
    sizes |= {"dropout": float(getattr(body, "hidden_dropout", getattr(body, "dropout", 0.1)))}
    block = {"heads": heads, "ff": body.intermediate_size}
    if kind in TRANSFORMERS:
        before = kind == "omniasr_ctc" or bool(getattr(config, "do_stable_layer_norm", False))
        sizes |= {"style": "pre" if before else "post", "end_norm": before}
        if before and getattr(config, "adapter_attn_dim", None):
            block["adapter"] = config.adapter_attn_dim
        if kind == "sew":
            sizes["squeeze"] = config.squeeze_factor
        if kind == "wavlm":
            sizes |= {"positions": "gated", "left": config.max_bucket_distance, "right": config.max_bucket_distance}
    else:
        block |= {"ff2": body.intermediate_size, "conv_channels": body.hidden_size}
        sizes |= _conformer_sizes(kind, body)
    heard = (
        {"mel": mel_sizes(kind, body, extractor)}
        if kind in CONFORMERS[1:]
        else {"wave": wave_sizes(kind, body, extractor)}
    )
    return sizes | heard | {"block": block}


def _conformer_sizes(kind: str, body: Any) -> dict[str, Any]:
    if kind == "lasr_ctc":
        return lasr_blocks(body)
    sizes: dict[str, Any] = {"style": "conformer", "end_norm": kind == "wav2vec2-conformer"}
    sizes |= {"kernel_size": body.conv_kernel_size if kind == "parakeet_ctc" else body.conv_depthwise_kernel_size}
    sizes |= {"causal": kind == "wav2vec2-bert", "conv_norm": "layer" if kind == "wav2vec2-bert" else "none"}
    if kind == "parakeet_ctc":
        biases = {
            "attention_bias": body.attention_bias,
            "ff_bias": body.attention_bias,
            "conv_bias": body.convolution_bias,
        }
        return sizes | biases | {"positions": "sinusoid"}
    known = {"relative": "sinusoid", "rotary": "rotary", "relative_key": "distance", None: "none"}
    if body.position_embeddings_type not in known or getattr(body, "rotary_embedding_base", 10000) != 10000:
        raise UserError(f"config.json: positions {body.position_embeddings_type!r} of that base cannot be imported")
    sizes["positions"] = known[body.position_embeddings_type]
    if sizes["positions"] == "distance":
        sizes |= {"left": body.left_max_position_embeddings, "right": body.right_max_position_embeddings}
    return sizes


def mel_sizes(kind: str, body: Any, extractor: Any) -> dict[str, Any]:
    """Settings of MelConfig; a feature extractor with other windows than ours is refused."""
    if kind == "lasr_ctc":
        return lasr_mel(body, extractor)
    if kind == "wav2vec2-bert":
        bins, fits = extractor.num_mel_bins, extractor.stride == 2
        fits = fits and body.feature_projection_input_dim == 2 * bins
        sizes = {"kind": "seamless", "bins": bins}
    else:
        window = (extractor.n_fft, extractor.win_length, extractor.hop_length, extractor.preemphasis)
        fits = window == (FFT, WINDOW, SHIFT, PREEMPHASIS) and extractor.feature_size == body.num_mel_bins
        fits = fits and (body.subsampling_conv_kernel_size, body.subsampling_conv_stride) == (3, 2)
        layers = int(body.subsampling_factor).bit_length() - 1
        fits = fits and 2**layers == body.subsampling_factor and body.num_mel_bins % body.subsampling_factor == 0
        scale = body.hidden_size**0.5 if body.scale_input else 1.0
        sizes = {"kind": "parakeet", "bins": body.num_mel_bins, "channels": body.subsampling_conv_channels}
        sizes |= {"layers": layers, "scale": scale}
    if not fits:
        raise UserError("preprocessor_config.json: features of other windows or strides than usual cannot be imported")
    return sizes


def hub_state(
    whole: nn.Module, extractor: Any, sizes: Mapping[str, Any], order: list[int | None]
) -> dict[str, torch.Tensor]:
    """Tensors under our names.

    Args:   whole: the model of transformers; the weight norm of its convolutions is removed.   sizes: from `hub_sizes`.
            order: the output unit that each of ours is; None: one that is never emitted.
    Raises: UserError naming a tensor that has no place.
    """
    for module in whole.modules():
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    state, conformer = {}, sizes["style"] == "conformer"
    for name, tensor in whole.state_dict().items():
        if (ours := our_name(name.removeprefix(f"{whole.base_model_prefix}."), conformer)) is not None:
            state[ours] = tensor.detach().float()
    if conformer and "wave" in sizes:
        # made, and not used, by transformers, too
        state = {name: tensor for name, tensor in state.items() if not name.startswith("frontend.positions.")}
    if sizes.get("mel", {}).get("kind") == "lasr":
        lasr_state_(state)
    if sizes.get("end_norm"):
        for part in ("weight", "bias"):
            state[f"norm.{part}"] = state.pop(f"frontend.end_norm.{part}")
    _reshape_(state, whole, sizes)
    fill = (0.0, -1e4)
    for part, value in zip(("weight", "bias"), fill, strict=True):
        rows = state[f"output.{part}"]
        never = torch.full_like(rows[:1], value)
        state[f"output.{part}"] = torch.cat([never if i is None else rows[i : i + 1] for i in order])
    if "mel" in sizes:
        state |= mel_tensors(sizes["mel"]["kind"], extractor)
    return state


def our_name(name: str, conformer: bool) -> str | None:
    """Our name of a tensor of transformers; None for what only training reads. Raises: UserError for an unknown one."""
    if UNREAD.fullmatch(name):
        return None
    if match := re.fullmatch(r"encoder\.subsampling\.layers\.(\d+)\.(\w+)", name):
        # convolution, ReLU, then depthwise, pointwise, ReLU again and again
        layer, place = divmod(int(match[1]) + 1, 3)
        return (
            f"frontend.pointwise.{layer - 1}.{match[2]}"
            if place == 1 and layer
            else f"frontend.convs.{layer}.{match[2]}"
        )
    named = next((re.sub(f"^{old}", new, name) for old, new in NAMES if re.match(old, name)), None)
    if named is None:
        raise UserError(f"the weights hold {name}, which has no place in the models that can be imported")
    if not named.startswith("blocks."):
        return named
    _, index, rest = named.split(".", 2)
    for old, new in CONFORMER_NAMES if conformer else BLOCK_NAMES:
        if match := re.match(old, rest):
            inner = match.expand(new) + rest[match.end() :]
            inner = re.sub(r"^attention\.([qkv])\.", lambda found: f"attention.{LETTERS[found[1]]}.", inner)
            return f"blocks.{index}.{inner}"
    return f"blocks.{index}.{rest}"


def _reshape_(state: dict[str, torch.Tensor], whole: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Pointwise convolutions become matrices, batch norms part of a convolution, WavLM's buckets distances."""
    for name in [n for n in state if n.endswith(("pointwise_in.weight", "pointwise_out.weight", "output.weight"))]:
        state[name] = state[name].reshape(state[name].shape[0], -1)
    for index in range(sizes["num_blocks"]) if sizes["style"] == "conformer" else ():
        conv = f"blocks.{index}.conv"
        weight = state[f"{conv}.depthwise.weight"]
        bias = state.pop(f"{conv}.depthwise.bias", weight.new_zeros(len(weight)))
        if f"{conv}.batch.weight" in state:
            gain, shift, mean, variance = (
                state.pop(f"{conv}.batch.{part}") for part in ("weight", "bias", "running_mean", "running_var")
            )
            gain = gain * (variance + 1e-5).rsqrt()
            weight, bias = weight * gain[:, None, None], (bias - mean) * gain + shift
        state |= {f"{conv}.depthwise.weight": weight, f"{conv}.depthwise.bias": bias}
    for index in range(sizes["num_blocks"]) if sizes.get("mel", {}).get("kind") == "whisper" else ():
        # its keys have none
        place = f"blocks.{index}.attention"
        state[f"{place}.key.bias"] = torch.zeros_like(state[f"{place}.query.bias"])
    if "wave" in sizes and "frontend.linear.weight" not in state:
        # SEW's, where front end and blocks have the same width
        state |= {
            "frontend.linear.weight": torch.eye(sizes["d_model"]),
            "frontend.linear.bias": torch.zeros(sizes["d_model"]),
        }
    if sizes.get("positions") == "gated":
        attention = whole.get_submodule(whole.base_model_prefix).encoder.layers[0].attention
        distances = torch.arange(-sizes["left"], sizes["right"] + 1)
        # (heads, distances); the first layer's, which all share
        table = state.pop("blocks.0.attention.rel_attn_embed.weight")[attention._relative_positions_bucket(distances)].T
        for index in range(sizes["num_blocks"]):
            place = f"blocks.{index}.attention"
            state[f"{place}.table"] = table.clone()
            state[f"{place}.gate_scale"] = state.pop(f"{place}.gru_rel_pos_const").flatten()
            state[f"{place}.head_of"] = torch.arange(len(table))

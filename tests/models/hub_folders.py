"""Hugging Face folders of small random models, written by transformers itself."""

import importlib
import json
import struct

import numpy as np
import torch

CHARACTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghij'"]
PIECES = ["<unk>", "\u2581a", "\u2581b", "a", "b", "c", "ab", "\u2581ab", "\u2581c", "abc", "\u2581"]
WAVE = {
    "vocab_size": len(CHARACTERS), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LARGE = WAVE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CONFORMER = {"conv_depthwise_kernel_size": 7, "num_hidden_layers": 2}
# OmniASR's: a space is a unit, and begins others; U+200C has no width
OMNIASR_PIECES = ["<s>", "<pad>", "</s>", "<unk>", " ", *"abcdefghij'", "\u200c", " a", "ab"]
# without a projection; blocks of 25 frames a second under an output of 50
SEW = WAVE | {"conv_dim": [16] * 12 + [32]}
PARAKEET = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "subsampling_conv_channels": 8,
}  # fmt: skip
# those of LasrTokenizer: with scores, and what is never spelt before and behind them
LASR_PIECES = [
    ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("\u2581a", -1.5), ("\u2581b", -2.5), ("a", -3.0), ("b", -3.2),
    ("c", -3.3), ("ab", -4.0), ("\u2581ab", -4.5), ("abc", -8.0), ("ca", -9.9), ("<extra_id_1>", 0.0), ("<extra_id_0>", 0.0),
]  # fmt: skip
LASR = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_kernel_size": 8,
    "subsampling_conv_channels": 24, "num_mel_bins": 40, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}  # fmt: skip
OMNIASR = {key: WAVE[key] for key in list(WAVE)[1:8]}
WHISPER = {
    "vocab_size": 70, "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 3,
}  # fmt: skip
# name -> (configuration class, model class, settings)
MODELS = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForCTC", WAVE),
    "wav2vec2-large": ("Wav2Vec2Config", "Wav2Vec2ForCTC", LARGE),
    "mms": ("Wav2Vec2Config", "Wav2Vec2ForCTC", LARGE | {"adapter_attn_dim": 8}),
    "hubert": ("HubertConfig", "HubertForCTC", WAVE),
    "wavlm": ("WavLMConfig", "WavLMForCTC", WAVE),
    "wavlm-large": ("WavLMConfig", "WavLMForCTC", LARGE),
    "data2vec": ("Data2VecAudioConfig", "Data2VecAudioForCTC", WAVE | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "unispeech": ("UniSpeechConfig", "UniSpeechForCTC", WAVE),
    "unispeech-sat": ("UniSpeechSatConfig", "UniSpeechSatForCTC", WAVE),
    "conformer": ("Wav2Vec2ConformerConfig", "Wav2Vec2ConformerForCTC", WAVE | CONFORMER),
    "conformer-rotary": (
        "Wav2Vec2ConformerConfig", "Wav2Vec2ConformerForCTC", LARGE | CONFORMER | {"position_embeddings_type": "rotary"}
    ),
    "wav2vec2-bert": ("Wav2Vec2BertConfig", "Wav2Vec2BertForCTC", {**WAVE, **CONFORMER, "left_max_position_embeddings": 9}),
    "parakeet": ("ParakeetCTCConfig", "ParakeetForCTC", {"vocab_size": len(PIECES) + 1, "pad_token_id": len(PIECES)}),
    "lasr": ("LasrCTCConfig", "LasrForCTC", {"vocab_size": len(LASR_PIECES)}),
    "omniasr": ("OmniASRCTCConfig", "OmniASRForCTC", {"vocab_size": len(OMNIASR_PIECES)}),
    "sew": ("SEWConfig", "SEWForCTC", SEW),
    "sew-large": (
        "SEWConfig", "SEWForCTC", SEW | {
            "conv_dim": [16] * 13, "feat_extract_norm": "layer", "conv_bias": True, "num_conv_pos_embeddings": 5,
            "squeeze_factor": 3,
        },
    ),
    "whisper": ("WhisperConfig", "WhisperForConditionalGeneration", WHISPER),
}  # fmt: skip


# of weights that say the blank, which is not to be seen otherwise; 0 for the others
SEEDS = {"omniasr": 2, "lasr": 42}


def make_folder(folder, name):
    """Write the folder of one of MODELS with lively random weights. Returns: folder."""
    import transformers

    torch.manual_seed(SEEDS.get(name, 0))
    config_class, model_class, settings = MODELS[name]
    if name == "parakeet":
        settings = settings | {"encoder_config": transformers.ParakeetEncoderConfig(**PARAKEET)}
    if name == "lasr":
        settings = settings | {"encoder_config": transformers.LasrEncoderConfig(**LASR)}
    if name == "omniasr":
        settings = settings | {"audio_config": transformers.OmniASRAudioConfig(**OMNIASR)}
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings)).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("inv_freq") or "embed_positions" in key:
                continue
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and tensor.dim() <= 1:
                tensor.add_(0.2 * torch.randn_like(tensor))
            elif "original" not in key and tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * (tensor[0].numel() ** -0.5))
    model.save_pretrained(folder)
    if name == "omniasr":
        write_omniasr(folder)
        return folder
    extractor(transformers, name).save_pretrained(folder)
    if name == "lasr":
        transformers.LasrTokenizer(vocab=LASR_PIECES, extra_ids=2).save_pretrained(folder)
        return folder
    write_tokenizer(folder, name)
    return folder


def extractor(transformers, name):
    """The feature extractor that such models come with."""
    if name == "parakeet":
        return transformers.ParakeetFeatureExtractor(feature_size=80)
    if name == "lasr":
        return transformers.LasrFeatureExtractor(feature_size=LASR["num_mel_bins"])
    if name == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor()
    if name == "whisper":
        return transformers.WhisperFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask="large" in name)


def write_tokenizer(folder, name):
    """Characters in vocab.json, or BPE pieces in tokenizer.json; none for Whisper, of which the encoder is taken."""
    if name == "whisper":
        return
    if name != "parakeet":
        (folder / "vocab.json").write_text(json.dumps({text: i for i, text in enumerate(CHARACTERS)}))
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
        return
    merges = [["\u2581", "a"], ["\u2581", "b"], ["a", "b"], ["\u2581a", "b"], ["\u2581", "c"], ["ab", "c"]]
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": {text: i for i, text in enumerate(PIECES)}, "merges": merges}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": 0, "content": "<unk>"} | plain, {"id": len(PIECES), "content": "<pad>"} | plain]
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    whole = {"version": "1.0", "model": model, "added_tokens": added, "pre_tokenizer": space, "decoder": space}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "unk_token": "<unk>"}))


def write_omniasr(folder):
    """The processor of an OmniASR model, in processor_config.json and tokenizer.json, from a SentencePiece model."""
    import transformers
    from transformers.convert_slow_tokenizer import OmniASRConverter

    model = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    for i, text in enumerate(OMNIASR_PIECES):
        # control, unknown or normal
        model.pieces.add(piece=text, score=-9.0, type=(3, 3, 3, 2)[i] if i < 4 else 1)
    model.trainer_spec.unk_id = 3
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.ParakeetTokenizer(
        tokenizer_object=OmniASRConverter(folder / "tokenizer.model").converted(), **names
    )
    (folder / "tokenizer.model").unlink()
    transformers.OmniASRCTCProcessor(transformers.OmniASRFeatureExtractor(), tokenizer).save_pretrained(folder)


def write_ctranslate(folder, arrays):
    """Write the folder of a Whisper model as CTranslate2 does, with something of a decoder in front. Returns: folder."""
    arrays = {"decoder/embeddings/weight": np.ones((5, 3), np.float16)} | arrays
    kinds = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}
    text = b"".join(struct.pack("<H", len(name) + 1) + name.encode() + b"\0" for name in ("WhisperSpec",))
    content = struct.pack("<I", 6) + text + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        content += struct.pack("<H", len(name) + 1) + name.encode() + b"\0" + struct.pack("<B", array.ndim)
        content += struct.pack(f"<{array.ndim}I", *array.shape)
        content += struct.pack("<BI", kinds[array.dtype.name], array.nbytes) + array.tobytes()
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content + struct.pack("<I", 0))
    (folder / "config.json").write_text(json.dumps({"suppress_ids": []}))
    return folder

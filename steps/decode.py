"""Write what a model recognises in a data folder, one utterance at a time, so that no number depends on batching.

    python3 -m steps.decode --model exp/an4/student/export --data data/an4/test --words data/an4/words.txt \\
        --out exp/an4/student/decode_test_onnx

--model is a model folder (runs in torch) or an exported folder (runs in onnxruntime). Writes greedy.txt and, with
--words and `lexicon: true`, lexicon.txt (Kaldi text lines), then decode.json. --config: that of the recipe where it has a
decode.yaml of its own, which says what is counted (characters, phones). --runtime sherpa-onnx decodes an exported
folder from the audio with sherpa-onnx (requirements-sherpa.txt), greedily, in a process of its own. With --shard J
--num-shards N it decodes one part of the folder into part.J, and steps.combine_decodes puts the parts together.
"""

import importlib.metadata
import sys
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, to_dict
from steps.core.datadir import read_data_dir
from steps.core.outdir import model_hashes, sha256_file
from steps.core.shards import add_shard_options, own_part
from steps.data.archives import check_feature_settings, load_feature_matrix, read_feats_scp
from steps.deploy.recognition import DecodeConfig, decode_all, is_exported, open_lexicon, write_hypotheses
from steps.deploy.runtimes import load_recogniser
from steps.deploy.sherpa import SherpaProcess


def main():
    parser = make_decode_parser()
    args = parser.parse_args()
    config = load_config(DecodeConfig, args.config)
    exported = is_exported(args.model)
    if args.runtime == "sherpa-onnx":
        decode_sherpa(parser, args, exported, config)
        return
    device = "cpu" if exported else torch_device(args.device)
    utterances = read_data_dir(args.data, check_audio=not (Path(args.data) / "feats.scp").is_file(), need_text=False)
    utterances = own_part(parser, args, utterances)
    files = model_hashes(args.model)
    recogniser = load_recogniser(args.model, device=device, num_threads=args.num_threads)
    decoder = None
    if args.words and config.lexicon:
        decoder = open_lexicon(args.words, args.model, recogniser, config.word_score)
    features = open_features(args.data, utterances, recogniser.features, Path(args.model) / "features.yaml")
    say(f"decoding {len(utterances)} utterances of {args.data} with {args.model} on {device}")
    hyps, frames = decode_all(recogniser, utterances, features, decoder)
    facts = {
        "files": files,
        "utterances": len(hyps["greedy"]),
        "audio_seconds": round(frames * recogniser.features.frame_shift_ms / 1000, 2),
        "runtime": versions("onnxruntime" if exported else "torch", "numpy"),
        "device": device,
        "num_threads": args.num_threads,
        "settings": to_dict(config),
        "words": decoder and {"count": len(decoder.words), "sha256": sha256_file(args.words)},
    }
    write_hypotheses(folder_of_part(args), hyps, facts)
    say(f"wrote {', '.join(f'{kind}.txt' for kind in hyps)} of {facts['audio_seconds']} s of audio to {args.out}")


def make_decode_parser():
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or exported folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    parser.add_argument("--words", metavar="FILE", help="word list, one per line, for the lexicon column")
    parser.add_argument("--runtime", choices=("own", "sherpa-onnx"), default="own", help="what runs an exported folder")
    add_common(parser, config="conf/decode.yaml", out="folder of the hypotheses", device=True)
    add_shard_options(parser)
    return parser


def decode_sherpa(parser, args, exported, config):
    """Decode with sherpa-onnx and write what `main` writes, for the greedy text."""
    from steps.data.features import change_speed, load_audio  # torchaudio

    if not exported:
        raise UserError(f"{args.model}: sherpa-onnx reads exported folders only; name the export/ in it")
    utterances = own_part(parser, args, read_data_dir(args.data, need_text=False))
    say(f"decoding {len(utterances)} utterances of {args.data} with {args.model} by sherpa-onnx")
    texts, seconds, files = {}, 0.0, model_hashes(args.model)
    with SherpaProcess(args.model, args.num_threads) as sherpa:
        rate_hz = sherpa.features.sample_rate_hz
        for utt in utterances:
            samples = load_audio(utt.audio, rate_hz, utt.start_s, utt.end_s)
            samples = change_speed(samples, utt.speed) if utt.speed != 1.0 else samples
            texts[utt.utt_id] = sherpa.text(samples.numpy(), utt.utt_id)
            seconds += len(samples) / rate_hz
    facts = {
        "files": files,
        "utterances": len(texts),
        "audio_seconds": round(seconds, 2),
        "runtime": {"sherpa-onnx": sherpa.version} | versions("numpy"),
        "device": "cpu",
        "num_threads": args.num_threads,
        "settings": to_dict(config),
    }
    write_hypotheses(folder_of_part(args), {"greedy": texts}, facts)
    say(f"wrote greedy.txt of {facts['audio_seconds']} s of audio to {args.out}")


def folder_of_part(args):
    """Where the hypotheses go: --out, or, of one part of several, a folder in it."""
    return Path(args.out) / f"part.{args.shard}" if args.num_shards > 1 else Path(args.out)


def versions(*packages):
    return {package: importlib.metadata.version(package) for package in packages}


def torch_device(name):
    """Turn --device into the name of a device that is there. Raises: UserError."""
    from steps.training.distributed import choose_device  # here, so that an exported folder is decoded without torch

    return str(choose_device(name))


def open_features(data_dir, utterances, config, where):
    """Function from Utterance to (T, D) float32: reads feats.scp when the data folder has one, else the audio.

    Args:   config: FeatureConfig of the model.   where: the file it comes from, for messages.
    Raises: UserError for features of other settings, or listing utterances that feats.scp lacks.
    """
    scp = Path(data_dir) / "feats.scp"
    if not scp.is_file():
        from steps.data.features import utterance_features  # torchaudio

        return lambda utt: utterance_features(utt, config).numpy()
    check_feature_settings(data_dir, config, where)
    table = read_feats_scp(scp)
    missing = [utt.utt_id for utt in utterances if utt.utt_id not in table]
    if missing:
        some = " ".join(missing[:10])
        raise UserError(f"{scp}: {len(missing)} utterances are missing: {some}; extract features again")
    return lambda utt: load_feature_matrix(table[utt.utt_id])


if __name__ == "__main__":
    sys.exit(run_main(main))

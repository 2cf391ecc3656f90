"""Write what a model recognises in a data folder, one utterance at a time, so that no number depends on batching.

    python3 -m steps.decode --model exp/an4/student/export --data data/an4/test --words data/an4/words.txt \\
        --out exp/an4/student/decode_test_onnx

--model is a model folder (run by torch) or an exported folder (run by onnxruntime). Writes greedy.txt and, with
--words and `lexicon: true`, lexicon.txt, with --graph lm.txt, of transducers with `beam: 4` beam.txt (Kaldi text lines), then
decode.json. With --labels each recording is one label of that list: one_of.txt has the one with the largest CTC probability.
--config: the recipe's own decode.yaml where it has one, which says what is counted (characters, phones).

--runtime sherpa-onnx decodes an exported folder from the audio with sherpa-onnx (requirements-sherpa.txt), greedily and with
--graph, in a separate process. With --shard J --num-shards N one part of the data folder is decoded into part.J, and
steps.combine_decodes puts the parts together.

--streaming feeds the sound as it would arrive to a model that streams and writes streaming.json, too: the time of a chunk, the
wait for the last word, what is kept between chunks; in one thread. Sound that is longer than half a minute is not cut then.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from steps.core.cli import MissingInput, UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, to_dict
from steps.core.datadir import read_data_dir
from steps.core.exports import has_units_of_a_hub, model_hashes
from steps.core.outdir import write_json
from steps.core.shards import add_shard_options, own_part
from steps.core.tables import counted
from steps.deploy.realtime import RealTime, TimedRecogniser, describe_summary, streaming
from steps.deploy.recognition import DecodeConfig, decode_all, hear, open_inputs, write_hypotheses
from steps.deploy.runtimes import RUNTIMES, Recogniser, load_recogniser, runtime_of, versions
from steps.deploy.runtimes.transducer import TransducerRecogniser


def main() -> None:
    parser = make_decode_parser()
    args = parser.parse_args()
    if args.streaming and args.num_shards > 1:
        parser.error("--streaming measures one run; leave --num-shards out")
    if args.streaming and (args.num_threads or 1) > 1:
        parser.error("--streaming measures processor time, to which all threads add; leave --num-threads out")
    args.num_threads = args.num_threads or (1 if args.streaming else 2)
    if args.streaming and args.chunk_ms == 0:
        parser.error("--streaming feeds a model in chunks, --chunk-ms 0 whole utterances; leave one of them out")
    config = load_config(DecodeConfig, args.config)
    runtime = runtime_of(args.model, args.runtime)
    device = torch_device(args.device) if "torch" in RUNTIMES[runtime].packages else "cpu"
    has_features = not args.streaming and (Path(args.data) / "feats.scp").is_file()
    utterances = read_data_dir(args.data, check_audio=not has_features, need_text=False)
    utterances = own_part(parser, args, utterances)
    files, live = model_hashes(args.model), None
    with load_recogniser(args.model, device=device, num_threads=args.num_threads, runtime=runtime) as recogniser:
        if args.chunk_ms is not None:
            use_chunk(recogniser, args.chunk_ms, args.model)
        if args.streaming:
            recogniser = streaming(recogniser, args.model)
        columns = use_columns(recogniser, args, config, runtime)
        inputs: Callable = open_inputs(recogniser, args.data, utterances, args.model)
        if args.streaming:
            live = RealTime(cast(TimedRecogniser, recogniser))
            recogniser = cast(Recogniser, live)
            inputs = functools.partial(hear, recogniser, cut=False)
        say(
            f"decoding {counted(len(utterances), 'utterance')} of {args.data} with {args.model} by {runtime} on {device}"
        )
        hyps, seconds = decode_all(recogniser, utterances, inputs)
    facts = {
        "files": files,
        "utterances": len(hyps["greedy"]),
        "audio_seconds": round(seconds, 2),
        "runtime": versions(RUNTIMES[runtime].packages),
        "device": device,
        "num_threads": args.num_threads,
        "settings": to_dict(config),
        **columns,
    }
    facts |= {} if args.chunk_ms is None else {"chunk_ms": args.chunk_ms}
    facts |= {"beam": config.beam} if "beam" in hyps else {}
    write_streaming(folder_of_part(args), live, facts, runtime)
    write_hypotheses(folder_of_part(args), hyps, facts | ({"streaming": True} if live else {}))
    say(f"wrote {', '.join(f'{kind}.txt' for kind in hyps)} of {facts['audio_seconds']} s of audio to {args.out}")


def use_columns(recogniser: Recogniser, args: argparse.Namespace, config: DecodeConfig, runtime: str) -> dict[str, Any]:
    """Set up the kinds of decoding beside greedy search. Returns: facts about them for decode.json."""
    words = labels = graph = None
    if args.words and config.lexicon:
        words = use_column(
            "lexicon", lambda: recogniser.use_words(args.words, args.model, config.word_score), args, runtime
        )
    if args.labels:
        labels = use_column("one_of", lambda: recogniser.use_labels(args.labels, args.model), args, runtime)
    if args.graph:
        graph = use_column("lm", lambda: recogniser.use_graph(args.graph), args, runtime)
    if config.beam and isinstance(recogniser, TransducerRecogniser):
        recogniser.use_beam(config.beam)
    elif config.beam:
        say("beam: no such column here; only transducers, run by torch or onnxruntime, are searched so")
    return {"words": words, "labels": labels, **({"graph": graph} if graph else {})}


def use_column(kind: str, use: Callable[[], dict | None], args: argparse.Namespace, runtime: str) -> dict | None:
    """Set up one of these kinds. Args: use: of the recogniser.   Returns: facts about it, or None, which is said.

    Raises: MissingInput; UserError where words cannot be spelled, unless in the units of a hub: its model stands at the beginning
    of a chain, and all others can have the column.
    """
    try:
        facts = use()
    except UserError as error:
        if not has_units_of_a_hub(args.model) or (kind != "lm" and isinstance(error, MissingInput)):
            raise
        say(f"warning: no {kind} column of a model with units of its own: {error}")
        return None
    if facts is None:
        say(f"{runtime} takes no {'graph' if kind == 'lm' else 'such list'} for {args.model}: no {kind} column")
    return facts


def write_streaming(out: Path, live: RealTime | None, facts: dict[str, Any], runtime: str) -> None:
    """Write streaming.json and say what is in it; one of an earlier run goes. Args: live: None: nothing was measured."""
    path = out / "streaming.json"
    path.unlink(missing_ok=True)
    if live is None:
        return
    # here, so that an exported folder is decoded without torch
    from steps.deploy.benchmark import describe_host

    found = live.summary()
    own = {key: facts[key] for key in ("files", "utterances", "audio_seconds", "num_threads")}
    write_json(path, own | {"runtime": runtime, "cpu": describe_host()["cpu"]} | found)
    say("\n".join(describe_summary(found)))


def make_decode_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or exported folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder")
    parser.add_argument("--words", metavar="FILE", help="word list, one per line, for the lexicon column")
    text = "list of labels, one per line: each recording is one of them (the one_of column)"
    parser.add_argument("--labels", metavar="FILE", help=text)
    parser.add_argument("--graph", metavar="DIR", help="folder with HLG.fst of steps.make_graph, for the lm column")
    text = "what runs the model (default: torch a model folder, onnxruntime an exported one)"
    parser.add_argument("--runtime", choices=("own", *RUNTIMES), default="own", help=text)
    text = "length of the chunks that a streaming model folder hears in, instead of its own; 0: whole utterances"
    parser.add_argument("--chunk-ms", type=int, metavar="MS", help=text)
    text = "feed the sound as it would arrive, and measure: streaming.json"
    parser.add_argument("--streaming", action="store_true", help=text)
    add_common(parser, config="conf/decode.yaml", out="folder of the hypotheses", device=True)
    # of one thread with --streaming
    parser.set_defaults(num_threads=None)
    add_shard_options(parser)
    return parser


def folder_of_part(args: argparse.Namespace) -> Path:
    """Where the hypotheses go: --out, or a folder in it for one part of several."""
    return Path(args.out) / f"part.{args.shard}" if args.num_shards > 1 else Path(args.out)


def use_chunk(recogniser: Recogniser, chunk_ms: int, folder: str) -> None:
    """Let a model folder hear in chunks of another length. Raises: UserError where it cannot."""
    model = getattr(getattr(recogniser, "model", None), "model", None)
    if model is None or not hasattr(model, "use_chunk"):
        raise UserError(f"{folder}: --chunk-ms is for model folders; export the model again with --chunk-ms {chunk_ms}")
    # here, so that an exported folder is decoded without torch
    from steps.deploy import export

    export.use_chunk(model, chunk_ms, folder)


def torch_device(name: str) -> str:
    """Turn --device into the name of an available device. Raises: UserError."""
    # here, so that an exported folder is decoded without torch
    from steps.training.distributed import choose_device

    return str(choose_device(name))


if __name__ == "__main__":
    sys.exit(run_main(main))

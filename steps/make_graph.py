"""Give an exported folder a language model: a decoding graph whose weights are chosen on dev, beside model.onnx.

    python3 -m steps.make_graph --export exp/an4/student/export --lm data/an4/lm/lm.arpa --dev data/an4/dev --config conf/lm.yaml

Writes HLG.fst and words.txt into the folder, where SHA256SUMS lists them from then on and README.md says how to use them, and
graph.json: the weights, and what each pair of them gave on dev. A model of tokens (ngram: {unit: token} in --config) has no
words.txt: any word can come out. steps.decode, steps.transcribe (--graph) and sherpa-onnx
(`ctc_graph`) read the same graph. --lexicon: spellings of words, `word token token ...` lines, several for a word if need be;
all other words are spelled as the tokenizer does. --decode-config: the recipe's decode.yaml, which says what errors count: with
`cer: true` those of characters. Of other models than CTC no graph is made.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.cli import UserError, add_common, make_parser, parse_count, run_main, say
from steps.core.config import load_config, to_dict
from steps.core.datadir import Utterance, read_data_dir
from steps.core.exports import GRAPH, has_units_of_a_hub
from steps.core.outdir import sha256_file, write_json
from steps.core.tables import SHOWN, counted
from steps.core.text_units import characters, in_units
from steps.data.tokenizer import SPACE
from steps.deploy.graph_files import check_installed, ship_graph
from steps.deploy.recognition import DecodeConfig, open_inputs
from steps.deploy.runtimes import load_recogniser
from steps.deploy.runtimes.ctc import CtcRecogniser
from steps.deploy.runtimes.streaming import StreamingRecogniser
from steps.deploy.spellings import Spellings, spell, spell_tokens
from steps.lm.arpa import read_arpa
from steps.lm.config import GraphConfig, LmConfig
from steps.lm.fst import write_fst
from steps.lm.graph import Weights, build_graph, build_token_graph
from steps.lm.ngram import NGram
from steps.scoring.wer import count_utterances, pool
from steps.search.graph import GraphDecoder

# of the best weights on dev: below, the choice is mostly chance
FEW_ERRORS = 20


@dataclass(frozen=True)
class Dev:
    """What weights are chosen on. log_probs: (T', V) of each piece of each utterance."""

    utterances: Sequence[Utterance]
    log_probs: Sequence[Sequence[np.ndarray]]
    tokens: list[str]
    scoring: DecodeConfig


def main() -> None:
    args = parse_args()
    check_installed()
    lm_config, scoring = load_config(LmConfig, args.config), load_config(DecodeConfig, args.decode_config)
    config, unit = lm_config.graph, lm_config.ngram.unit
    model = read_arpa(args.lm)
    pairs = list(itertools.product(config.lm_scale, config.word_score))
    with load_recogniser(args.export, num_threads=args.num_threads, runtime="onnxruntime") as opened:
        if not isinstance(opened, CtcRecogniser) or not opened.spells:
            say(f"{args.export}: only CTC models with units to spell in are decoded along a graph; none is made")
            return
        recogniser = check_blank(opened, args.export)
        try:
            spellings = spell_model(model, unit, recogniser, args)
            check_words(config, model, spellings, args)
        except UserError as error:
            # others of the chain can have one
            if not has_units_of_a_hub(args.export):
                raise
            say(f"warning: no graph for a model with units of its own: {error}")
            return
        dev = hear_dev(recogniser, args, config.most_dev, scoring) if len(pairs) > 1 else None
    tried = [] if dev is None else try_weights(pairs, config, model, spellings, dev)
    best = choose(tried) if tried else dict(zip(("lm_scale", "word_score"), pairs[0], strict=True))
    graph, words = make(model, spellings, Weights(best["lm_scale"], best["word_score"], config.hotwords))
    facts = {
        **{key: best[key] for key in ("lm_scale", "word_score")},
        "hotwords": config.hotwords,
        "lm": {"file": str(args.lm), "sha256": sha256_file(args.lm), "ngrams": [len(grams) for grams in model.probs]},
        "lexicon": {"file": str(args.lexicon), "sha256": sha256_file(args.lexicon)} if args.lexicon else None,
        "unit": unit,
        "words": len(spellings.words),
        "not_spelled": spellings.lacking,
        "dev": {
            "set": str(args.dev),
            "utterances": len(dev.utterances) if dev else 0,
            "counted": "char" if scoring.cer else scoring.unit,
            "tried": tried,
        },
        "settings": to_dict(config),
    }
    ship_graph(args.export, graph, words, facts)
    write_json(Path(args.export) / "graph.json", facts)
    chosen = f"lm_scale {best['lm_scale']:g}, word_score {best['word_score']:g}"
    say(f"{chosen}; {counted(len(spellings.words), unit)}, {len(graph):,} bytes: {args.export}/{GRAPH}")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--export", required=True, metavar="DIR", help="exported folder of a CTC model")
    parser.add_argument("--lm", required=True, metavar="ARPA", help="language model, e.g. lm.arpa of steps.train_lm")
    parser.add_argument("--dev", required=True, metavar="DIR", help="data folder on which the weights are chosen")
    parser.add_argument("--lexicon", metavar="FILE", help="spellings of words (default: the tokenizer's)")
    text = "which units are counted (default: conf/decode.yaml)"
    parser.add_argument("--decode-config", default="conf/decode.yaml", metavar="YAML", help=text)
    parser.add_argument("--num-threads", type=parse_count, default=1, metavar="N", help="CPU threads (default: 1)")
    add_common(parser, config="conf/lm.yaml")
    return parser.parse_args()


def check_blank(recogniser: CtcRecogniser, folder: str) -> CtcRecogniser:
    """Refuse a model whose blank sherpa-onnx would take for a token. Raises: UserError."""
    if recogniser.blank_id:
        raise UserError(f"{folder}/tokens.txt: the blank is not token 0, which sherpa-onnx takes for it")
    return recogniser


def spell_model(model: NGram, unit: str, recogniser: CtcRecogniser, args: argparse.Namespace) -> Spellings:
    """Spell the words of the language model, or find its tokens; those that cannot come out are named. Raises: UserError."""
    words = [word for (word,) in model.probs[0] if word not in ("<s>", "</s>", "<unk>")]
    if unit == "token":
        if args.lexicon:
            say(f"{args.lexicon} is not used: tokens have no spellings")
        try:
            found = spell_tokens(words, recogniser.tokens, recogniser.blank_id)
        except ValueError as error:
            remedy = "train it with the tokenizer of this model (steps.train_lm --tokenizer)"
            raise UserError(f"{args.lm}: not of the tokens of {args.export}: {error}; {remedy}") from None
        what = f"never out of this graph: {counted(len(found.lacking), 'token')} of {args.export} that {args.lm} does not know"
    elif any(SPACE in word for word in words):
        raise UserError(f"{args.lm}: {SPACE} says that it is of tokens; set ngram: {{unit: token}} in {args.config}")
    else:
        found = spell(words, args.export, recogniser.tokens, recogniser.blank_id, args.lexicon)
        of = f"{len(found.lacking)} of {counted(len(words), 'word')} of {args.lm}"
        what = f"{of} cannot be spelled in tokens and are left out"
    if found.lacking:
        say(f"{what}: {' '.join(found.lacking[:SHOWN])}{' ...' if len(found.lacking) > SHOWN else ''}")
    return found


def check_words(config: GraphConfig, model: NGram, spellings: Spellings, args: argparse.Namespace) -> None:
    """Refuse hotwords that cannot be recognised, and a language model of which no word can. Raises: UserError."""
    if not any((word,) in model.probs[0] for word in spellings.words):
        what = f"no word can be spelled in the tokens of {args.export}"
        raise UserError(f"{args.lm}: {what}; take a text in the letters, case and Unicode form of the transcripts")
    lost = [word for word in config.hotwords if word not in spellings.words or (word,) not in model.probs[0]]
    if lost:
        raise UserError(
            f"{args.config}: hotwords: {' '.join(lost[:SHOWN])}: not among the words of {args.lm} that can be spelled; "
            "add them to its text, or leave them out here"
        )


def hear_dev(recogniser: CtcRecogniser, args: argparse.Namespace, most: int, scoring: DecodeConfig) -> Dev:
    """Run the model once over dev, over `most` utterances at most, evenly taken."""
    utterances = list(read_data_dir(args.dev, check_audio=False))
    utterances = utterances[:: max(1, -(-len(utterances) // most))]
    inputs = open_inputs(recogniser, args.dev, utterances, args.export)
    log_probs = [[listen(recogniser, np.ascontiguousarray(x, np.float32)) for x in inputs(utt)] for utt in utterances]
    return Dev(utterances, log_probs, recogniser.tokens, scoring)


def listen(recogniser: CtcRecogniser, heard: np.ndarray) -> np.ndarray:
    """Log-probabilities (T', V) of what `open_inputs` yields: features (T, D), or samples (S,) for a streaming model."""
    if not isinstance(recogniser, StreamingRecogniser):
        return recogniser.log_probs(heard)
    stream = recogniser.stream()
    stream.accept(heard)
    stream.finish()
    return stream.log_probs


def try_weights(
    pairs: Sequence[tuple[float, float]], config: GraphConfig, model: NGram, spellings: Spellings, dev: Dev
) -> list[dict[str, Any]]:
    """Errors on dev of each pair of lm_scale and word_score."""
    tried = []
    for lm_scale, word_score in pairs:
        errors = count_errors(*make(model, spellings, Weights(lm_scale, word_score, config.hotwords)), dev)
        tried.append({"lm_scale": lm_scale, "word_score": word_score, **errors})
        say(f"lm_scale {lm_scale:g}, word_score {word_score:g}: {errors['errors']} errors of {errors['words']} on dev")
    if min(one["errors"] for one in tried) < FEW_ERRORS:
        say(f"warning: under {FEW_ERRORS} errors on dev tell little about weights; is dev in the training set?")
    return tried


def make(model: NGram, spellings: Spellings, weights: Weights) -> tuple[bytes, list[str] | None]:
    """The graph with these weights, as the content of its file, and its words; None for one of tokens. Raises: UserError."""
    try:
        if spellings.tokens:
            return write_fst(build_token_graph(model, spellings.tokens, weights, space_id=spellings.space_id)), None
        fst, words = build_graph(model, spellings.words, weights, space_id=spellings.space_id)
    except ValueError as error:
        raise UserError(str(error)) from None
    return write_fst(fst), words


def count_errors(graph: bytes, words: list[str] | None, dev: Dev) -> dict[str, int]:
    """Errors of dev with a graph, and reference words, in the units that the recipe counts: characters where it wants both."""
    with tempfile.NamedTemporaryFile(suffix=".fst") as file:
        file.write(graph)
        file.flush()
        decoder = GraphDecoder(file.name, dev.tokens, words)
    texts = (" ".join(filter(None, map(decoder.decode, pieces))) for pieces in dev.log_probs)
    hyps, refs = (
        {utt_id: units_of(text, dev.scoring) for utt_id, text in pairs}
        for pairs in (
            [(utt.utt_id, text) for utt, text in zip(dev.utterances, texts, strict=True)],
            [(utt.utt_id, utt.text) for utt in dev.utterances],
        )
    )
    found = pool(count_utterances(refs, hyps))
    return {"errors": found.errors, "words": found.reference_length}


def units_of(text: str, scoring: DecodeConfig) -> str:
    """What is counted of a text, with a space between."""
    words = in_units(text, "word", scoring.fold)
    if scoring.cer:
        return " ".join(SPACE if char == " " else char for char in characters(words))
    return in_units(words, scoring.unit)


def choose(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The pair with the fewest errors; of equal ones that in which the language model weighs least."""
    return min(tried, key=lambda one: (one["errors"], one["lm_scale"], abs(one["word_score"]), one["word_score"]))


if __name__ == "__main__":
    sys.exit(run_main(main))

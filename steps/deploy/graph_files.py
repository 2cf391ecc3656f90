"""The files of a decoding graph beside a model: HLG.fst and words.txt, checked before a decoder opens them.

A graph of tokens has no words.txt: what comes out are tokens of tokens.txt, numbered as they go in.
"""

import importlib.util
from pathlib import Path
from typing import Any

from steps.core.cli import MissingInput, UserError
from steps.core.exports import GRAPH, GRAPH_WORDS, SUMS, check_sums, read_sums, write_sums
from steps.core.outdir import atomic_file, sha256_file, write_text
from steps.data.tokenizer import read_tokens
from steps.lm.fst import check_fst, read_fst
from steps.search.graph import GraphDecoder

MOST_BYTES = 1 << 30
REQUIREMENTS = "requirements-lm.txt"
ABOUT_BEGINS = "\nWith a language model:\n\n"
ABOUT_RUN = """
Run: python3 -m steps.transcribe --graph THIS_FOLDER THIS_FOLDER a.wav (needs kaldi-decoder and kaldifst)
"""
ABOUT = """\
- HLG.fst: CTC, lexicon and {order}-gram language model as one graph (OpenFst), token ids plus one on its inputs, numbers of
  words.txt on its outputs. Its weights are in it: lm_scale {lm_scale:g}, word_score {word_score:g} nats{hotwords}.
- words.txt: `word number` lines, {words} words; only these come out.
"""
ABOUT_TOKENS = """\
- HLG.fst: CTC and {order}-gram model of {words} tokens as one graph (OpenFst), token ids plus one on its inputs and outputs; any
  word can come out. Its weights are in it: lm_scale {lm_scale:g}, word_score {word_score:g} nats a token.
"""
# only where the README has such a call, which is for whole utterances and features that sherpa-onnx computes
ABOUT_SHERPA = """\
Or, in sherpa-onnx, the call above and ctc_graph="HLG.fst". Its `words` are numbers of words.txt, its `text` the spelling that
was heard; of a sound that breaks off within a word it returns nothing, steps.transcribe the words before it.
"""
ABOUT_TOKENS_SHERPA = """\
Or, in sherpa-onnx, the call above and ctc_graph="HLG.fst".
"""


def open_graph(folder: str | Path, tokens: list[str]) -> GraphDecoder:
    """Open the graph of a folder.

    Args:   tokens: of the model that it is to weigh.
    Raises: MissingInput; UserError when a file is damaged, is for other tokens, or the decoder is not installed.
    """
    words = check_graph(folder, tokens)
    try:
        return GraphDecoder(Path(folder) / GRAPH, tokens, words)
    except ImportError:
        raise UserError(f"kaldi-decoder is not installed; pip install -r {REQUIREMENTS}") from None


def check_graph(folder: str | Path, tokens: list[str]) -> list[str] | None:
    """Check the files of a graph. Args: tokens: of the model that it is to weigh.   Returns: as `read_graph_words`.

    Raises: MissingInput; UserError, also for a graph made for other tokens: as many in another order would spell other words.
    """
    words = read_graph_words(folder)
    own = Path(folder) / "tokens.txt"
    if own.is_file() and read_tokens(own) != tokens:
        raise UserError(
            f"{own}: the graph is for these tokens, and the model has others; make its own with steps.make_graph"
        )
    path = Path(folder) / GRAPH
    check_sums(folder)
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: over {MOST_BYTES:,} bytes; prune the language model")
    try:
        check_fst(read_fst(path.read_bytes()), len(tokens), len(tokens) + 1 if words is None else len(words))
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again with steps.make_graph") from None
    return words


def read_graph_words(folder: str | Path) -> list[str] | None:
    """The words of a graph by their numbers, the first being none; None for a graph of tokens. Raises: MissingInput, UserError."""
    sums = read_sums(folder) if (Path(folder) / SUMS).is_file() else {}
    of_tokens = GRAPH in sums and GRAPH_WORDS not in sums
    for name in (GRAPH,) if of_tokens else (GRAPH, GRAPH_WORDS):
        if not (Path(folder) / name).is_file():
            raise MissingInput(f"{Path(folder) / name}: no such file; steps.make_graph makes it")
    return None if of_tokens else read_tokens(Path(folder) / GRAPH_WORDS)


def graph_facts(folder: str | Path) -> dict[str, Any]:
    """What a decoding records of a graph. Returns: {"words", "sha256"}; of one of tokens, which have any word, {"sha256"}."""
    words = read_graph_words(folder)
    return ({} if words is None else {"words": len(words) - 1}) | {"sha256": sha256_file(Path(folder) / GRAPH)}


def check_installed() -> None:
    """Raise UserError when the decoder is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("kaldi_decoder", "kaldifst")):
        raise UserError(f"kaldi-decoder is not installed; pip install -r {REQUIREMENTS}")


def ship_graph(folder: str | Path, graph: bytes, words: list[str] | None, facts: dict[str, Any]) -> None:
    """Put a graph into an exported folder; its SHA256SUMS, written last, lists it from then on, and README.md tells of it.

    Args: graph: content of the file.   words: from `build_graph`; None for a graph of tokens.   facts: lm_scale, word_score, hotwords, lm,
          words.
    """
    folder = Path(folder)
    sums = {name: digest for name, digest in read_sums(folder).items() if name not in (GRAPH, GRAPH_WORDS)}
    # so that a folder that is left half-way is one without a graph
    write_sums(folder, sums)
    with atomic_file(folder / GRAPH, "wb") as file:
        file.write(graph)
    if words is None:
        (folder / GRAPH_WORDS).unlink(missing_ok=True)
    else:
        write_text(folder / GRAPH_WORDS, "".join(f"{word} {number}\n" for number, word in enumerate(words)))
    readme = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
    order = len(facts["lm"]["ngrams"])
    weights = {key: facts[key] for key in ("lm_scale", "word_score", "words")}
    extra = ", ".join(f"{word} {nats:+g}" for word, nats in facts["hotwords"].items())
    template, for_sherpa = (ABOUT, ABOUT_SHERPA) if words is not None else (ABOUT_TOKENS, ABOUT_TOKENS_SHERPA)
    about = (
        ABOUT_BEGINS
        + template.format(order=order, hotwords=f"; hotwords, in nats: {extra}" if extra else "", **weights)
        + ABOUT_RUN
    )
    about += for_sherpa if "from_zipformer_ctc(" in readme else ""
    write_text(folder / "README.md", readme.split(ABOUT_BEGINS)[0] + about)
    own = (GRAPH,) if words is None else (GRAPH, GRAPH_WORDS)
    write_sums(folder, sums | {name: sha256_file(folder / name) for name in own})

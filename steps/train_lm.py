"""Train an n-gram language model on transcripts or on a text file, or take one over from an ARPA file.

    python3 -m steps.train_lm --data data/an4/train --dev data/an4/dev --words data/an4/words.txt --config conf/lm.yaml --out data/an4/lm
    python3 -m steps.train_lm --text sentences.txt --dev data/an4/dev --config conf/lm.yaml --out data/an4/lm
    python3 -m steps.train_lm --data data/msc/train --dev data/msc/dev --tokenizer data/msc/tokenizer \
        --config recipes/msc/conf/lm.yaml --out data/msc/lm

Writes lm.arpa and lm.json: sizes, and the perplexity of dev. A text file holds one sentence a line, spelled and cased as the
transcripts are. Transcripts of dev that are in --data, too, are left out, so that what dev says is worth something. --words:
the words it may know, all of which get a probability; others count as <unk>. Without it: the words of the text. With ngram:
{unit: token} the n-grams are of the tokens of --tokenizer, and every word can be recognised. How many
transcripts of --dev and --held-out a text file holds, word for word, is said: rates of such a set are too good.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, to_dict
from steps.core.copies import is_copy
from steps.core.datadir import read_data_dir
from steps.core.outdir import sha256_file, write_json
from steps.core.tables import SHOWN, counted
from steps.data.tokenizer import Tokenizer
from steps.deploy.runtimes.ctc import read_words
from steps.lm.arpa import read_arpa, refuse_packed, write_arpa
from steps.lm.config import LmConfig, NgramConfig
from steps.lm.estimate import count_ngrams, estimate
from steps.lm.ngram import BEGIN, END, UNKNOWN, Gram, NGram, Perplexity, perplexity
from steps.lm.prune import prune

# bytes of a line of a text file
LONGEST_LINE = 1_000_000


def main() -> None:
    args = parse_args()
    config = load_config(LmConfig, args.config).ngram
    dev = {utt.utt_id: utt.text.split() for utt in read_data_dir(args.dev, check_audio=False)}
    tokenizer = open_tokenizer(args, config)
    model = make(args, config, tokenizer, dev)
    sizes = ", ".join(f"{len(grams):,} {length}-grams" for length, grams in enumerate(model.probs, start=1))
    found = perplexity(model, in_units(dev.values(), tokenizer))
    say(describe(found, config.unit))
    if config.unit == "word" and found.unknown > found.words - found.sentences:
        say(
            "warning: it knows less than half of the words of dev; one of tokens (ngram: {unit: token}) can spell any word"
        )
    out = Path(args.out) / "lm.arpa"
    write_arpa(out, model)
    if [len(grams) for grams in read_arpa(out).probs] != [len(grams) for grams in model.probs]:
        raise UserError(f"{out}: reads back differently from what was written")
    facts = {
        "settings": to_dict(config),
        "ngrams": [len(grams) for grams in model.probs],
        "sources": {str(path): sha256_file(path) for path in source_files(args, tokenizer)},
        "dev": {
            "set": str(args.dev),
            "perplexity": round(found.value, 3),
            "words": found.words,
            "unknown": found.unknown,
        },
        "sha256": sha256_file(out),
    }
    write_json(Path(args.out) / "lm.json", facts)
    say(f"{sizes}, {out.stat().st_size:,} bytes: {out}")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", help="data folder whose transcripts to train on")
    source.add_argument("--text", metavar="FILE", help="text to train on, one sentence a line")
    source.add_argument("--arpa", metavar="FILE", help="finished model to take over, and to prune as --config says")
    parser.add_argument("--dev", required=True, metavar="DIR", help="data folder on which the perplexity is measured")
    parser.add_argument(
        "--words", metavar="FILE", help="the words it may know, one per line (default: those of the text)"
    )
    text = "folder of a tokenizer, for a model of its tokens; not used for one of words"
    parser.add_argument("--tokenizer", metavar="DIR", help=text)
    text = "data folders besides dev whose transcripts --text should not hold; they are not trained on"
    parser.add_argument("--held-out", nargs="+", default=[], metavar="DIR", help=text)
    add_common(parser, config="conf/lm.yaml", out="folder to write")
    args = parser.parse_args()
    if args.held_out and not args.text:
        parser.error("--held-out: only a text file is compared with other sets")
    if args.arpa and args.words:
        parser.error("--words: a finished model has its own words")
    return args


def open_tokenizer(args: argparse.Namespace, config: NgramConfig) -> Tokenizer | None:
    """The tokenizer whose tokens the n-grams are of; None where they are of words. Raises: MissingInput, UserError."""
    if config.unit == "word":
        return None
    if not args.tokenizer:
        raise UserError(f"{args.config}: ngram: {{unit: token}}: name the folder of the tokenizer, --tokenizer DIR")
    if args.words:
        say(f"{args.words} is not used: a model of tokens can spell any word")
    return Tokenizer.load(args.tokenizer)


def in_units(sentences: Iterable[list[str]], tokenizer: Tokenizer | None) -> Iterator[list[str]]:
    """Sentences, each a list of words, as the units of the n-grams: words, or the tokens of a tokenizer."""
    for words in sentences:
        yield words if tokenizer is None else [tokenizer.pieces[i] for i in tokenizer.encode(" ".join(words))]


def known_units(args: argparse.Namespace, tokenizer: Tokenizer | None) -> list[str] | None:
    """What the model may know: the tokens of a tokenizer, or a list of words; None: those of the text."""
    if tokenizer is not None:
        special = (tokenizer.blank_id, tokenizer.unknown_id)
        return [piece for i, piece in enumerate(tokenizer.pieces) if i not in special]
    return read_words(args.words) if args.words else None


def source_files(args: argparse.Namespace, tokenizer: Tokenizer | None) -> list[Path]:
    """The files that the model comes from."""
    main_file = Path(args.data) / "text" if args.data else Path(args.text or args.arpa)
    if tokenizer is not None:
        given = Path(args.tokenizer)
        return [main_file, given / "tokenizer.model" if given.is_dir() else given]
    return [main_file, *([Path(args.words)] if args.words else [])]


def make(
    args: argparse.Namespace, config: NgramConfig, tokenizer: Tokenizer | None, dev: dict[str, list[str]]
) -> NGram:
    """Train the model or read it, and prune it. Raises: MissingInput, UserError."""
    if args.arpa:
        model = read_arpa(args.arpa)
        own = {word for (word,) in model.probs[0]} - {BEGIN, END, UNKNOWN}
        if tokenizer is not None and (strange := sorted(own - set(tokenizer.pieces))):
            what = f"{len(strange)} of its {len(own)} words are no tokens of {args.tokenizer}"
            raise UserError(
                f"{args.arpa}: {what} ({' '.join(strange[:SHOWN])}); set ngram: {{unit: word}} in {args.config}"
            )
    else:
        words = known_units(args, tokenizer)
        if args.text:
            sentences = tell_known(read_text(args.text), args.text, [args.dev, *args.held_out])
        else:
            sentences = transcripts(args.data, dev)
        try:
            counts = count_ngrams(
                in_units(sentences, tokenizer), config.order, None if words is None else frozenset(words)
            )
        except ValueError as error:
            raise UserError(f"{args.text or args.data}: {error}") from None
        if not counts[0]:
            raise UserError(f"{args.text or args.data}: no text to train on")
        if words is not None:
            tell_unknown(counts[0], args.text or args.data, args.tokenizer if tokenizer else args.words, config.unit)
        model = estimate(counts, config.least(), words or ())
    if config.prune:
        before = sum(map(len, model.probs))
        model = prune(model, config.prune)
        say(f"pruned: {before - sum(map(len, model.probs)):,} of {before:,} n-grams left out")
    return model


def tell_unknown(unigrams: Counter[Gram], source: str, words: str, unit: str) -> None:
    """Say how many units of the text count as <unk>; warn where most do. Args: unigrams: counts, of sentence ends, too."""
    unknown, total = unigrams[(UNKNOWN,)], unigrams.total() - unigrams[(END,)]
    if unknown:
        what = f"{unknown:,} of {total:,} {unit}s of {source} are not in {words} and count as {UNKNOWN}"
        most = 2 * unknown > total
        say(f"warning: {what}: spell and case the text as the transcripts are" if most else what)


def transcripts(data: str, dev: dict[str, list[str]]) -> Iterator[list[str]]:
    """The transcripts of a data folder but for those of dev."""
    utterances = read_data_dir(data, check_audio=False)
    ids = {utt.utt_id for utt in utterances}
    # copies give speech more weight in training; here they would leave no counts of 1, on which the discounts rest
    utterances = [utt for utt in utterances if not is_copy(utt.utt_id, ids)]
    own = [utt.text.split() for utt in utterances if utt.utt_id not in dev]
    if left_out := len(utterances) - len(own):
        say(f"{counted(left_out, 'utterance')} of {data} left out, which dev holds, too")
    said = {tuple(words) for words in own}
    known = sum(tuple(words) in said for words in dev.values())
    say(f"{counted(len(own), 'transcript')}; {known} of {len(dev)} of dev are among them, word for word")
    yield from own


def tell_known(sentences: Iterable[list[str]], path: str, folders: Sequence[str]) -> Iterator[list[str]]:
    """Pass the sentences of a file on, and warn of data folders whose transcripts are among them."""
    sets = {folder: [tuple(utt.text.split()) for utt in read_data_dir(folder, check_audio=False)] for folder in folders}
    wanted, found = {words for texts in sets.values() for words in texts}, set()
    for words in sentences:
        if (key := tuple(words)) in wanted:
            found.add(key)
        yield words
    for folder, texts in sets.items():
        if known := sum(words in found for words in texts):
            what = f"warning: {path} holds {known} of the {len(texts)} transcripts of {folder}, word for word"
            say(f"{what}: decoded with this model, they say too little of other sentences")


def read_text(path: str) -> Iterator[list[str]]:
    """The sentences of a text file, split at blanks; empty lines are skipped. Raises: UserError naming the line."""
    refuse_packed(path)
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            try:
                words = line.decode("utf-8-sig" if number == 1 else "utf-8").split()
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: not UTF-8 text") from None
            if len(line) == LONGEST_LINE:
                raise UserError(f"{path}:{number}: longer than {LONGEST_LINE:,} bytes; one sentence a line is expected")
            if words:
                yield words


def describe(found: Perplexity, unit: str) -> str:
    """A line about the perplexity of dev."""
    unknown = f", {counted(found.unknown, f'unknown {unit}')} left out" if found.unknown else ""
    size = f"{found.sentences} sentences, {found.words} {unit}s with their ends{unknown}"
    return f"dev: perplexity {found.value:.2f} a {unit} ({size})"


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Train the tokenizer on the transcripts of a data folder, or take over the units of a model.

    python3 -m steps.train_tokenizer --data data/an4/train --config conf/tokenizer.yaml --out data/an4/tokenizer
    python3 -m steps.train_tokenizer --data data/an4/train --from TEACHER --out data/an4/tokenizer

Writes tokenizer.model (SentencePiece), tokens.txt (as sherpa-onnx reads it) and, when trained, tokenizer.yaml (the settings).
--from takes a model folder or any folder of an exported CTC model with its tokens.txt: a student with these units can be taught
by it frame by frame. Units are put in our order: the blank, <unk>, then the others as they come.
"""

import argparse
import sys
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, save_config
from steps.core.datadir import read_data_dir
from steps.core.tables import counted
from steps.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from steps.data.units import tokenizer_of


def make(args: argparse.Namespace, texts: list[str]) -> tuple[Tokenizer, str]:
    """Train it, or take it over. Returns: the tokenizer; what it is, in a word or two."""
    if args.take_from is not None:
        return tokenizer_of(args.take_from), f"units of {args.take_from}"
    config = load_config(TokenizerConfig, args.config)
    tokenizer = train_tokenizer(texts, config.kind, config.vocab_size)
    save_config(Path(args.out) / "tokenizer.yaml", config)
    return tokenizer, f"{config.kind} tokenizer"


def main() -> None:
    """Read, make, save, report."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with the training transcripts")
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument("--config", metavar="YAML", help="settings of this step")
    made.add_argument("--from", dest="take_from", metavar="DIR", help="model whose units to take over instead")
    add_common(parser, out="folder of the tokenizer")
    args = parser.parse_args()
    texts = [utt.text for utt in read_data_dir(args.data, check_audio=False)]
    say(f"{args.data}: {counted(len(texts), 'transcript')}, {sum(len(text.split()) for text in texts)} words")
    tokenizer, what = make(args, texts)
    if unknown := tokenizer.unknown_characters(texts):
        shown = ", ".join(f"{char!r} {count} times" for char, count in unknown.most_common(10))
        say(
            f"characters that it lacks and that count as <unk>: {shown}; bring the text to its letters (conf/prepare.yaml)"
        )
    tokenizer.save(args.out)
    if Tokenizer.load(args.out).pieces != tokenizer.pieces:
        raise UserError(f"{args.out}: reads back differently from what was trained")
    per_word = sum(len(tokenizer.encode(text)) for text in texts) / max(1, sum(len(text.split()) for text in texts))
    say(f"{what}, {tokenizer.vocab_size} tokens, {per_word:.2f} tokens per word: {args.out}")


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Train the tokenizer on the transcripts of a data folder.

    python3 -m steps.train_tokenizer --data data/an4/train --config conf/tokenizer.yaml --out data/an4/tokenizer

Writes tokenizer.model (SentencePiece), tokens.txt (as sherpa-onnx reads it) and tokenizer.yaml (the settings).
"""

import sys
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.config import load_config, save_config
from steps.core.datadir import read_data_dir
from steps.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with the training transcripts")
    add_common(parser, config=True, out="folder of the tokenizer")
    args = parser.parse_args()
    config = load_config(TokenizerConfig, args.config)
    texts = [utt.text for utt in read_data_dir(args.data, check_audio=False)]
    say(f"{args.data}: {len(texts)} transcripts, {sum(len(text.split()) for text in texts)} words")
    tokenizer = train_tokenizer(texts, config.kind, config.vocab_size)
    tokenizer.save(args.out)
    save_config(Path(args.out) / "tokenizer.yaml", config)
    if Tokenizer.load(args.out).pieces != tokenizer.pieces:
        raise UserError(f"{args.out}: reads back differently from what was trained")
    per_word = sum(len(tokenizer.encode(text)) for text in texts) / max(1, sum(len(text.split()) for text in texts))
    say(f"{config.kind} tokenizer, {tokenizer.vocab_size} tokens, {per_word:.2f} tokens per word: {args.out}")


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Read your corpus into data folders: the one file to change for a new corpus.

    ./run.sh --recipe THIS_FOLDER --stage 0 --stop-stage 0

As it stands it reads train.tsv, dev.tsv and test.tsv in --corpus-dir, one utterance a line, four fields separated by tabs:
utterance id, speaker, sound file (relative to --corpus-dir), text.
"""

import sys
from pathlib import Path

from steps.core.cli import UserError, add_common, make_parser, run_main, say
from steps.core.datacheck import audio_info
from steps.core.datadir import Utterance, write_data_dir
from steps.core.outdir import write_text

SETS = ("train", "dev", "test")  # as train_set, dev_set and test_sets in recipe.sh say


def read_utterances(corpus_dir, set_name):
    """Yield the utterances of one set. TODO: read your own lists here; keep speakers of dev and test out of train."""
    table = corpus_dir / f"{set_name}.tsv"
    if not table.is_file():
        raise UserError(f"{table}: no such file; write it, or change {__file__} to read your corpus")
    try:
        lines = table.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) != 4:
            raise UserError(
                f"{table}:{number}: {len(fields)} fields; expected id, speaker, file, text, separated by tabs"
            )
        utt_id, speaker, audio, text = fields
        path = (corpus_dir / audio).resolve()
        if not path.is_file():
            raise UserError(f"{table}:{number}: no such sound file: {path}")
        # TODO: bring the text into the form you want to recognise; here: lower case, single blanks.
        text = " ".join(text.lower().split())
        utt_id = utt_id if utt_id.startswith(speaker) else f"{speaker}-{utt_id}"
        seconds, _, _ = audio_info(path)
        yield Utterance(utt_id, speaker, text, str(path), duration_s=seconds)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--corpus-dir", required=True, type=Path, metavar="DIR", help="folder of the corpus")
    add_common(parser, out="folder of the data sets")
    args = parser.parse_args()
    words = set()
    sets = {
        set_name: list(read_utterances(args.corpus_dir, set_name)) for set_name in SETS
    }  # nothing written if one is bad
    for set_name, utterances in sets.items():
        write_data_dir(Path(args.out) / set_name, utterances)
        say(f"{set_name}: {len(utterances)} utterances")
        if set_name != "test":
            words.update(word for utterance in utterances for word in utterance.text.split())
    # TODO: the words your application knows, if recipe.sh says lexicon=true.
    write_text(Path(args.out) / "words.txt", "".join(f"{word}\n" for word in sorted(words)))


if __name__ == "__main__":
    sys.exit(run_main(main))

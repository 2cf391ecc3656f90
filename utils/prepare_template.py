"""Read your corpus into data folders: the one file to change for a new corpus.

    ./run.sh --recipe THIS_FOLDER --stage 0 --stop-stage 0

As it stands it reads train.tsv, dev.tsv and test.tsv in --corpus-dir, one utterance a line, four fields separated by tabs:
utterance id, speaker, sound file (relative to --corpus-dir), text; with --unlabelled extra also extra.tsv, which needs no
texts. What is wrong with sound, sets and transcripts is found as in every reader; --options says what may be done about it
(conf/prepare.yaml).
"""

import sys

from local.corpus import fetch, finish, reader_parser
from local.rows import read_lines
from steps.core.cli import run_main
from steps.core.datadir import Utterance
from steps.core.tables import Problem, counted

SETS = ("train", "dev", "test")  # as train_set, dev_set and test_sets in recipe.sh say


def read_utterances(corpus_dir, set_name, problems, need_text=True):
    """Yield the utterances of one set. TODO: read your own lists here; keep speakers of dev and test out of train."""
    for where, line in read_lines(corpus_dir / f"{set_name}.tsv"):
        fields = line.split("\t")
        if len(fields) != 4 and (need_text or len(fields) != 3):
            problems.append(
                Problem(where, f"{counted(len(fields), 'field')}; expected id, speaker, file, text, separated by tabs")
            )
            continue
        utt_id, speaker, audio, *texts = fields
        path = (corpus_dir / audio).resolve()
        if not path.is_file():
            problems.append(Problem(where, f"no such sound file: {path}"))
            continue
        # TODO: bring the text into the form you want to recognise; here: lower case, single blanks.
        text = " ".join("".join(texts).lower().split())
        yield Utterance(utt_id if utt_id.startswith(speaker) else f"{speaker}-{utt_id}", speaker, text, str(path))


def main():
    args, problems = reader_parser(__doc__, unlabelled=True).parse_args(), []
    corpus_dir = fetch(args, {})
    sets = {set_name: list(read_utterances(corpus_dir, set_name, problems)) for set_name in SETS}
    sets |= {name: list(read_utterances(corpus_dir, name, problems, need_text=False)) for name in args.unlabelled}
    # TODO: words= the words your application knows, if recipe.sh says lexicon=true; here: those of train and dev.
    finish(sets, problems, args)


if __name__ == "__main__":
    sys.exit(run_main(main))

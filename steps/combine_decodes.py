"""Put together the hypotheses that the parts of one decoding wrote.

    python3 -m steps.combine_decodes --data data/an4/test --decode exp/an4/student/decode_test --num-shards 8

Reads part.1 to part.8 of --decode and writes greedy.txt, lexicon.txt, lm.txt, one_of.txt, beam.txt and decode.json there, as steps.decode
without parts does, after checking that every utterance is there exactly once and that all parts were decoded alike.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.core.cli import UserError, make_parser, run_main, say
from steps.core.datadir import read_data_dir
from steps.core.shards import add_shard_options, merge_tables
from steps.core.tables import Problem, raise_problems
from steps.deploy.recognition import write_hypotheses
from steps.scoring.sources import read_json

REMEDY = "run steps.decode again for every part"
# facts that add up
COUNTS = ("utterances", "audio_seconds")
# facts in which the parts differ
OWN = (*COUNTS, "hypotheses_sha256")


def merge_facts(parts: Sequence[Path]) -> dict[str, Any]:
    """Merge the decode.json files of the parts. Raises: MissingInput; UserError naming a part that differs."""
    facts = [read_json(part / "decode.json") for part in parts]
    for part, own in zip(parts, facts, strict=True):
        different = sorted(name for name in {*own, *facts[0]} - {*OWN} if own.get(name) != facts[0].get(name))
        if different:
            raise UserError(f"{part}/decode.json: {different[0]} differs from that of {parts[0].name}; {REMEDY}")
        if odd := [name for name in COUNTS if not isinstance(own.get(name), (int, float)) or own[name] < 0]:
            raise UserError(f"{part}/decode.json: {odd[0]} is no number from 0; {REMEDY}")
    return facts[0] | {name: round(sum(own[name] for own in facts), 2) for name in COUNTS}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder that was decoded")
    parser.add_argument("--decode", required=True, metavar="DIR", help="folder that holds the parts")
    add_shard_options(parser, both=False)
    args = parser.parse_args()
    out = Path(args.decode)
    parts = [out / f"part.{shard}" for shard in range(1, args.num_shards + 1)]
    facts = merge_facts(parts)
    utt_ids = [utt.utt_id for utt in read_data_dir(args.data, check_audio=False, need_text=False)]
    lists = {
        name: facts.get(fact)
        for name, fact in (("lexicon", "words"), ("lm", "graph"), ("one_of", "labels"), ("beam", "beam"))
    }
    kinds = ["greedy", *(kind for kind, used in lists.items() if used)]
    problems: list[Problem] = []
    hyps = {}
    for kind in kinds:
        hyps[kind] = merge_tables([part / f"{kind}.txt" for part in parts], out / f"{kind}.txt", utt_ids, problems)
    raise_problems(problems, REMEDY)
    write_hypotheses(out, hyps, facts)
    for part in out.glob("part.*"):
        # left by a run with more parts
        if part not in parts:
            shutil.rmtree(part)
    say(f"{facts['utterances']} utterances, {facts['audio_seconds']} s of audio: {out}")


if __name__ == "__main__":
    sys.exit(run_main(main))

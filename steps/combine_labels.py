"""Put together the parts that `steps.label_data` wrote.

    python3 -m steps.combine_labels --data data/an4/train_sp --labels exp/an4/teacher_labels --num-shards 4

Writes labels.json, with which the folder is a teacher, after checking that every utterance is there exactly once and that all
parts were made with the same settings. The last line tells the size per hour of sound, copies at other speeds counted.
"""

import sys

from steps.core.cli import make_parser, run_main, say
from steps.core.shards import add_shard_options
from steps.data.label_parts import combine


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder that was labelled")
    parser.add_argument("--labels", required=True, metavar="DIR", help="folder of the labels")
    add_shard_options(parser, both=False)
    args = parser.parse_args()
    say(combine(args.labels, args.data, args.num_shards))


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Make a corpus of some minutes, orders in a restaurant, spoken by espeak-ng: Kaldi data folders for `--recipe kaldi`.

    python3 -m tests.recipes.made_up --minutes 30 --out /tmp/orders30
    ./run.sh --recipe kaldi --corpus-dir /tmp/orders30 --workdir /tmp/auto30 --sizes auto --time-budget 30m

Other words than those of recipe `home`, the same voices; no voice and no sentence occurs in two sets.
"""

import sys
from pathlib import Path
from unittest import mock

from local import prepare_home as home
from steps.core.cli import add_common, make_parser, run_main

CHOICES = {
    "starter": "soup|salad|garlic bread|olives|prawns|mushrooms",
    "main": "salmon|risotto|lasagne|steak|burger|curry|dumplings|ravioli|trout|omelette|paella|stew",
    "side": "chips|rice|spinach|beans|noodles|mash|coleslaw",
    "drink": "cider|espresso|lemonade|water|juice|cocoa|beer|wine|tea",
    "dessert": "cheesecake|pudding|sorbet|brownie|custard|crumble|waffles",
    "manner": "grilled|steamed|spicy|mild|crispy|smoked|fried",
    "vessel": "glass|bottle|jug|mug|pitcher",
    "person": "gentleman|lady|guest|child|waiter|chef|manager",
    "place": "terrace|bar|corner|fireplace|balcony|entrance hall",
    "without": "onions|nuts|cheese|butter|pepper|cream|mustard",
    "wish": "would like|prefers|has ordered|will share|asked for|is allergic to",
    "grade": "rare|medium|well done",
}
ORDERS = [
    "we are having the {manner} {main} with {side}",
    "one {manner} {main} without {without} and a {vessel} of {drink}",
    "the {person} by the {place} {wish} {starter}",
    "the {person} {wish} the {dessert}",
    "a {vessel} of {drink} for the {person} near the {place}",
    "bring {starter} and {side} before the {main}",
    "can i get the {main} {grade} with {side} instead of {starter}",
    "is there any {dessert} left without {without}",
    "reserve our usual seats near the {place} for the {person}",
    "more {drink} and another {dessert} over here",
    "my {main} was too {manner} so take it back to the {person}",
    "split the bill between the {person} and the {person}",
]
# Of such a sentence, on average.
SECONDS = 2.95


def sizes(minutes: float) -> dict[str, int]:
    """Utterances of each set for so many minutes of training speech."""
    count = max(20, round(60 * minutes / SECONDS))
    return {"test": min(400, max(60, count // 4)), "dev": min(150, max(40, count // 8)), "train": count}


def make(minutes: float, out: Path, seed: int = 0, nj: int = 1) -> None:
    """Write train, dev and test below `out`."""
    slots = {name: choices.split("|") for name, choices in CHOICES.items()}
    with mock.patch.multiple(home, COMMANDS=ORDERS, QUESTIONS=[], POLITE=["{}"], SLOTS=slots):
        jobs = home.make_jobs(seed, sizes(minutes))
    home.write_sets(jobs, home.speak(jobs, out, nj), out)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, required=True, metavar="N", help="of training speech")
    parser.add_argument("--nj", type=int, default=1, metavar="N", help="voices at a time (default: 1)")
    add_common(parser, out="folder of the corpus", seed=True)
    args = parser.parse_args()
    make(args.minutes, Path(args.out), args.seed, args.nj)


if __name__ == "__main__":
    sys.exit(run_main(main))

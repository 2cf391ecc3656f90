#!/usr/bin/env python3
"""Sort the files of a data folder and leave out what is incomplete or wrong in any of them.

    python3 utils/fix_data_dir.py data/mine

Works in place, after copying the files as they were to DIR/.backup, or writes to --out. Says how many utterances were
left out and why. Utterances with an empty transcript, a missing sound file or impossible times go; order, line ends,
byte order marks and spk2utt are mended, and in a folder that was copied or moved, paths that lead to where it came from.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.core.cli import UserError, make_parser, parse_bool, run_main, say
from steps.core.datacheck import audio_problems, find_problems
from steps.core.tables import (
    SHOWN,
    Problem,
    counted,
    raise_problems,
    read_folder,
    select,
    show_counts,
    spk2utt,
    write_folder,
)


def fix(folder, audio, need_text):
    """Find what can stay.

    Returns: (tables, list of Problem).   Raises: UserError when nothing can, or when leaving out does not help.
    """
    problems = []
    tables = read_folder(folder, problems)
    if strays := sorted(set().union(*(table.strays for table in tables.values()))):
        problems.append(Problem(str(folder), f"named files in {', '.join(strays[:2])}; the copies here are named now"))
    problems += find_problems(folder, tables, need_text=need_text, spk_sort=False)
    if "utt2spk" not in tables or "wav.scp" not in tables or (need_text and "text" not in tables):
        raise_problems(problems, "a missing file cannot be mended")
    bad = {utt for problem in problems for utt in problem.utterances}
    if audio:
        problems += audio_problems(tables, bad)
        bad |= {utt for problem in problems for utt in problem.utterances}
    good = [utt for utt in tables["utt2spk"] if utt not in bad]
    if not good:
        raise_problems(problems, "no utterance would be left, so nothing is written")
    chosen = select(tables, good) | {"spk2utt": spk2utt({utt: tables["utt2spk"][utt] for utt in good})}
    raise_problems(find_problems(folder, chosen, need_text=need_text, spk_sort=False), "these cannot be mended")
    return tables, chosen, problems


def main():
    parser = make_parser(__doc__)
    parser.add_argument("folder", metavar="DIR", help="data folder")
    parser.add_argument("--out", metavar="DIR", help="write the mended folder here, leave DIR alone")
    parser.add_argument("--audio", type=parse_bool, default=False, help="true: also read sound file headers")
    parser.add_argument("--text", type=parse_bool, default=True, help="false: transcripts may be missing")
    args = parser.parse_args()
    folder, out = Path(args.folder), Path(args.out or args.folder)
    before, after, problems = fix(folder, args.audio, args.text)
    for problem in problems[:SHOWN]:
        say(str(problem))
    if len(problems) > SHOWN:
        say(f"... and {len(problems) - SHOWN} more")
    dropped = len(before["utt2spk"]) - len(after["utt2spk"])
    if not problems and out == folder:
        say(f"{folder}: {show_counts(after)}: nothing to mend")
        return
    if out == folder:
        backup = folder / ".backup"
        backup.mkdir(exist_ok=True)
        for name in before:
            shutil.copy2(folder / name, backup / name)
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: exists and is not empty; name another folder")
    write_folder(out, after)
    say(f"{out}: {show_counts(after)}; left out {dropped} of {counted(len(before['utt2spk']), 'utterance')}")


if __name__ == "__main__":
    sys.exit(run_main(main))

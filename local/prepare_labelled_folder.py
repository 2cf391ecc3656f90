"""Make data folders of short files whose label stands in their path: what keyword and digit collections are.

    python3 local/prepare_labelled_folder.py --corpus-dir /data/mine --pattern '{label}/{speaker}_{take}' --out data/mine

--pattern is the path of a file below --corpus-dir without its suffix; {label} and {speaker} are taken, any other {name}
and * match anything but a slash. The default is that of Speech Commands. Underscores in labels become blanks; folders whose
names start with _ or . are left out.

Sets: folders train, dev and test, if there are all three. Otherwise dev and test are, each, what --dev-speakers and
--test-speakers say, else the files listed in validation_list.txt and testing_list.txt in --corpus-dir, else a tenth of
the rest, whole speakers, one at least. With --unlabelled extra all sound files in the folder extra are a set without
labels; one that does not fit the pattern is of a speaker of its own. Beside the sets: words.txt, the words of all labels,
and labels.txt, the labels.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, names_of, reader_parser
from local.held_out import LISTS, parse_speakers, speakers_of, split
from steps.core.cli import UserError, run_main, say
from steps.core.datadir import Utterance
from steps.core.folders import walk
from steps.core.sound import SUFFIXES
from steps.core.tables import counted

PATTERN = "{label}/{speaker}_nohash_{take}"  # no other layout is guessed: a wrong guess would take speakers for labels


def compile_pattern(pattern):
    """Turn a pattern into a regular expression. Raises: UserError."""
    names = re.findall(r"{(\w+)}", pattern)
    if names.count("label") != 1 or names.count("speaker") > 1:
        raise UserError(f"--pattern: {pattern!r} must have {{label}} once, and {{speaker}} once or not at all")
    parts = re.split(r"({\w+}|\*)", pattern)
    kept = {"{label}": "(?P<label>[^/]+)", "{speaker}": "(?P<speaker>[^/]+?)"}
    return re.compile(
        "".join(kept.get(p) or ("[^/]*" if p == "*" or p.startswith("{") else re.escape(p)) for p in parts)
    )


def list_files(root, leave_out=()):
    """Sound files below a folder, as paths relative to it without suffix -> Path; links are followed, hidden
    files and folders and _folders left out.

    Args: leave_out: names of folders directly in it that are left out, too.
    """
    files, twice = {}, []
    found = [Path(path) for _, _, paths in walk(str(root), {str(root / name) for name in leave_out}) for path in paths]
    for path in sorted(found, key=lambda path: (_rank(path), path)):
        inner = path.relative_to(root)
        if _rank(path) < len(SUFFIXES) and path.is_file() and not any(part[0] == "_" for part in inner.parts[:-1]):
            taken = files.setdefault(inner.with_suffix("").as_posix(), path)
            twice += [(path, taken)] if taken is not path else []
    if twice:
        left_out, taken = twice[0]
        say(
            f"{root}: {counted(len(twice), 'file')} left out for another of that name, e.g. {left_out} for {taken.name}"
        )
    return dict(sorted(files.items()))


def _rank(path):
    """Place of a suffix among those of sound files, the best first; their number for any other."""
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)


def read_folder(root, pattern, leave_out=()):
    """Utterances of the files that fit the pattern; the others are counted and reported, and so is what was taken for what."""
    files, found = list_files(root, leave_out), {}
    for name, path in files.items():
        if match := pattern.fullmatch(name):
            speaker = clean_id(match.groupdict().get("speaker") or name)
            label = " ".join(match["label"].replace("_", " ").split())
            found[name] = Utterance(f"{speaker}-{clean_id(name)}", speaker, label, str(path.resolve()))
    others = [name for name in files if name not in found]
    if not found:
        shown = f"files are named like {others[0]}" if others else "there are no sound files"
        raise UserError(f"{root}: {shown}; tell the layout with --pattern, such as '{{label}}/{{speaker}}_{{take}}'")
    if others:
        text = "do not fit the pattern and are left out, e.g."
        say(f"{root}: {len(others)} of {counted(len(files), 'file')} {text} {others[0]}")
    for what, values in (("label", [utt.text for utt in found.values()]), ("speaker", speakers_of(found.values()))):
        say(f"{root}: {counted(len(set(values)), what)}: {names_of(values)}")
    return found


def read_unlabelled(folder, pattern):
    """Utterances of all sound files of a folder, without labels. Raises: UserError where there are none."""
    files, utterances = list_files(folder), []
    if not files:
        raise UserError(f"{folder}: no sound files; --unlabelled names folders of {folder.parent} that hold some")
    matches = {name: pattern.fullmatch(name) for name in files}
    for name, match in matches.items():
        speaker = clean_id((match and match.groupdict().get("speaker")) or f"{folder.name}/{name}")
        utterances.append(Utterance(f"{speaker}-{clean_id(name)}", speaker, "", str(files[name].resolve())))
    if others := sum(match is None for match in matches.values()):
        say(
            f"{folder}: {others} of {counted(len(files), 'file')} do not fit the pattern: each counts as a speaker of its own"
        )
    return utterances


def main():
    parser = reader_parser(__doc__, unlabelled=True)
    parser.add_argument("--pattern", default=PATTERN, help="path of a file without its suffix (default: %(default)s)")
    for name in LISTS:
        text = f"speakers of {name}, separated by commas or blanks"
        parser.add_argument(f"--{name}-speakers", nargs="+", default=[], metavar="NAME", help=text)
    args = parser.parse_args()
    speakers = {"dev": parse_speakers(args.dev_speakers), "test": parse_speakers(args.test_speakers)}
    root = fetch(args, {})
    pattern = compile_pattern(args.pattern)
    if all((root / name).is_dir() for name in ("train", "dev", "test")):
        if any(speakers.values()):
            raise UserError(
                f"{root}: folders train, dev and test are the sets; leave out --dev-speakers, --test-speakers"
            )
        sets = {name: list(read_folder(root / name, pattern).values()) for name in ("train", "dev", "test")}
    else:
        sets = split(root, read_folder(root, pattern, args.unlabelled), speakers)
    sets |= {name: read_unlabelled(root / name, pattern) for name in args.unlabelled}
    finish(sets, [], args, words="all", labels=True)


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Make data folders of short files whose label stands in their path: what keyword and digit collections are.

    python3 local/prepare_labelled_folder.py --corpus-dir /data/mine --pattern '{label}/{speaker}_{take}' --out data/mine

--pattern is the path of a file below --corpus-dir without its suffix; {label} and {speaker} are taken, any other {name}
and * match anything but a slash. The default is that of Speech Commands. Folders train, dev and test, or the lists
validation_list.txt and testing_list.txt, decide on the sets where they are there; otherwise speakers are split.
Underscores in labels become blanks; folders whose names start with _ or . are left out.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, read_lines, reader_parser, split_by_speaker
from steps.core.cli import UserError, run_main, say
from steps.core.datadir import Utterance

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph")
PATTERN = "{label}/{speaker}_nohash_{take}"  # no other layout is guessed: a wrong guess would take speakers for labels
LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}


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


def list_files(root):
    """Sound files below a folder, as paths relative to it without suffix -> Path; hidden and _folders are left out."""
    files = {}
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not any(part[0] in "._" for part in inner.parts[:-1]):
            files[inner.with_suffix("").as_posix()] = path
    return files


def read_folder(root, pattern):
    """Utterances of the files that fit the pattern; the others are counted and told, and so is what was taken for what."""
    files, found = list_files(root), {}
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
        say(f"{root}: {len(others)} of {len(files)} files {text} {others[0]}")
    for what in ("text", "speaker"):
        values = sorted({getattr(utt, what) for utt in found.values()})
        say(f"{root}: {len(values)} {'labels' if what == 'text' else 'speakers'}: {', '.join(values[:8])}, ...")
    return found


def split(root, found):
    """Sets by the corpus' own lists, else by speakers."""
    if not all((root / path).is_file() for path in LISTS.values()):
        return split_by_speaker(list(found.values()))
    sets, rest = {}, dict(found)
    for name, path in LISTS.items():
        listed = [Path(line).with_suffix("").as_posix() for _, line in read_lines(root / path)]
        sets[name] = [rest.pop(item) for item in listed if item in rest]
    return {"train": list(rest.values()), **sets}


def main():
    parser = reader_parser(__doc__)
    parser.add_argument("--pattern", default=PATTERN, help="path of a file without its suffix (default: %(default)s)")
    args = parser.parse_args()
    root = fetch(args, {})
    pattern = compile_pattern(args.pattern)
    if all((root / name).is_dir() for name in ("train", "dev", "test")):
        sets = {name: list(read_folder(root / name, pattern).values()) for name in ("train", "dev", "test")}
    else:
        sets = split(root, read_folder(root, pattern))
    finish(sets, [], args, words=sorted({word for utts in sets.values() for utt in utts for word in utt.text.split()}))


if __name__ == "__main__":
    sys.exit(run_main(main))

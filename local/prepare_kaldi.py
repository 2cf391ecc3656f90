"""Take over Kaldi data folders: wav.scp, text, utt2spk, segments and all.

    python3 local/prepare_kaldi.py --corpus-dir /kaldi/egs/mine/s5/data --sets train=train_clean,dev=dev,test=eval92 \\
        --out data/mine

With --unlabelled extra the set extra, of the folder that --sets names or else of the folder extra, needs no text.
Relative paths in wav.scp are taken relative to --wav-root (default: --corpus-dir, then the folder of the data folder).
Commands in wav.scp (`sph2pipe ... |`) are refused; with --allow-pipes true they are run by bash, once, and what they
print is kept as FLAC in --out: only do that with files you trust.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import clean_id, fetch, finish, reader_parser
from local.sound import write_flac
from steps.core.cli import UserError, parse_bool, run_main, say
from steps.core.datadir import read_data_dir
from steps.core.sound import read_sound
from steps.core.tables import Problem, counted

# What Kaldi's own programs read beside.
UNUSED = ("reco2file_and_channel", "utt2lang", "utt2warp", "spk2warp")


def parse_sets(text):
    """`train=train_clean,dev=dev` -> dict. Raises: UserError."""
    pairs = [[word.strip() for word in pair.split("=")] for pair in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise UserError(f"--sets: expected such as train=train_clean,dev=dev,test=eval92, not {text!r}")
    if len(dict(pairs)) < len(pairs):
        what = "a set is there twice; put its folders together with utils/combine_data_dir.py"
        raise UserError(f"--sets: {what}, or name one of them: {text!r}")
    return dict(pairs)


def check_folders(root, folders):
    """Refuse sets whose folders are not there. Args: folders: set -> folder below root. Raises: UserError naming all."""
    missing = [f"{name}={folder}" for name, folder in folders.items() if not (root / folder / "wav.scp").is_file()]
    if missing:
        there = sorted(str(path.parent.relative_to(root)) for path in [*root.glob("wav.scp"), *root.glob("*/wav.scp")])
        what = f"no data folder (a folder with wav.scp) for {', '.join(missing)}"
        raise UserError(f"{root}: {what}; there are: {', '.join(there) or 'none'}; --sets says which is what")


def files_of(command):
    """Files that the words of a command name."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return [word for word in words if os.path.isfile(word)]


def run_pipe(command, path):
    """Keep the sound a command prints, all channels of it. Raises: UserError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent) as printed:
        words = ["bash", "-c", command.strip().removesuffix("|")]
        done = subprocess.run(words, stdout=printed, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                raise UserError(said[0] if said else f"status {done.returncode}")
            samples, rate_hz = read_sound(printed.name, channel="all")
        except UserError as error:
            reason = str(error).removeprefix(f"{printed.name}: ")
            raise UserError(f"the command `{command}` gave no sound ({reason})") from None
    write_flac(path, samples, rate_hz)


def find_audio(utt, roots, out, made, allow_pipes):
    """Path of an utterance's sound file; a command's output is made first. Raises: UserError."""
    if not utt.audio.endswith("|"):
        paths = [root / utt.audio for root in roots]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UserError(f"no such sound file: {' or '.join(map(str, paths))}; --wav-root names their folder")
        return str(path.resolve())
    if not allow_pipes:
        raise UserError(f"a command in wav.scp: {utt.audio}; --allow-pipes true runs it, if you trust it")
    if utt.audio not in made:
        path = out / "audio" / f"{len(made):06d}_{clean_id(utt.utt_id)[:80]}.flac"
        run_pipe(utt.audio, path)
        made[utt.audio] = str(path)
    return made[utt.audio]


def main():
    parser = reader_parser(__doc__, unlabelled=True)
    parser.add_argument("--sets", default="train=train,dev=dev,test=test", help="set=folder,... (default: %(default)s)")
    parser.add_argument("--wav-root", type=Path, metavar="DIR", help="what relative paths in wav.scp are relative to")
    parser.add_argument("--allow-pipes", type=parse_bool, default=False, metavar="BOOL", help="true: run commands")
    args = parser.parse_args()
    root, out, problems, sets, made = fetch(args, {}), Path(args.out), [], {}, {}
    folders = parse_sets(args.sets)
    folders |= {name: folders.get(name, name) for name in args.unlabelled}
    check_folders(root, folders)
    for name, folder in folders.items():
        sets[name] = []
        if unused := [file for file in UNUSED if (root / folder / file).is_file()]:
            say(f"{root / folder}: not used, though it may matter: {', '.join(unused)}")
        roots = [args.wav_root] if args.wav_root else [root, root / folder]
        options = {"allow_pipes": True, "check_audio": False, "as_written": True}
        for utt in read_data_dir(root / folder, need_text=name not in args.unlabelled, **options):
            try:
                audio = find_audio(utt, roots, out, made, args.allow_pipes)
                sets[name].append(replace(utt, audio=audio))
            except UserError as error:
                problems.append(Problem(f"{root / folder}/wav.scp: {utt.utt_id}", str(error)))
    if made:
        say(f"ran {counted(len(made), 'command')} of wav.scp; the sound is in {out}/audio")
    finish(sets, problems, args, heard=[path for command in made for path in files_of(command)])


if __name__ == "__main__":
    sys.exit(run_main(main))

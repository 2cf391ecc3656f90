"""Make data folders of TIMIT for phone recognition: 48 phones, scored as 39.

    python3 local/prepare_timit.py --corpus-dir /data/LDC93S1 --out data/timit

Reads the LDC's layout, TRAIN/DR1/FCJF0/SX37.{WAV,PHN} or the same in lower case, SPHERE or RIFF audio. Train: 462
speakers; test: the core test set, 24 speakers; dev: the 50 further test speakers that are commonly used. The sentences
SA1 and SA2, which all speakers read, are left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from local.corpus import fetch, find_folders, finish, reader_parser
from local.rows import read_lines
from steps.core.cli import UserError, run_main
from steps.core.datadir import Utterance
from steps.core.tables import Problem

CORE_TEST = """mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 mbpm0 mklt0 fnlp0 mcmj0 mjdh0
    fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0"""
DEV = """faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0 mglb0
    mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 fcal1
    mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1"""
COUNTS = {"train": (3696, 462, 3.14), "dev": (400, 50, 0.34), "test": (192, 24, 0.16)}
# 61 labels to 48 phones: Lee, Hon 1989, Speaker-independent phone recognition using hidden Markov models, table I.
# The last step, 48 to 39, is taken when scoring: recipes/timit/conf/decode.yaml.
SAME = """aa ae ah ao aw ax ay b ch d dh dx eh el en epi er ey f g hh ih ix iy jh k l m n ng ow oy p r s sh t th uh uw v
    w y z zh"""
FOLDED = {"ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw", "q": ""}
FOLDED |= {"bcl": "vcl", "dcl": "vcl", "gcl": "vcl", "pcl": "cl", "tcl": "cl", "kcl": "cl", "h#": "sil", "pau": "sil"}
TO_48 = {phone: phone for phone in SAME.split()} | FOLDED


def read_phones(path, problems):
    """Phones of one file of `start end label` lines, folded to 48. Returns: str."""
    phones = []
    for where, line in read_lines(path):
        fields = line.lower().split()
        if len(fields) != 3 or fields[2] not in TO_48:
            problems.append(Problem(where, f"expected `start end phone`, not {line!r}"))
        else:
            phones.append(TO_48[fields[2]])
    return " ".join(filter(None, phones))


def read_half(root, half, problems):
    """Read all speakers of TRAIN or TEST, but for their SA sentences."""
    folders = [folder for folder in find_folders(root, half) if any(folder.glob("[dD][rR]*"))]
    if not folders:
        raise UserError(f"{root}: no folder {half} with dialect regions (dr1, ...) here or below")
    utterances = []
    for speaker in sorted(folders[0].glob("[dD][rR]*/*")):
        files = {path.name.lower(): path for path in sorted(speaker.iterdir())}
        for name, phones in files.items():
            stem, _, suffix = name.partition(".")
            if suffix != "phn" or stem.startswith("sa"):
                continue
            audio = next(
                (files[f"{stem}.{kind}"] for kind in ("wav", "sph", "wav.wav") if f"{stem}.{kind}" in files), None
            )
            if audio is None:
                problems.append(Problem(str(phones), f"no sound file {stem}.wav beside it"))
                continue
            name = speaker.name.lower()
            utterances.append(Utterance(f"{name}-{stem}", name, read_phones(phones, problems), str(audio.resolve())))
    return utterances


def main():
    args = reader_parser(__doc__, counts=True).parse_args()
    root, problems = fetch(args, {}), []
    train, test = (read_half(root, half, problems) for half in ("train", "test"))
    sets = {"train": train, "dev": [utt for utt in test if utt.speaker in DEV.split()]}
    sets["test"] = [utt for utt in test if utt.speaker in CORE_TEST.split()]
    finish(sets, problems, args, COUNTS)


if __name__ == "__main__":
    sys.exit(run_main(main))

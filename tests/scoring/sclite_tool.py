"""Counts of NIST's sclite beside ours.

    python3 tests/scoring/sclite_tool.py exp/an4/student/decode_test_onnx exp/an4/teacher/decode_test_onnx

Prints the word errors of greedy.txt by both, and utterances where they differ. Needs sclite (Debian's package sctk).
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def sclite_command():
    """The command of sclite as a list; None when it is not installed."""
    if shutil.which("sclite"):
        return ["sclite"]
    return ["sctk", "sclite"] if shutil.which("sctk") else None


def sclite_errors(command, refs, hyps):
    """Word errors that sclite counts, by id; case counts. Args: refs, hyps: id -> text.

    Texts must not hold what sclite gives a meaning to: { } / @ ; and parentheses.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/ref", f"{folder}/hyp"]
        for path, texts in zip(paths, (refs, hyps), strict=True):
            Path(path).write_text("".join(f"{text} ({utt_id})\n" for utt_id, text in texts.items()), encoding="utf-8")
        options = ["-s", "-r", paths[0], "trn", "-h", paths[1], "trn", "-i", "rm", "-o", "pralign", "stdout"]
        text = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^id: \((\S+)\)\s*\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", text, re.MULTILINE)
    return {utt_id: int(s) + int(d) + int(i) for utt_id, _, s, d, i in found}


def main(folders):
    command = sclite_command() or sys.exit("sclite is not installed: apt-get install sctk")
    for folder in map(Path, folders):
        found = json.loads((folder / "score_greedy.json").read_text(encoding="utf-8"))["utterances"]
        refs = dict(zip(found["ids"], found["references"], strict=True))
        lines = (folder / "greedy.txt").read_text(encoding="utf-8").splitlines()
        theirs = sclite_errors(command, refs, dict(line.partition(" ")[::2] for line in lines))
        ours = dict(zip(found["ids"], found["errors"], strict=True))
        differ = [f"{utt_id} {ours[utt_id]} and {theirs[utt_id]}" for utt_id in ours if ours[utt_id] != theirs[utt_id]]
        print(f"{folder}: ours {sum(ours.values())}, sclite {sum(theirs.values())} of {sum(found['words'])}", *differ)


if __name__ == "__main__":
    main(sys.argv[1:])

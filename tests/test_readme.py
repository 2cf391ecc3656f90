"""Every command of the README: the short ones are run, the long ones as dry runs."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def run(words, cwd=ROOT):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True)


def test_no_table_is_missing():
    assert "RESULTS_" not in README


def test_there_are_commands():
    assert sum(command.startswith("./run.sh") for command in COMMANDS) >= 5


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("./run.sh") and "mine" not in c])
def test_run_sh_commands_dry_run(command, tmp_path):
    words = [str(tmp_path) if word in ("DIR", "/data/an4", "/big/disk") else word for word in shlex.split(command)]
    done = run([*words, *([] if "--workdir" in words else ["--workdir", str(tmp_path)]), "--dry-run"])
    assert done.returncode == 0, done.stdout + done.stderr
    if "--stage" in words:
        assert "would stop: stage" in done.stderr
        assert "which is not there; stage" in done.stderr
    else:
        assert "stage 9 report: would run" in done.stdout


def test_forks_dry_run_at_once(tmp_path):
    commands = [shlex.split(command) for command in COMMANDS if command.startswith("utils/fork_recipe.sh")]
    assert len(commands) == 2
    for number, (program, source, _) in enumerate(commands):
        target = tmp_path / f"mine{number}"
        assert run([program, source, str(target)]).returncode == 0
        done = run(["./run.sh", "--recipe", str(target), "--dry-run"])
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_program_opens_with_a_command_and_is_named_here():
    for path in (ROOT / "steps").glob("[a-z]*.py"):
        command = f"python3 -m steps.{path.stem} "
        assert command in ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
        assert f"steps.{path.stem}" in README, path


def test_a_program_explains_itself():
    done = run(["python3", "-m", "steps.transcribe", "--help"])
    assert done.returncode == 0
    assert "python3 -m steps.transcribe" in done.stdout


def test_files_named_in_the_readme_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / name).exists(), name


def test_every_requirement_is_explained():
    for path in ROOT.glob("requirements*.txt"):
        for line in path.read_text().splitlines():
            if "==" in line:
                assert re.search(rf"^\|.*\b{re.escape(line.split('==')[0])}\b.*\|", README, re.MULTILINE), line

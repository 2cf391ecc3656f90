"""The mutants still fit the tree, and the program that judges them can say no.

That their tests notice them is not looked at here, for its length: `python3 -m tests.mutate`.
"""

import ast
import functools
import re

import pytest

from tests.mutate import ROOT, mutate, mutated, read_all, read_mutant

PATCHES = sorted((ROOT / "tests/mutants").glob("*.patch"))


@functools.cache
def tree_of(file):
    """Syntax of a file as it is."""
    return ast.dump(ast.parse((ROOT / file).read_text(encoding="utf-8")))


def test_there_are_enough():
    assert len(PATCHES) >= 60


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_mutant_fits_at_exactly_one_place_and_changes_the_program(path):
    mutant = read_mutant(path)
    for file, text in mutated(ROOT, mutant).items():
        assert file.startswith(("steps/", "local/"))
        assert ast.dump(ast.parse(text)) != tree_of(file)
    for argument in mutant.tests:
        file, _, test = argument.partition("::")
        assert (ROOT / file).is_file(), f"{path}: {file} is not there"
        assert not test or f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{path}: no test {test}"


RIGHT = "def double(x):\n    return x + x\n\n\ndef triple(x):\n    return x + x + x\n"
TESTS = """
from steps.sums import double, triple

def test_double():
    assert double(3) == 6

def test_triple_of_zero():
    assert triple(0) == 0
"""


def patch(old, new):
    """A patch that replaces one line by another."""
    return f"# tests: tests/test_sums.py\n# wrong: made up.\n--- a/steps/sums.py\n+++ b/steps/sums.py\n@@\n-{old}\n+{new}\n"


MADE_UP = {
    "1_seen": patch("    return x + x", "    return x * x"),
    "2_not_seen": patch("    return x + x + x", "    return x + x"),
    "3_not_even_python": patch("    return x + x", "    return x +"),
}


@pytest.fixture
def tree(tmp_path):
    """A tree of one module, its tests and three mutants."""
    for name, text in {"steps/sums.py": RIGHT, "tests/test_sums.py": TESTS, "pyproject.toml": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tests/mutants").mkdir()
    for name, text in MADE_UP.items():
        (tmp_path / f"tests/mutants/{name}.patch").write_text(text)
    return tmp_path


def test_killed_survived_and_no_verdict_are_told_apart(tree, capsys):
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert mutate(tree, read_all(tree / "tests/mutants"), jobs=1) == 2
    lines = capsys.readouterr().out.splitlines()
    verdicts = dict(re.findall(r"^(killed|SURVIVED|NO VERDICT) .* s  (\w+)", "\n".join(lines), re.M))
    assert verdicts == {"killed": "1_seen", "SURVIVED": "2_not_seen", "NO VERDICT": "3_not_even_python"}
    assert lines[-1].startswith("1 of 3 killed, ")
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


def test_tests_that_fail_anyway_judge_nothing(tree, capsys):
    (tree / "steps/sums.py").write_text(RIGHT.replace("x + x + x", "1"))
    assert mutate(tree, read_all(tree / "tests/mutants", only="1_"), jobs=1) == -1
    assert "fail without any change" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (patch("    return 2 * x", "    return x"), "0 times in steps/sums.py"),
        (patch("", "import os"), "2 times in steps/sums.py"),
        (patch("a", "b").replace("# tests: ", "# "), "neither a head nor a line of a hunk"),
        ("# tests: tests/test_sums.py\n# wrong: nothing.\n", "needs .* a hunk"),
    ],
)
def test_patches_that_do_not_fit_are_refused(tree, text, message):
    (tree / "tests/mutants/x.patch").write_text(text)
    with pytest.raises(ValueError, match=message):
        mutated(tree, read_mutant(tree / "tests/mutants/x.patch"))

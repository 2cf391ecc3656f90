"""Public functions say what they take and return; that it is true is mypy's to check (tests/run.sh)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TYPED = ("compress", "core", "data", "deploy", "lm", "losses", "models", "scoring", "search", "training")


def untyped(text):
    """Public functions and methods without all their types; of a constructor only the arguments count.

    Args: text: source of a module.   Returns: list of `line: name: what is missing`.
    """
    found = []
    for function, in_class in public_functions(ast.parse(text)):
        args = function.args
        named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
        static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
        named = named[1:] if in_class and not static else named
        missing = [arg.arg for arg in (*named, args.vararg, args.kwarg) if arg and arg.annotation is None]
        missing += ["return"] if function.returns is None and function.name != "__init__" else []
        found += [f"{function.lineno}: {function.name}: {name}" for name in missing]
    return found


def public_functions(scope, in_class=False):
    """Functions of a module and methods of its public classes. Yields: (function, whether it is a method)."""
    for node in scope.body:
        public = not getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.ClassDef) and public:
            yield from public_functions(node, in_class=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (public or node.name == "__init__"):
            yield node, in_class


@pytest.mark.parametrize("folder", TYPED)
def test_public_functions_have_types(folder):
    paths = sorted((ROOT / "steps" / folder).rglob("*.py"))
    assert paths
    assert [f"{path}:{line}" for path in paths for line in untyped(path.read_text("utf-8"))] == []


def test_programs_have_types():
    paths = sorted((ROOT / "steps").glob("*.py"))
    assert [f"{path}:{line}" for path in paths for line in untyped(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("def f(a: int) -> int: ...", []),
        ("def f(a: int): ...", ["1: f: return"]),
        ("def f(a, /, b: int, *, c) -> None: ...", ["1: f: a", "1: f: c"]),
        ("async def f(*a, **b) -> None: ...", ["1: f: a", "1: f: b"]),
        ("def _f(a): ...", []),
        ("class A:\n def __init__(self, a): ...\n def f(self): ...", ["2: __init__: a", "3: f: return"]),
        ("class A:\n @classmethod\n def f(cls, a) -> None: ...", ["3: f: a"]),
        ("class A:\n @staticmethod\n def f(a) -> None: ...", ["3: f: a"]),
        ("class A:\n class B:\n  def f(self): ...", ["3: f: return"]),
        ("class _A:\n def f(self): ...", []),
        ("def f() -> None:\n def g(a): ...", []),
    ],
)
def test_what_counts_as_untyped(text, missing):
    assert untyped(text) == missing

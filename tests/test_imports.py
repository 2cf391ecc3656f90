"""The import direction of the library, read from the source, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# subpackage -> the subpackages it may import, besides itself. Programs (steps/*.py) may import all, and no program.
MAY_IMPORT = {
    "core": set(),
    # pure functions that import nothing of ours: what a head computes its loss and its dev hypotheses with
    "models": {"core", "losses", "search"},
    "losses": set(),
    "search": set(),
    "lm": {"core"},
    "data": {"core"},
    "scoring": {"core"},
    "compress": {"models", "losses", "data", "core"},
    "training": {"data", "models", "losses", "search", "scoring", "core"},
    "deploy": {"compress", "data", "models", "search", "lm", "core"},
}
TORCH = {"torch", "torchaudio", "safetensors"}
# One file's arrow, not its folder's: an exported folder is a teacher, too; a training may round its weights.
FILE_MAY_IMPORT = {
    "steps/training/teachers.py": {"deploy"},
    "steps/training/rounded.py": {"compress"},
    "steps/training/settings.py": {"compress"},
}
CORE_WITH_TORCH = {"steps/core/checkpoint.py"}
TEMPLATE = "utils/prepare_template.py"
RUNNER = {"stage.py", "run.py", "slurm.py"}  # of utils: run with `python3 -I -S`


def imported(path, text):
    """Dotted names a source file imports anywhere, relative imports resolved; `from a import b` gives a.b.

    Args: path: of the file, relative to the root.   text: its source.   Returns: list of (line, name).
    """
    package = Path(path).parent.parts
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return names


def import_problems(path, text):
    """What the rules forbid in one file of steps, local or utils. Returns: list of `file:line: must not import x`."""
    allowed = {"steps": steps_may_import, "local": local_may_import, "utils": utils_may_import}[Path(path).parts[0]]
    names = imported(path, text)
    return [f"{path}:{line}: must not import {name}" for line, name in names if not allowed(path, *name.split("."))]


def steps_may_import(path, top, target="", *_):
    """Subpackages follow MAY_IMPORT; programs import subpackages only; torch stays out of core."""
    _, *own = Path(path).parts
    if top in TORCH:
        return own[0] != "core" or path in CORE_WITH_TORCH
    if top != "steps":
        return top not in {"local", "utils", "recipes", "tests"}
    more = FILE_MAY_IMPORT.get(path, set())
    return target in (MAY_IMPORT if len(own) == 1 else {own[0]} | MAY_IMPORT.get(own[0], set()) | more)


def local_may_import(_, top, target="", *__):
    """Corpus readers use steps.core, each other and installed packages."""
    return target == "core" if top == "steps" else top != "utils"


def utils_may_import(path, top, target="", *_):
    """Tools use the standard library, each other and steps.core; the runners not even that. A fork's reader is one of local."""
    if path == TEMPLATE:
        return local_may_import(path, top, target)
    if top == "steps":
        return target == "core" and Path(path).name not in runner_files()
    return top in sys.stdlib_module_names or (ROOT / "utils" / f"{top}.py").is_file()


def runner_files():
    """Files of utils/ that the stage and job runners consist of: themselves and the siblings they import."""
    todo, found = set(RUNNER), set()
    while todo:
        name = todo.pop()
        path = ROOT / "utils" / name
        if name not in found and path.is_file():
            found.add(name)
            todo |= {f"{module.split('.')[0]}.py" for _, module in imported(f"utils/{name}", path.read_text("utf-8"))}
    return found


def sources(*folders):
    """Python files below these folders of the repository, as paths relative to it."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("steps", "local", "utils"))
def test_imports_point_downwards(path):
    assert import_problems(path, (ROOT / path).read_text("utf-8")) == []


def test_every_subpackage_has_a_rule_and_no_other_folder_exists():
    folders = {path.name for path in (ROOT / "steps").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(MAY_IMPORT)


def test_rules_have_no_cycle():
    done, rules = set(), {name: set(below) for name, below in MAY_IMPORT.items()}
    for path, below in FILE_MAY_IMPORT.items():
        rules[Path(path).parts[1]] |= below
    while len(done) < len(rules):
        ready = {name for name, below in rules.items() if name not in done and below <= done}
        assert ready
        done |= ready


FORBIDDEN = [
    ("steps/models/x.py", "from steps.training import loop"),
    ("steps/models/x.py", "def f():\n    import steps.compress.plan"),
    ("steps/models/x.py", "from ..training import loop"),
    ("steps/models/x.py", "from .. import training"),
    ("steps/losses/x.py", "from steps.core.config import check"),
    ("steps/search/x.py", "from steps.core.cli import say"),
    ("steps/scoring/x.py", "from steps import search"),
    ("steps/models/x.py", "from steps.deploy import graph"),
    ("steps/training/x.py", "from steps.compress import plan"),
    ("steps/training/x.py", "from steps.deploy.runtimes import load_recogniser"),
    ("steps/deploy/x.py", "from steps.training import teachers"),
    ("steps/compress/x.py", "from steps.training.loop import Trainer"),
    ("steps/compress/x.py", "from steps.prune_model import main"),
    ("steps/decode.py", "from steps.score import main"),
    ("steps/decode.py", "from steps import score"),
    ("steps/decode.py", "from . import score"),
    ("steps/decode.py", "import tests.conftest"),
    ("steps/core/x.py", "import torch"),
    ("steps/core/x.py", "def f():\n    from torch import nn"),
    ("steps/core/x.py", "from steps.models.build import load_model"),
    ("local/prepare_x.py", "from steps.data.features import load_audio"),
    ("utils/x.py", "import yaml"),
    ("utils/x.py", "from steps.models.build import load_model"),
    ("utils/stage.py", "from steps.core.cli import say"),
]
ALLOWED = [
    ("steps/decode.py", "from steps.models.build import load_model\nfrom steps.core.cli import say"),
    ("steps/models/x.py", "import torch\nfrom steps.models import axes\nfrom steps.core.config import check"),
    ("steps/models/x.py", "from . import axes"),
    (
        "steps/models/heads/x.py",
        "from steps.losses.ctc import ctc_loss_sum\nfrom steps.search.greedy import greedy_search",
    ),
    ("steps/training/teachers.py", "from steps.deploy.runtimes import load_recogniser"),
    ("steps/core/checkpoint.py", "import torch"),
    ("steps/losses/x.py", "import torch\nfrom steps.losses.ctc import ctc_loss_sum"),
    ("local/prepare_x.py", "import soundfile\nfrom steps.core.datadir import Utterance"),
    ("utils/x.py", "import json\nfrom steps.core.cli import say"),
]


@pytest.mark.parametrize(("path", "text"), FORBIDDEN)
def test_the_check_sees_a_wrong_arrow(path, text):
    assert len(import_problems(path, text)) == 1


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_the_check_lets_a_right_arrow_pass(path, text):
    assert import_problems(path, text) == []


def test_recipes_hold_no_python():
    assert sources("recipes") == []


def test_the_synthesiser_imports_nothing_of_ours():
    text = (ROOT / "local/synth_espeak.py").read_text("utf-8")
    assert not {name.split(".")[0] for _, name in imported("local/synth_espeak.py", text)} & {"steps", "utils", "local"}


LIGHT = ["steps", "steps.core.cli", "steps.core.config", "steps.core.datadir", "steps.decode", "steps.combine_features"]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_what_most_programs_need_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

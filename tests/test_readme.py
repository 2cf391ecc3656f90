"""Every command of the README and of the pages it sends a new user to: the short ones are run, the long ones as dry runs."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "recipes/README.md", "steps/scoring/README.md")
FOLDERS = ("conf", "local", "recipes", "steps", "tests", "utils")
ALL_PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")))
)
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
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


def test_the_run_behind_a_closed_terminal_dry_runs(tmp_path):
    (command,) = [command for command in COMMANDS if command.startswith("setsid")]
    words, redirected = command.split(" > ")
    assert redirected == "run.log 2>&1 &"
    done = run([*shlex.split(words), "--workdir", str(tmp_path), "--dry-run"])
    assert done.returncode == 0 and "stage 9 report: would run" in done.stdout, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python3 ")])
def test_programs_have_the_options_given(command):
    words = shlex.split(command)
    program = words[: 3 if words[1] == "-m" else 2]
    done = run([*program, "--help"])
    assert done.returncode == 0, done.stderr
    for word in words[len(program) :]:
        assert not word.startswith("--") or re.search(rf"(?<![\w-]){word}(?![\w-])", done.stdout), word


def test_folds_by_hand(tmp_path):
    """The commands for few speakers, as far as the data folders of the first fold."""
    from tests.local import corpora

    corpora.labelled_folder(tmp_path / "corpus")
    recipe, data = tmp_path / "mine", tmp_path / "mine/data/mine"
    assert run(["utils/fork_recipe.sh", "labelled_folder", str(recipe)]).returncode == 0
    whole = ["./run.sh", "--recipe", str(recipe), "--corpus-dir", str(tmp_path / "corpus"), "--stop-stage", "0"]
    assert run(whole).returncode == 0
    (combine,) = [shlex.split(c) for c in COMMANDS if "combine_data_dir" in c]
    assert run([word.replace("data/mine", str(data)) for word in combine]).returncode == 0
    (folds,) = [shlex.split(c)[0].removeprefix("folds=") for c in COMMANDS if c.startswith("folds=")]
    (fold,) = [shlex.split(c.replace("$folds", folds).replace("$n", "1")) for c in COMMANDS if "$folds" in c]
    assert "fold_data_dir" in folds
    assert fold[:5] == ["./run.sh", "--recipe", "mine", "--workdir", "folds/1"]
    prepare = fold[-1].replace("data/mine", str(data))
    done = run(
        [
            "./run.sh",
            "--recipe",
            str(recipe),
            "--workdir",
            str(tmp_path / "1"),
            "--prepare",
            prepare,
            "--stop-stage",
            "0",
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [(tmp_path / f"1/data/mine/{name}/spk2utt").read_text().count("\n") for name in ("train", "dev", "test")]
    assert names == [4, 1, 1]


def test_forks_dry_run_at_once(tmp_path):
    commands = [shlex.split(command) for command in COMMANDS if command.startswith("utils/fork_recipe.sh")]
    assert len(commands) == 3
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


def anchors(page):
    """What headings of a page are called in links, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=str)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ALL_PAGES, ids=str)
def test_no_page_gives_an_option_that_is_none(page):
    """Options of our programs, read from their sources: those of --help need a second for each program."""
    shared = "".join(
        (ROOT / "steps" / name).read_text() for name in ("core/cli.py", "core/shards.py", "training/setup.py")
    )
    shared += (ROOT / "local/corpus.py").read_text()
    settings = re.findall(r"^(\w+)=", (ROOT / "run.sh").read_text(), re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text(encoding="utf-8"))
    for program, words in re.findall(
        r"(python3 (?:-m steps\.\w+|(?:local|utils)/\w+\.py)|\./run\.sh)([^`\"\n#|]*)", text
    ):
        path = program.split()[-1]
        path = f"{path.replace('.', '/')}.py" if path.startswith("steps.") else path
        source = "" if program == "./run.sh" else (ROOT / path).read_text(encoding="utf-8") + shared
        for option in re.findall(r"(?<![\w-])--([a-z][\w-]*)", words):
            known = (
                option.replace("-", "_") in (*settings, "help") if program == "./run.sh" else f"--{option}" in source
            )
            assert known, f"{program} --{option}"


def test_every_setting_has_its_class_on_the_page():
    page = (ROOT / "conf/README.md").read_text(encoding="utf-8")
    section = page.partition("## All settings\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        names = re.findall(r"`(\w+)`", row.split("|")[2])
        files = re.findall(r"`([\w/]+\.py)`", row)
        sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        assert names and files and all(f"class {name}" in sources for name in names), row
    # sizes of an imported model are its own; LearntConfig is two others at once
    own = {"steps/models/hub.py", "steps/quantize_model.py"}
    for path in (*(ROOT / "steps").rglob("*.py"), *(ROOT / "local").glob("*.py")):
        if re.search(r"^@dataclass.*\nclass \w+Config\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert str(path.relative_to(ROOT)) in page or str(path.relative_to(ROOT)) in own, path


def test_no_line_of_the_readme_is_too_long_to_read():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > 120] == []


def test_every_requirement_is_explained():
    for path in ROOT.glob("requirements*.txt"):
        for line in path.read_text().splitlines():
            if "==" in line:
                assert re.search(rf"^\|.*\b{re.escape(line.split('==')[0])}\b.*\|", README, re.MULTILINE), line

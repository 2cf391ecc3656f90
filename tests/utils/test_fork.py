"""utils/fork_recipe.sh: a fork needs nothing of the recipe it came from, and runs at once."""

import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fork(source, target, status=0, cwd=ROOT):
    words = [ROOT / "utils/fork_recipe.sh", source, target]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, cwd=cwd)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def forked(tmp_path):
    fork("home", str(tmp_path / "kitchen"))
    return tmp_path / "kitchen"


def test_a_fork_is_self_contained(forked):
    assert "recipes/home" in (forked / "FORKED_FROM").read_text()
    settings = list(forked.glob("conf/*.yaml"))
    assert {"features.yaml", "tokenizer.yaml", "decode.yaml", "teacher.yaml"} <= {path.name for path in settings}
    for path in settings:
        for line in path.read_text().splitlines():
            if line.startswith("base:"):
                base = path.parent / line.split()[1]
                assert base.is_file() and forked in base.resolve().parents


def test_a_fork_of_a_checkout_without_write_bits_can_be_changed(tmp_path):
    checkout = tmp_path / "checkout"
    for name in ("utils", "conf", "recipes/home"):
        shutil.copytree(ROOT / name, checkout / name)
    # a base of its own, and a folder beside it
    (checkout / "recipes/home/conf/base").mkdir()
    (checkout / "recipes/home/conf/base/own.yaml").touch()
    (checkout / "recipes/home/local").mkdir(exist_ok=True)
    paths = [*checkout.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    subprocess.run([checkout / "utils/fork_recipe.sh", "home", tmp_path / "mine"], check=True, capture_output=True)
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)
    made = [tmp_path / "mine", *(tmp_path / "mine").rglob("*")]
    assert len(made) > 10 and all(path.stat().st_mode & 0o200 for path in made)


def test_settings_of_a_fork_are_those_of_the_recipe(forked):
    from steps.core.config import read_yaml

    for path in (ROOT / "recipes/home/conf").glob("*.yaml"):
        assert read_yaml(forked / "conf" / path.name) == read_yaml(path)


def test_a_fork_dry_runs_at_once(forked):
    (forked / "corpus").mkdir()
    words = [ROOT / "run.sh", "--recipe", forked, "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    options = f"--corpus-dir {forked}/corpus --unlabelled '' --options {forked}/conf/prepare.yaml"
    reader = f"python3 {forked}/local/prepare.py {options}"
    assert reader in done.stdout and f"--out {forked}/data/kitchen" in done.stdout


def test_the_reader_of_a_fork_takes_a_set_without_texts(forked):
    read_tables(forked)
    corpus = forked / "corpus"
    (corpus / "extra1.wav").write_bytes((corpus / "dev1.wav").read_bytes()[:-2000] + bytes([7]) * 2000)
    (corpus / "extra.tsv").write_text("extra1\tann\textra1.wav\n")
    words = [sys.executable, forked / "local/prepare.py", "--corpus-dir", corpus, "--unlabelled"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*words, "extra", "--out", forked / "data"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert (forked / "data/extra/wav.scp").is_file() and not (forked / "data/extra/text").exists()
    (corpus / "dev.tsv").write_text("dev1\tbob\tdev1.wav\n")
    done = subprocess.run([*words, "extra", "--out", forked / "data"], capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "dev.tsv:1: 3 fields; expected id, speaker, file, text" in done.stderr


def read_tables(forked, text="Turn  {} on"):
    """Stage 0 of a fork whose corpus has one utterance a set, each of a speaker of its own."""
    corpus = forked / "corpus"
    corpus.mkdir()
    for number, (name, speaker) in enumerate({"train": "ann", "dev": "bob", "test": "cyd"}.items()):
        (corpus / f"{name}.tsv").write_text(f"{name}1\t{speaker}\t{name}1.wav\t{text.format(name)}\n")
        with wave.open(str(corpus / f"{name}1.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes([number]) * 8000)
    words = [ROOT / "run.sh", "--recipe", forked, "--stage", "0", "--stop-stage", "0"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_the_reader_of_a_fork_reads_tables(forked):
    done = read_tables(forked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (forked / "data/kitchen/train/text").read_text() == "ann-train1 turn train on\n"
    assert (forked / "data/kitchen/words.txt").read_text().split() == ["dev", "on", "train", "turn"]


def test_the_reader_of_a_fork_refuses_what_every_reader_does(forked):
    done = read_tables(forked, "Turn {} [noise] on")
    assert done.returncode != 0 and "[noise]" in done.stdout + done.stderr
    assert not (forked / "data/kitchen/train/text").exists()


def test_preparation_options_of_a_fork_count(forked):
    (forked / "conf/prepare.yaml").write_text("text: {markers: drop}\n")
    done = read_tables(forked, "Turn {} [noise] on")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (forked / "data/kitchen/train/text").read_text() == "ann-train1 turn train on\n"


def test_a_corpus_inside_a_fork_is_not_copied_and_still_named(forked, tmp_path):
    assert read_tables(forked).returncode == 0
    printed = fork(str(forked), str(tmp_path / "again"))
    assert not (tmp_path / "again/corpus").exists() and (forked / "corpus/train.tsv").is_file()
    assert f"corpus_dir={forked}/corpus\n" in (tmp_path / "again/recipe.sh").read_text(), printed
    words = [ROOT / "run.sh", "--recipe", tmp_path / "again", "--stage", "0", "--stop-stage", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and (tmp_path / "again/data/again/train/wav.scp").is_file(), done.stdout + done.stderr


def test_printed_commands_work_from_the_repository_wherever_it_was_called(tmp_path):
    folder = tmp_path / "Größe & Maß"
    folder.mkdir()
    printed = fork("manifest", "./mine", cwd=folder)
    lines = [line.partition("./run.sh")[2] for line in printed.splitlines() if line.endswith("--dry-run")]
    (folder / "c").mkdir()
    done = subprocess.run(
        ["bash", "-c", f"./run.sh{lines[0]} --corpus-dir '{folder}/c'"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "would run" in done.stdout, done.stderr
    assert "/./" not in printed


def test_help_is_the_head_of_the_script_and_wrong_use_is_not_help(tmp_path):
    for word in ("--help", "-h"):
        done = subprocess.run([ROOT / "utils/fork_recipe.sh", word], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and not done.stderr
        assert done.stdout.startswith("usage: utils/fork_recipe.sh FROM TO")
        assert "home kitchen" in done.stdout and "pipefail" not in done.stdout
    for words in ([], ["home"], ["--frobnicate"], ["home", "--help"]):
        done = subprocess.run([ROOT / "utils/fork_recipe.sh", *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and "usage: utils/fork_recipe.sh FROM TO" in done.stderr and not done.stdout


def test_the_environment_is_told_before_the_first_hand_command(tmp_path):
    printed = fork("home", str(tmp_path / "kitchen"))
    assert 0 < printed.find(". .venv/bin/activate") < printed.index("python3 -m")


def test_nothing_is_overwritten(forked, tmp_path):
    before = (forked / "recipe.sh").read_bytes()
    assert "exists already" in fork("home", str(forked), status=2)
    assert (forked / "recipe.sh").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kitchen"]


def test_a_fork_can_be_forked_and_names_are_checked(forked, tmp_path):
    fork(str(forked), "./again", cwd=tmp_path)
    assert (tmp_path / "again/conf/base").is_dir() and (tmp_path / "again/local/prepare.py").is_file()
    assert "did you mean home?" in fork("hoem", "x", status=2)


def test_a_fork_of_a_fork_keeps_its_reader_and_its_corpus(forked, tmp_path):
    reader, recipe = forked / "local/prepare.py", forked / "recipe.sh"
    reader.write_text(reader.read_text() + "# mine\n")
    recipe.write_text(recipe.read_text().replace("corpus_dir=$recipe_dir/corpus", "corpus_dir=/data/mine"))
    printed = fork(str(forked), str(tmp_path / "again"))
    assert f"its reader:     that of {forked}, copied" in printed
    assert (tmp_path / "again/local/prepare.py").read_text() == reader.read_text()
    assert (tmp_path / "again/recipe.sh").read_text() == recipe.read_text()
    fork("labelled_folder", str(tmp_path / "words"))
    own = tmp_path / "words/recipe.sh"
    own.write_text(own.read_text().replace("\ncorpus_dir=\n", "\ncorpus_dir=/data/words\n"))
    fork(str(tmp_path / "words"), str(tmp_path / "words2"))
    assert (tmp_path / "words2/recipe.sh").read_text() == own.read_text()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    # a checkout without write bits looks the same, but not to root
    (tmp_path / "file").touch()
    said = fork("home", str(tmp_path / "file/mine"), status=1)
    assert said.count("\n") == 1 and "cannot be written; name a folder elsewhere" in said


def test_results_are_published_by_hand(tmp_path, forked):
    words = [ROOT / "utils/publish_results.sh", str(forked)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    assert done.returncode == 5 and "stage 9" in done.stderr
    report = forked / "exp/kitchen/report"
    report.mkdir(parents=True)
    for name in ("RESULTS.md", "results.json"):
        (report / name).write_text(f'"recipe": {name}: --exp {forked.resolve()}/exp/kitchen\n')
    subprocess.run(words, check=True, capture_output=True, timeout=10)
    for name in ("RESULTS.md", "results.json"):
        assert (forked / name).read_text() == f'"recipe": {name}: --exp exp/kitchen\n', "no paths of this machine"
    for _ in range(2):
        subprocess.run([*words, "--workdir", forked, "--as", "small"], check=True, capture_output=True, timeout=10)
        assert (forked / "SMALL.md").read_text() == '"recipe": RESULTS.md: --exp exp/kitchen\n'
        assert (forked / "results_small.json").read_text() == '"recipe": results.json: --exp exp/kitchen\n'
    (forked / "NOTES.md").write_text("by hand")
    (forked / "FOLDS.md").write_text("of steps.summarise")
    (forked / "results_folds.json").write_text('{"runs": []}')
    for wrong in (
        ["--as"],
        ["--as", "../small"],
        ["--of", "small"],
        *(["--as", name] for name in ("notes", "folds", "results")),
    ):
        done = subprocess.run([*words, *wrong], capture_output=True, text=True, timeout=10)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert (forked / "NOTES.md").read_text() == "by hand"
    assert (forked / "FOLDS.md").read_text() == "of steps.summarise"


def test_a_fork_of_a_recipe_for_own_data_keeps_its_reader(tmp_path):
    printed = fork("labelled_folder", str(tmp_path / "words"))
    assert "your data:" in printed and not (tmp_path / "words/local").exists()
    recipe = (tmp_path / "words/recipe.sh").read_text()
    assert "prepare_labelled_folder.py" in recipe and "\ncorpus_dir=\n" in recipe
    base = (tmp_path / "words/conf/teacher.yaml").read_text()
    assert "base: base/teacher.yaml" in base


def test_settings_with_a_neighbour_as_base_are_complete(tmp_path):
    from steps.core.config import read_yaml

    fork("manifest", str(tmp_path / "mine"))
    assert "base: base/teacher.yaml" in (tmp_path / "mine/conf/tiny_conformer.yaml").read_text()
    assert read_yaml(tmp_path / "mine/conf/tiny_conformer.yaml") == read_yaml(ROOT / "conf/tiny_conformer.yaml")

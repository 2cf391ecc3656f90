"""run.sh: options, recipes, and the whole plan with a stand-in runner that only makes the files of each program."""

import os
import re
import resource
import subprocess

import pytest
import yaml
from run_bench import RECIPE, ROOT, Bench

from steps.data.feature_config import FeatureConfig
from steps.models.streaming import FRAME_MS, LONGEST_CHUNK_MS

STEPS = """
    . utils/settings.sh && . utils/tasks.sh && . utils/chain.sh
    exp=exp data=data teachers=big store_teaching=false
    step_table="toy 6 loop model+teachers"
    for settings in "$@"; do
      options=() needs=()
      read_step toy && parent_options small "$settings"
      if trains "$settings"; then what=trains; else what="does not train"; fi
      echo "$step_stage $what: ${options[*]} | ${needs[*]}"
    done
    read_step other || echo "no other"
    step_table="tune 3 always init"
    options=() needs=()
    read_step tune && parent_options small "$1" && echo "${options[*]} | ${needs[*]}"
    step_table="learn 4 always teachers"
    for settings in "$1" inherits.yaml; do
      options=() needs=()
      read_step learn && cd "${1%/*}" && parent_options big,small "$settings" && echo "${options[*]} | ${needs[*]}"
    done
    options=() needs=() store_teaching=true
    parent_options big inherits.yaml && echo "${options[*]} | ${needs[*]}"
"""


def test_the_table_says_stage_parents_and_whether_a_step_trains(tmp_path):
    (tmp_path / "with.yaml").write_text("bits: 2\nloop: {epochs: 3}\n")
    (tmp_path / "without.yaml").write_text("bits: 2\n# loop: none\n")
    (tmp_path / "inherits.yaml").write_text("base: shares.yaml\n")
    (tmp_path / "shares.yaml").write_text("inherit: {count: 2}\n")
    (tmp_path / "conf").mkdir()
    for name in ("with", "without"):
        (tmp_path / f"conf/{name}_base.yaml").write_text(f"# ours\nbase: ../{name}.yaml  # shared\nbits: 4\n")
    paths = [tmp_path / name for name in ("with.yaml", "without.yaml", "conf/with_base.yaml", "conf/without_base.yaml")]
    command = ["bash", "-euc", STEPS, "bash", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    taught = "6 trains: --model exp/small --teacher exp/big | exp/small/model.json exp/big/model.json"
    alone = "6 does not train: --model exp/small | exp/small/model.json"
    start = "--init exp/small | exp/small/model.json"
    both = "--teacher exp/big,exp/small | exp/big/model.json exp/small/model.json"
    # labels hold no weights to begin with
    stored = "--init exp/big --teacher exp/big/labels | exp/big/model.json exp/big/labels/labels.json"
    lines = [taught, alone, taught, alone, "no other", start, both, f"--init exp/big {both}", stored]
    assert done.stdout.splitlines() == lines


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def processor_seconds():
    """Processor time of all programs that were started and have ended, which other work beside does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_labels_are_made_by_prepare_and_used_by_every_decoding(bench):
    _, printed = bench.run("--corpus-dir", "corpus", "--dry-run", "true", "--one-of", "true")
    lines = [line for line in printed.splitlines() if "steps.decode" in line]
    labels = bench.recipe / "data/my recipe/labels.txt"
    assert len(lines) == 16 and all(f"'--labels={labels}'" in line for line in lines)
    _, plain = bench.run("--corpus-dir", "corpus", "--dry-run", "true")
    assert "labels.txt" not in plain and "steps.decode" in plain


def test_models_that_stream_are_decoded_in_chunks_of_every_length_and_timed(bench):
    bench.write_recipe(f"{RECIPE}streaming='small cut'\nchunks='160 640'\nstreaming_reference=big\ndecode_nj=2\n")
    _, printed = bench.run("--corpus-dir", "corpus", "--dry-run", "true")
    exp, data = "exp/my recipe", "data/my recipe"
    lines = printed.replace("'", "").replace(f"{bench.recipe}/", "").splitlines()
    exports = [
        line.split(" steps.export_model ")[1] for line in lines if "--chunk-ms" in line and "steps.export_model" in line
    ]
    assert exports == [
        f"--model {exp}/{model} --chunk-ms {ms} --out {exp}/{model}/export_chunk_{ms}"
        for model in ("small", "cut") for ms in (0, 160, 640)
    ]  # fmt: skip
    decodes = [line.split(" steps.decode ")[1] for line in lines if "/export_chunk_" in line and "steps.decode" in line]
    # whole utterances as ever, chunks as the sound would arrive; in one part each, greedily
    assert len(decodes) == 2 * 3 * 2 and [line.endswith(" --streaming") for line in decodes] == 4 * [False, True, True]
    assert not any("--words" in line or "--shard" in line for line in decodes)
    timed = [line.split(" steps.time_words ")[1] for line in lines if "steps.time_words" in line]
    assert len(timed) == 2 * 2 * 2 and timed[1] == (
        f"--model {exp}/small --reference {exp}/big --data {data}/test --chunk-ms 640 --out {exp}/small/delays_test_chunk_640.json"
    )
    _, printed = bench.run("--corpus-dir", "corpus", "--dry-run", "true", "--streaming-reference", "")
    assert "steps.time_words" not in printed and printed.count(" --streaming\n") == 8
    for options, message in (
        (("--streaming", "smal"), "no model smal in the chain (did you mean small?)"),
        (("--streaming-reference", "big small"), "streaming_reference is one model, not 'big small'"),
        (("--chunks", ""), "chunks is empty"),
        (("--chunks", "16o"), "'16o' is not a multiple of 40"),
        (("--chunks", "320 300"), "'300' is not a multiple of 40"),
        (("--chunks", "8040"), f"'8040' is not a multiple of {FRAME_MS} (ms), at most {LONGEST_CHUNK_MS}"),
    ):
        assert message in bench.run("--corpus-dir", "corpus", *options, status=2)[1]


def test_what_measures_the_speed_of_a_stream_runs_alone():
    names = "exp=exp data=data decode=decode.yaml device=cpu classes=false chunks='160 640' streaming_reference=big tests=(a b)"
    script = f". utils/settings.sh; . utils/tasks.sh; {names} stress='' sherpa=false streaming=small lm='' decode_nj=2"
    script += """; word_list=() label_list=(); score_model small; printf '%s\\n' "${plan[*]}" """
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True)
    tasks = [task.split(" -- ", 1) for task in done.stdout.replace("\n", " ").split(":: ")[1:]]
    live = ["--streaming" in command for _, command in tasks]
    assert live.count(True) == 2 * 2 and live.count(False) == 2 * (2 + 1 + 2)
    assert ["--parallel" in fields for fields, _ in tasks] == [not alone for alone in live]


def test_the_whole_plan_runs_then_nothing_runs_and_fast(bench):
    ran, printed = bench.run("--corpus-dir", "corpus", "--nj", "3", "--seed", "5")
    exp, data = bench.recipe / "exp/my recipe", bench.recipe / "data/my recipe"
    assert ran[0].split(" prepare_it ")[1] == f"--corpus-dir {bench.folder}/corpus --seed 5 --jobs 3 --out {data}"
    assert [line for line in ran if "steps.extract_features" in line and "JOB=1:3" in line and "--num-shards 3" in line]
    (cut,) = [line for line in ran if "steps.prune_model" in line]
    assert f"--model {exp}/big --teacher {exp}/big --data {data}/train_sp" in cut and "--gpu 1" in cut
    assert len([line for line in ran if "steps.decode" in line]) == 4 * 2 * 2
    assert all(f"--words={data}/words.txt" in line for line in ran if "steps.decode" in line)
    (noise,) = [line for line in ran if f"steps.stress --model {exp}/cut/export --data {data}/other" in line]
    assert "--snr-db 20 10 5 0 --config " in noise and not any("sherpa" in line for line in ran)
    assert printed.endswith(f"report: {exp}/report/report.md\n\n| table |\n")
    before_s = processor_seconds()
    again, printed = bench.run("--corpus-dir", "corpus", "--nj", "2", "--seed", "5")
    assert again == [] and "stage 8 score (24 tasks): up to date" in printed
    # a whole run costs some seconds, torch alone two: here neither is started
    assert processor_seconds() - before_s < 1.5


def test_measurements_can_be_chosen(bench):
    bench.write_recipe(RECIPE + "stress='30 -5'\nclasses=true\n")
    ran, _ = bench.run("--corpus-dir", "corpus")
    assert all("--snr-db 30 -5 --config " in line for line in ran if "steps.stress" in line)
    assert all(line.endswith("--classes true") for line in ran if "steps.score" in line)
    ran, _ = bench.run("--corpus-dir", "corpus", "--stress", "", "--stage", "8", "--force")
    assert not any("steps.stress" in line for line in ran)
    for name, value in (("stress", "loud"), ("classes", "yes"), ("sherpa", "1")):
        bench.write_recipe(f"{RECIPE}{name}={value}\n")
        assert name in bench.run(status=2)[1]


def test_a_language_model_ships_with_every_export_and_has_a_column(bench):
    (bench.recipe / "conf/lm.yaml").write_text("ngram: {order: 2}\n")
    for name in ("spellings", "own.arpa", "text"):
        (bench.recipe / f"conf/{name}").write_text("")
    bench.write_recipe(
        "prepare=prepare_it\nteachers=big\nlexicon=true\nstress=\nlm=lm.yaml\nchain='big - train_teacher big.yaml'\n"
    )
    exp, data, conf = (bench.recipe / name for name in ("exp/my recipe", "data/my recipe", "conf"))
    ran, _ = bench.run()
    (trained,) = [line for line in ran if "steps.train_lm" in line]
    units = f"--tokenizer {data}/tokenizer --dev {data}/dev"
    assert f"--data {data}/train {units} --words={data}/words.txt --config {conf}/lm.yaml" in trained
    (made,) = [line.partition("steps.make_graph ")[2] for line in ran if "steps.make_graph" in line]
    arguments = f"--export {exp}/big/export --lm {data}/lm/lm.arpa --dev {data}/dev --config {conf}/lm.yaml"
    assert made == f"{arguments} --decode-config {conf}/decode.yaml"
    decoded = [line for line in ran if "steps.decode" in line]
    assert len(decoded) == 2 and all(f"--graph={exp}/big/export --out" in line for line in decoded)
    (conf / "lm.yaml").write_text("ngram: {order: 3}\n")
    options = ("--stop-stage", "7", "--lm-text", "own.arpa", "--spellings", "spellings")
    trained, exported, made = bench.run(*options)[0]
    assert f"--arpa {conf}/own.arpa {units} --config" in trained and "steps.export_model" in exported
    assert made.endswith(f"--lexicon {conf}/spellings")
    (trained,) = bench.run("--lm-text", "text", "--stop-stage", "2")[0]
    assert f"--text {conf}/text --held-out {data}/test {units} --words={data}/words.txt" in trained


def test_a_model_cuts_the_training_set_into_pieces_that_join_it_in_training_alone(bench):
    (bench.recipe / "knows").mkdir()
    (bench.recipe / "knows/model.json").write_text("{}")
    bench.write_recipe(RECIPE)
    for value in ("0x", "-1", "150"):
        assert "--cut-max-s is a number" in bench.run("--cut-max-s", value, status=2)[1]
    ran, _ = bench.run("--cut-with", bench.recipe / "knows", "--cut-max-s", "2", "--stop-stage", "3")
    data = bench.recipe / "data/my recipe"
    (cut,) = [line.partition("steps.cut_recordings ")[2] for line in ran if "steps.cut_recordings" in line]
    assert cut == f"--model {bench.recipe}/knows --data {data}/train --max-s 2 --whole true --out {data}/train_cut"
    (faster,) = [line for line in ran if "perturb_data_dir_speed" in line]
    assert faster.endswith(f"{data}/train_cut {data}/train_cut_sp")
    (units,) = [line for line in ran if "steps.train_tokenizer" in line]
    assert f"--data {data}/train " in units
    (trained,) = [line for line in ran if "steps.train_teacher" in line]
    assert f"--data {data}/train_cut_sp " in trained


def test_sizes_are_chosen_after_the_features_and_used_by_what_trains(bench):
    exp, data = bench.recipe / "exp/my recipe", bench.recipe / "data/my recipe"
    ran, printed = bench.run("--sizes", "auto", "--time-budget", "30m", "--stop-stage", "6")
    programs = [next(word for word in line.split() if word.startswith("steps.")) for line in ran if "steps." in line]
    place = programs.index("steps.choose_sizes")
    assert programs[place - 1 : place + 2] == ["steps.combine_features", "steps.choose_sizes", "steps.train_tokenizer"]
    (chosen,) = [line for line in ran if "steps.choose_sizes" in line]
    lines = f"--line=teacher:big: --line=taught:small: --line=recover:cut:{bench.recipe}/conf/small.yaml"
    assert lines in chosen and f"--text {data}/train --features" in chosen and "--time-budget 30m" in chosen
    assert "stage 2 sizes: done" in printed and "    | table |" in printed
    used = {
        "train_tokenizer": "tokenizer",
        "train_teacher": "teacher",
        "distill_student": "student",
        "prune_model": "recover_cut",
    }
    for verb, name in used.items():
        (line,) = [line for line in ran if f"steps.{verb} " in line]
        assert f"--config {exp}/sizes/{name}.yaml" in line
    (rounded,) = [line for line in ran if "steps.quantize_model" in line]
    assert f"--config {bench.recipe}/conf/small.yaml" in rounded
    assert bench.run("--sizes", "auto", "--time-budget", "30m", "--stop-stage", "6")[0] == []
    # what the user changes counts
    (exp / "sizes/student.yaml").write_text("loop: {epochs: 3}\n")
    ran, _ = bench.run("--sizes", "auto", "--time-budget", "30m", "--stop-stage", "4")
    assert len(ran) == 1 and "steps.distill_student" in ran[0]


@pytest.mark.parametrize(
    ("options", "old", "new", "said"),
    [
        (["--sizes", "big"], "", "", "--sizes is recipe or auto"),
        (["--sizes", "auto", "--device", "cpu", "--processes", "2"], "", "", "counts updates of one process"),
        (["--time-budget", "30m"], "", "", "--time-budget is for --sizes auto"),
        (["--sizes", "auto", "--time-budget", "half an hour"], "", "", "number of seconds, minutes or hours"),
        (
            ["--sizes", "auto"],
            "cut      big",
            "more     -   train_teacher    big.yaml\ncut      big",
            "big and more would be the same teacher",
        ),
        (
            ["--sizes", "auto"],
            "cut      big",
            "more     big distill_student  big.yaml\ncut      big",
            "the chain may have one",
        ),
        (
            ["--sizes", "auto"],
            "small    big   distill_student",
            "small    big   train_teacher",
            "begin with fresh weights",
        ),
        (
            ["--sizes", "auto"],
            "quantize_model   small.yaml",
            "quantize_model   bits.yaml",
            "cut_int8 trains while it is quantized",
        ),
        (["--sizes", "auto"], "distill_student  small.yaml", "distill_student  chunks.yaml", "streaming would be lost"),
        (["--sizes", "auto"], "distill_student  small.yaml", "distill_student  row.yaml", "streaming would be lost"),
        (["--sizes", "auto"], "distill_student  small.yaml", "distill_student  based.yaml", "streaming would be lost"),
        (
            ["--sizes", "auto"],
            "distill_student  small.yaml",
            "distill_student  head.yaml",
            "head.yaml: head would be lost",
        ),
        (
            ["--sizes", "auto"],
            "distill_student  small.yaml",
            "distill_student  born.yaml",
            "born.yaml: quantization would be lost",
        ),
        (["--sizes", "auto", "--store-teaching", "true"], "", "", "its students match hidden states"),
    ],
)
def test_sizes_that_cannot_be_chosen_are_refused(bench, options, old, new, said):
    (bench.recipe / "conf/bits.yaml").write_text("loop: {epochs: 3}\n")
    (bench.recipe / "conf/chunks.yaml").write_text("model:\n  streaming: {chunk_ms: 320}\n")
    (bench.recipe / "conf/row.yaml").write_text("model: {d_model: 64, streaming: {chunk_ms: 320}}\n")
    (bench.recipe / "conf/based.yaml").write_text("base: row.yaml\nloop: {epochs: 3}\n")
    (bench.recipe / "conf/head.yaml").write_text("head: transducer\n")
    (bench.recipe / "conf/born.yaml").write_text("quantization: {bits: 2}\n")
    assert not old or old in RECIPE
    bench.write_recipe(RECIPE.replace(old, new, 1) if old else RECIPE)
    assert said in bench.run(*options, status=2)[1]


def test_sherpa_onnx_gets_an_export_of_its_own_from_models_that_hear_samples(bench):
    bench.write_recipe(RECIPE + "sherpa=true\n")
    assert "export_big_samples" not in bench.run("--dry-run")[1]
    (bench.recipe / "conf/features.yaml").write_text("kind: samples\n")
    printed = bench.run("--dry-run")[1]
    assert printed.index("export_big_samples") < printed.index("decode_big_test_sherpa")


def test_features_that_sherpa_onnx_does_not_compute_are_refused_before_anything_is_trained(bench):
    features, base = bench.recipe / "conf/features.yaml", bench.recipe / "conf/base.yaml"
    base.write_text("kind: fbank\nlow_freq_hz: 20.0\nhigh_freq_hz: -200.0 # upper edge\n")
    bench.write_recipe(RECIPE + "sherpa=true\n")
    for text, said in (
        ("kind: mfcc\n", "kind: mfcc"),
        ("level_dbfs: -25\n", "level_dbfs: -25"),
        ("base: base.yaml\n", "high_freq_hz: -200"),
    ):
        features.write_text(text)
        _, printed = bench.run("--dry-run", status=2)
        assert f"sherpa-onnx computes no features with {said}, as in " in printed and printed.count("\n") == 1
        bench.run("--dry-run", "--sherpa", "false")
    # what it computes: another rate and number of bins, and what the file takes back of its base
    for text in (
        "sample_rate_hz: 8000\nnum_mel_bins: 40\n",
        'base: "base.yaml"\nhigh_freq_hz: -400\n',
        "kind: samples\n",
    ):
        features.write_text(text)
        bench.run("--dry-run")


def test_an_imported_model_beside_others_is_refused_with_sherpa_before_anything_is_trained(bench):
    bench.write_recipe(RECIPE + "sherpa=true\n")
    (bench.recipe / "conf/features.yaml").write_text("kind: fbank\n")
    chain = ("--chain", "big - import_model hub.yaml\nstudent - distill_student student.yaml")
    _, printed = bench.run("--dry-run", *chain, status=2)
    assert "sherpa-onnx takes imported models, which hear samples, only where" in printed and printed.count("\n") == 1
    bench.run("--dry-run", *chain, "--sherpa", "false")


def test_run_sh_knows_every_setting_that_sherpa_onnx_needs_to_be_the_default():
    table = re.search(r"default=\(((?:\[\w+\]=\S+\s*)+)\)", (ROOT / "utils/settings.sh").read_text())
    assert table
    default = dict(re.findall(r"\[(\w+)\]=([^\s)]+)", table[1]))
    free = {"sample_rate_hz", "num_mel_bins", "frame_shift_ms"}  # the last can have no other value
    fields = {name: value for name, value in vars(FeatureConfig()).items() if name not in free}
    assert {name: yaml.safe_load(value) for name, value in default.items()} == fields


@pytest.mark.parametrize("line", ["lexicon=yes", "compress=ture", "one_of="])
def test_what_a_recipe_switches_is_true_or_false(bench, line):
    bench.write_recipe(RECIPE + line + "\n")
    name, value = line.split("=")
    assert f"--{name.replace('_', '-')} is true or false, not '{value}'" in bench.run("--dry-run", status=2)[1]


def test_teachers_label_the_training_set_once_where_that_is_asked_for(bench):
    bench.write_recipe(RECIPE.replace("teachers=big", 'teachers="big small"') + "store_teaching=true\n")
    data, exp = bench.recipe / "data/my recipe", bench.recipe / "exp/my recipe"
    ran, printed = bench.run("--dry-run", "--stop-stage", "6")
    assert ran == [] and "store_big" in printed
    ran, _ = bench.run("--stop-stage", "6", "--nj", "3")
    programs = [next(word for word in line.split() if word.startswith("steps.")) for line in ran if "steps." in line]
    after = programs[programs.index("steps.train_teacher") :]
    taught = ["steps.label_data", "steps.combine_labels"]
    assert after == [
        "steps.train_teacher",
        *taught,
        "steps.distill_student",
        *taught,
        "steps.prune_model",
        "steps.quantize_model",
    ]
    (first, _) = [line for line in ran if "steps.label_data" in line]
    assert (
        f"--teacher {exp}/big --data {data}/train_sp --config conf/label.yaml --out {exp}/big/labels --shard JOB"
        in first
    )
    (student,), (cut,) = (
        [line for line in ran if f"steps.{verb}" in line] for verb in ("distill_student", "prune_model")
    )
    assert f"--teacher {exp}/big/labels --data" in student
    assert f"--model {exp}/big --teacher {exp}/big/labels,{exp}/small/labels --data" in cut
    assert bench.run("--stop-stage", "6")[0] == []
    (bench.recipe / "conf/label.yaml").write_text("keep: 4\n")
    printed = bench.run("--dry-run", "--stop-stage", "6")[1]
    assert "store_big" in printed and "keep: 4" in printed
    bench.write_recipe(RECIPE + "store_teaching=yes\n")
    assert "--store-teaching is true or false, not 'yes'" in bench.run(status=2)[1]


def test_a_changed_setting_redoes_that_model_and_what_follows(bench):
    bench.run("--stop-stage", "6")
    (bench.recipe / "conf/big.yaml").write_text("name: bigger\n")
    ran, printed = bench.run("--dry-run", "--stop-stage", "6")
    assert ran == [] and "-name: big; +name: bigger" in printed
    ran, _ = bench.run("--stop-stage", "6")
    redone = {word for line in ran for word in line.split() if word.startswith("steps.")}
    assert not redone & {"steps.extract_features", "steps.train_tokenizer"}
    assert len([line for line in ran if "distill_student" in line]) == 1
    assert (bench.recipe / "exp/my recipe/big.old-1/model.json").exists()


def test_the_command_line_wins_over_the_recipe(bench):
    bench.write_recipe("seed=3\nnum_threads=4\n" + RECIPE)
    _, printed = bench.run("--dry-run", "--seed", "7")
    assert "--seed 7 --device auto --num-threads 4" in printed and "--seed 3" not in printed


def test_a_stage_whose_inputs_are_missing_says_which_stage_makes_them(bench):
    _, printed = bench.run("--stage", "5", status=5)
    assert printed.startswith("run.sh: stage 5 (cut): needs ")
    assert "exp/my recipe/big/model.json, which is not there; stage 3 (big) makes it" in printed


def test_workdir_is_relative_to_where_the_command_was_given(bench):
    bench.run("--workdir", "elsewhere", "--stop-stage", "0")
    assert (bench.folder / "elsewhere/data/my recipe/train/text").exists()
    assert not (bench.recipe / "data").exists()


def test_folders_of_recognisers_are_relative_to_where_the_command_was_given():
    script = '. utils/parse_options.sh && called_from=/here && parse_options run.sh "$@"'
    script += ' && echo "$transcribe_with:$transcribe_check:$cut_with"'
    words = [
        "bash",
        "-c",
        f"transcribe_with= transcribe_check= cut_with=; {script}",
        "x",
        "--transcribe-with",
        "a/export",
    ]
    words += ["--transcribe-check", "/b", "--cut-with", "c"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "/here/a/export:/b:/here/c\n", done.stderr


def test_the_model_from_a_hub_is_relative_to_where_the_command_was_given():
    script = '. utils/parse_options.sh && called_from=/here && parse_options run.sh "$@" && echo "$hub_model"'
    for given, taken in (("theirs", "/here/theirs"), ("/there/theirs", "/there/theirs")):
        command = ["bash", "-ec", script, "bash", "--hub-model", given]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == f"{taken}\n"


def test_all_that_is_read_of_a_model_from_a_hub_is_an_input(tmp_path):
    """Other units in vocab.json are another model, though its weights are the same."""
    read = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.model", "vocab.json"]
    for name in [*read, "README.md", "pytorch_model.bin"]:
        (tmp_path / name).write_text("")
    script = (
        ". utils/chain.sh && hub_model=$1 needs=() options=() && read_step import_model && parent_options '' hub.yaml"
    )
    command = ["bash", "-euc", script + ' && printf "%s\\n" "${needs[@]}"', "bash", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split("\n")) == sorted(["", *(f"{tmp_path}/{name}" for name in read)])


def test_a_folder_may_be_called_anything(tmp_path):
    bench = Bench(tmp_path, "R&D {nj} JOB_1 $x 'q' %d")
    ran, _ = bench.run("--corpus-dir", "corpus", "--nj", "3")
    data = bench.recipe / "data" / bench.recipe.name
    assert [line for line in ran if f"--data {data}/test --config " in line and "--shard JOB2 --num-shards 3" in line]
    assert {path.name for path in tmp_path.iterdir()} == {bench.recipe.name, "corpus", "runner.py", "RAN"}
    assert bench.run("--corpus-dir", "corpus", "--nj", "2")[0] == []
    for name in ("a,b", "a\nb"):
        assert "folder" in bench.run("--workdir", name, status=2)[1]
    bench.write_recipe(RECIPE.replace("other", "JOB"))
    assert "JOB and {nj} stand for numbers" in bench.run(status=2)[1]


def test_extra_commands_run_after_their_stages(bench):
    bench.write_recipe(RECIPE + "after_prepare='utils/validate_it $data'\nafter_tokenizer='utils/validate_that'\n")
    ran, _ = bench.run("--stop-stage", "2")
    assert ran[2].endswith(f"utils/validate_it {bench.recipe}/data/my recipe") and "perturb" in ran[3]
    assert ran[-1].endswith("utils/validate_that") and "steps.train_tokenizer" in ran[-2]
    assert bench.run("--stop-stage", "2")[0] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("distill_student ", "distil_student ", "unknown step distil_student (did you mean distill_student?)"),
        ("small    big ", "small    bug ", "small: parent bug stands on no earlier line"),
        ("cut      big ", "cut      -   ", "cut: prune_model needs a parent"),
        ("cut_int8 cut ", "cut      cut ", "names cut twice"),
        ("teachers=big", "teachers=small2", "teachers: small2 is not in the chain"),
        ("lexicon=true", "lexikon=true", "unknown variable lexikon (did you mean lexicon?)"),
        ("$seed", "$sead", "no setting is named sead"),
        ("big.yaml\n", "\n", "a line of chain is 'name parent step conf'"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(bench, old, new, said):
    assert old in RECIPE
    bench.write_recipe(RECIPE.replace(old, new, 1))
    _, printed = bench.run("--dry-run", status=2)
    assert said in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stpo-stage", "3"], "unknown option '--stpo-stage' (did you mean --stop-stage?)"),
        (["--PATH", "x"], "unknown option '--PATH'"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "--force"], "--stage needs a value"),
        (["--stage", "two"], "--stage needs a whole number, not 'two'"),
        (["--force=maybe"], "--force is true or false, not 'maybe'"),
        (["--nj", "0"], "--nj is a whole number from 1 on"),
        (["--stage", "5", "--stop-stage", "3"], "--stage 5 comes after --stop-stage 3"),
        (["--stage", "12"], "--stage is a number from 0 to 9"),
        (["--device", "gpu"], "--device is auto, cpu or cuda"),
        (["--processes", "2"], "--processes is for --device cpu"),
        (["--ngpu", "100"], "--ngpu is a number of GPUs"),
        (["--trainings", "0"], "--trainings is a whole number from 1 on"),
        (["--num-threads", "0"], "--num-threads is a whole number from 1 on"),
        (["--seed", "x"], "--seed"),
        (["--speeds", "fast"], "speeds: 'fast' is not a number"),
        (["--test-sets", " "], "test_sets is empty"),
        (["--compare", "big:small small:cut"], "compare is A:B,C:D, not 'big:small small:cut'"),
        (["--compare", "big:smal"], "compare, ships: no model smal in the chain (did you mean small?)"),
        (["--ships", "smal"], "compare, ships: no model smal in the chain (did you mean small?)"),
        (["--cmd", "nope.py"], "--cmd: no program nope.py here"),
        (["stray"], "unexpected argument 'stray'"),
        (["--recipe", "hoem"], "no recipe hoem (did you mean home?)"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(bench, options, said):
    _, printed = bench.run(*options, status=2)
    assert said in printed and printed.count("\n") == 1


def test_values_are_never_run_as_code(bench):
    bench.run("--dry-run", "--speeds", "$(touch pwned) `touch pwned`", status=2)
    _, printed = bench.run("--dry-run", "--corpus-dir", "a$(touch pwned) `touch pwned`")
    assert not list(bench.folder.rglob("pwned")) and not (ROOT / "pwned").exists()
    assert "$(touch pwned)" in printed


def test_help_lists_every_setting_and_stage_without_set_up(tmp_path):
    done = subprocess.run([ROOT / "run.sh", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0
    block = (ROOT / "run.sh").read_text().split("# Settings")[1].split("# End of settings")[0]
    names = [line.split("=")[0].replace("_", "-") for line in block.splitlines() if "=" in line.split("#")[0]]
    assert len(names) > 20
    assert all(f"  --{name} " in done.stdout for name in names)
    assert [f"  {number} " in done.stdout for number in range(10)] == [True] * 10


@pytest.mark.parametrize(
    ("recipe", "variable"),
    [
        ("an4", "AN4_NET"),
        ("an4_streaming", "AN4_NET"),
        ("an4_unlabelled", "AN4_LABELS"),
        ("an4_whisper", "AN4_WHISPER"),
        ("librispeech", "LIBRISPEECH_SIZE"),
    ],
)
@pytest.mark.parametrize("value", ["typo", "conformer dnn", "*"])
def test_a_kind_that_a_recipe_does_not_know_is_refused(recipe, variable, value, tmp_path):
    words = [ROOT / "run.sh", "--recipe", ROOT / "recipes" / recipe, "--dry-run", "--workdir", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, env=os.environ | {variable: value})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"run.sh: {variable} is one of ") and done.stderr.endswith(f", not '{value}'\n")
    assert done.stderr.count("\n") == 1


def test_run_sh_stays_short():
    assert len((ROOT / "run.sh").read_text().splitlines()) < 150


def test_a_changed_preparation_option_is_noticed(bench):
    bench.write_recipe(RECIPE.replace("--jobs $nj", "--jobs $nj --options $recipe_dir/conf/prepare.yaml"))
    options = bench.recipe / "conf/prepare.yaml"
    options.write_text("text: {case: keep}\n")
    bench.run("--stop-stage", "0")
    assert bench.run("--stop-stage", "0")[0] == []
    options.write_text("text: {case: lower}\n")
    ran, printed = bench.run("--stop-stage", "0")
    assert "prepare_it" in ran[0] and "case: lower" in printed

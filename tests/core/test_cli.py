"""Programs: the line they open with, the one line they fail with, and the status they leave with."""

import argparse
import signal
import subprocess
import sys

import numpy as np
import pytest

from steps.core.cli import Interrupted, MissingInput, UserError, add_common, make_parser, parse_bool, run_main, say


def leaving(error):
    def main():
        raise error

    return main


STATUSES = {
    "user": (UserError("feats.scp: line 3: no such file"), 1, "error: feats.scp: line 3: no such file"),
    "missing": (MissingInput("no model.json"), 5, "error: no model.json"),
    "again": (Interrupted(75, "saved at step 7"), 75, "saved at step 7"),
    "sigint": (Interrupted(130, "saved"), 130, "saved"),
    "keyboard": (KeyboardInterrupt(), 130, "interrupted"),
    "memory": (MemoryError(), 1, "more memory is needed"),
    "file": (FileNotFoundError(2, "No such file or directory", "x.wav"), 1, "x.wav: No such file or directory"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_failures_are_one_line_and_a_status(capsys, case):
    error, status, words = STATUSES[case]
    assert run_main(leaving(error)) == status
    out, err = capsys.readouterr()
    assert err.rstrip("\n").endswith(words) and err.count("\n") == 1
    assert "Traceback" not in err and "done in" not in out


def test_memory_that_torch_does_not_get_is_one_line_too(capsys):
    torch = pytest.importorskip("torch")
    assert run_main(lambda: torch.empty(1 << 50)) == 1
    assert capsys.readouterr().err.count("error: out of memory; smaller batches (loop.max_batch_frames)") == 1


def test_memory_that_onnxruntime_does_not_get_is_one_line_too(capsys):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    size = onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1])
    filled = onnx.helper.make_tensor_value_info("filled", onnx.TensorProto.FLOAT, None)
    fill = onnx.helper.make_node("ConstantOfShape", ["size"], ["filled"])
    graph = onnx.helper.make_graph([fill], "large", [size], [filled])
    opset = [onnx.helper.make_opsetid("", 17)]
    file = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert run_main(lambda: session.run(None, {"size": np.array([1 << 45])})) == 1
    assert capsys.readouterr().err.count("error: out of memory; smaller batches") == 1


def test_success_says_so_and_returns_zero(capsys):
    assert run_main(lambda: None) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("# python3 ")
    assert out.splitlines()[-1].startswith("# done in ")
    assert err == ""


@pytest.mark.parametrize("error", [ValueError("bug"), OSError("no file involved"), AssertionError()])
def test_our_own_mistakes_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_main(leaving(error))


def test_bool_options():
    assert (parse_bool("true"), parse_bool("false")) == (True, False)
    for text in ("True", "1", "yes", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="true or false"):
            parse_bool(text)


def test_common_options():
    parser = make_parser("Does it.\n\n    python3 -m steps.x --config a.yaml")
    add_common(parser, config=True, out="folder", seed=True, device=True)
    args = parser.parse_args(["--config", "a.yaml", "--out", "x"])
    assert (args.config, args.out, args.seed, args.device, args.num_threads) == ("a.yaml", "x", 0, "auto", 2)
    assert "python3 -m steps.x --config a.yaml" in parser.format_help()
    bare = make_parser("Nothing.")
    add_common(bare)
    assert vars(bare.parse_args([])) == {}


@pytest.mark.parametrize(
    "words", [["--conf", "a", "--out", "x"], ["--config", "a"], ["--config", "a", "--out", "x", "--seed", "y"]]
)
def test_wrong_usage_leaves_with_two(capsys, words):
    parser = make_parser("Does it.")
    add_common(parser, config=True, out="folder", seed=True)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2


PROGRAM = """
import sys
from steps.core.cli import make_parser, run_main, say
def main():
    make_parser("Counts.").parse_known_args()
    for number in range(100000):
        say(f"line {number}")
if __name__ == "__main__":
    sys.exit(run_main(main))
"""


def test_a_closed_pipe_ends_quietly():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == -signal.SIGPIPE
    assert error == b""


def test_help_is_not_preceded_by_the_command_line():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert "# python3" not in done.stdout and "Counts." in done.stdout


def test_what_terminals_obey_is_shown_not_sent(capsys):
    def main():
        say("speaker \x1b]0;owned\x07, \x9b2J")
        raise UserError("a\x1b[1A: 2 problems\n  one\ttab")

    assert run_main(main) == 1
    out, err = capsys.readouterr()
    assert "speaker \\x1b]0;owned\\x07, \\x9b2J\n" in out
    assert err.endswith("error: a\\x1b[1A: 2 problems\n  one\ttab\n")

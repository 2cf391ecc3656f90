"""What all stage programs share: common options, the opening line, and how a user's mistake is reported."""

import argparse
import errno
import shlex
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE)


class UserError(Exception):
    """Something the user can mend. The message is one sentence (or a list, one problem a line); no traceback is shown."""

    status = 1


class MissingInput(UserError):
    """A file that an earlier step should have made is not there (exit status 5)."""

    status = 5


class Interrupted(Exception):
    """Training saved its state and left early. `status` is 75 (run me again), 130 (SIGINT) or 143."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Argument parser whose help is the program's docstring, with exact option names only."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_common(
    parser: argparse.ArgumentParser,
    config: bool | str = False,
    out: str | None = None,
    seed: bool = False,
    device: bool = False,
) -> None:
    """Add the options that mean the same in every program.

    Args: config: whether to add --config; a path: what it is by default.   seed, device: whether to add that option.
          out: help text of --out, or None for no such option.
    """
    if config:
        given: dict[str, Any] = {"required": True} if config is True else {"default": config}
        text = "settings of this step" + ("" if config is True else f" (default: {config})")
        parser.add_argument("--config", metavar="YAML", help=text, **given)
    if out:
        parser.add_argument("--out", required=True, metavar="PATH", help=out)
    if seed:
        parser.add_argument("--seed", type=parse_seed, default=0, help="seed of all random numbers (default: 0)")
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
        parser.add_argument("--num-threads", type=parse_count, default=2, metavar="N", help="CPU threads (default: 2)")


def parse_bool(text: str) -> bool:
    """Type of options that take `true` or `false`."""
    if text in ("true", "false"):
        return text == "true"
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def parse_seed(text: str) -> int:
    """Type of --seed: a whole number from 0 to 2**31 - 1."""
    if text.isascii() and text.isdigit() and int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, not {text!r}")


def parse_count(text: str) -> int:
    """Type of options that count something: a whole number from 1 on."""
    if text.isascii() and text.isdigit() and 1 <= int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, not {text!r}")


def parse_finite(text: str) -> float:
    """Type of options that are a number of any sign: infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value - value != 0.0:
        raise argparse.ArgumentTypeError(f"expected a finite number, not {text!r}")
    return value


def parse_positive(text: str) -> float:
    """Type of options that are a number above 0."""
    value = parse_finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return value


def say(message: object) -> None:
    """Print one line at once, so that a log can be followed."""
    print(printable(message), flush=True)


def printable(message: object) -> str:
    """The message with control characters, which data may hold and terminals obey, written as \\x1b and the like."""
    return str(message).translate(CONTROLS)


def tell(message: object) -> None:
    """Print to standard error at once."""
    print(printable(message), file=sys.stderr, flush=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, in Python's words, torch's, for the CPU or a GPU, or onnxruntime's."""
    words = ("can't allocate memory", "Failed to allocate memory", "std::bad_alloc")
    said = type(error).__name__ == "OutOfMemoryError" or any(some in str(error) for some in words)
    return isinstance(error, MemoryError) or said


def run_main(main: Callable[[], None]) -> int:
    """Run a program's `main()`: print its command line, turn user errors into one line, return the exit status to use.

    Use as `if __name__ == "__main__": sys.exit(run_main(main))`.
    """
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name if module else sys.argv[0]
    if not any(word in ("-h", "--help") for word in sys.argv[1:]):
        say(("# python3 -m " if module else "# python3 ") + shlex.join([name, *sys.argv[1:]]))
    start_s = time.monotonic()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        main()
    except UserError as error:
        tell(f"{name}: error: {error}")
        return error.status
    except Interrupted as stop:
        tell(f"{name}: {stop}")
        return stop.status
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        return 130
    except UnicodeDecodeError as error:
        tell(f"{name}: error: a text file is not UTF-8 ({error.reason}): {error.object[:60]!r}")
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in OF_THE_MACHINE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        tell(f"{name}: error: {where}{error.strerror}")
        return 1
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tell(
            f"{name}: error: out of memory; smaller batches (loop.max_batch_frames), a smaller model or more memory is needed"
        )
        return 1
    say(f"# done in {time.monotonic() - start_s:.1f} s")
    return 0

"""Exported folders: what ships is what their SHA256SUMS lists."""

import json
import re
from pathlib import Path

from steps.core.cli import MissingInput, UserError
from steps.core.outdir import sha256_file, write_text

# its files are what a runtime needs, and their bytes a model's size
SUMS = "SHA256SUMS"
# beside them: the files of the model folder that this is an export of, which no runtime needs
ORIGIN = "export.json"
# among what ships where sherpa-onnx would misread tokens.txt
SHERPA_TOKENS = "tokens_sherpa.txt"
# the graph of samples in a row, in a folder of its own: the layout that sherpa-onnx's loader of omnilingual CTC models reads
SAMPLES_FILE = "model_samples.onnx"
# the decoding graph of a language model and its words, where an export has them: only decoding with it needs them
GRAPH, GRAPH_WORDS = "HLG.fst", "words.txt"
SUMS_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*)")


def folder_kind(folder: str | Path) -> str:
    """What a folder holds: `export` (SHA256SUMS, or an ONNX file without it), `model` (model.json), or a recogniser from
    elsewhere: `ctranslate2` (model.bin and config.json), `hub` (another config.json, as transformers writes it).

    Raises: MissingInput when it is none of these.
    """
    folder = Path(folder)
    if (folder / SUMS).is_file() or any(folder.glob("*.onnx")):
        return "export"
    if (folder / "model.json").is_file():
        return "model"
    if (folder / "config.json").is_file():
        return "ctranslate2" if (folder / "model.bin").is_file() else "hub"
    raise MissingInput(f"{folder}: neither model.json nor {SUMS} here; name a model folder or its export/")


def is_exported(folder: str | Path) -> bool:
    """Whether this is an exported folder and not a model folder. Raises: MissingInput when it is neither."""
    kind = folder_kind(folder)
    if kind not in ("export", "model"):
        raise MissingInput(
            f"{folder}: a recogniser from elsewhere, which only transcribes; a model folder is needed here, such as "
            "steps.import_model makes of CTC models and of Whisper"
        )
    return kind == "export"


def has_units_of_a_hub(folder: str | Path) -> bool:
    """Whether a model folder, or an exported one in it, was imported from a hub and not trained since: its units are its own,
    whatever the words of a recipe are made of."""
    for path in (Path(folder) / "model.json", Path(folder).parent / "model.json"):
        if path.is_file():
            try:
                return "origin" in json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                return False
    return False


def read_sums(folder: str | Path) -> dict[str, str]:
    """The files of an exported folder, as its SHA256SUMS lists them. Returns: {name: hex digest}.

    Raises: MissingInput; UserError naming the line that is none.
    """
    path = Path(folder) / SUMS
    if not path.is_file():
        raise MissingInput(f"{path}: no such file; export the model again")
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    found = [SUMS_LINE.fullmatch(line) for line in lines]
    wrong = [number for number, match in enumerate(found, start=1) if match is None]
    if wrong or not found:
        raise UserError(
            f"{path}:{(wrong or [1])[0]}: expected a digest and a file name; copy or export the folder again"
        )
    return {match[2]: match[1] for match in found if match}


def write_sums(folder: str | Path, sums: dict[str, str]) -> None:
    """Write SHA256SUMS. Args: sums: {name: hex digest}."""
    write_text(Path(folder) / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def check_sums(folder: str | Path) -> None:
    """Compare the files of an exported folder with its SHA256SUMS, if it has one. Raises: UserError naming the file that differs."""
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        return
    for name, digest in read_sums(folder).items():
        if not (folder / name).is_file():
            raise MissingInput(
                f"{folder / name}: no such file; {folder / SUMS} has it; copy or export the folder again"
            )
        if digest != sha256_file(folder / name):
            raise UserError(f"{folder / name}: not the file that {SUMS} names; copy or export the folder again")


def shipped_bytes(folder: str | Path, graph: bool = False) -> dict[str, int]:
    """Sizes of the files of an exported folder that ship, by name.

    Args: graph: also of those that only decoding with its language model needs.   Raises: MissingInput, UserError.
    """
    sizes = {}
    for name in read_sums(folder):
        if name in (GRAPH, GRAPH_WORDS) and not graph:
            continue
        path = Path(folder) / name
        if not path.is_file():
            raise MissingInput(f"{path}: no such file; {Path(folder) / SUMS} has it; export the model again")
        sizes[name] = path.stat().st_size
    return sizes


def onnx_bytes(sizes: dict[str, int]) -> int:
    """Bytes of the ONNX files among those that `shipped_bytes` gives."""
    return sum(size for name, size in sizes.items() if name.endswith(".onnx"))


def model_hashes(folder: str | Path) -> dict[str, str]:
    """SHA-256 of the files of a model folder or an exported folder that results depend on, by name."""
    folder = Path(folder)
    listed = read_sums(folder) if (folder / SUMS).is_file() else [path.name for path in sorted(folder.glob("*.onnx"))]
    if folder_kind(folder) in ("hub", "ctranslate2"):
        listed = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".json", ".bin", ".safetensors", ".txt")
        )
    names = dict.fromkeys([*listed, "tokens.txt", "features.yaml", "model.json", "model.safetensors"])
    return {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}

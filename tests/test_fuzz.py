"""Whatever bytes a file holds: what reads it returns something sound or raises a UserError with a sentence, nothing else."""

import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steps.core.checkpoint import NAME, load_checkpoint, save_checkpoint
from steps.core.cli import UserError
from steps.core.config import load_config
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.outdir import sha256_file
from steps.core.sound import sound_info
from steps.core.tables import parse_table
from steps.data.archives import load_feature_matrix
from steps.data.cmvn import read_cmvn
from steps.data.feature_config import FeatureConfig
from steps.data.features import load_audio
from steps.data.tokenizer import Tokenizer, train_tokenizer
from steps.deploy.recognition import DecodeConfig
from steps.deploy.runtimes import read_tokens
from steps.deploy.runtimes.ctc import read_words
from steps.models.build import build_model, load_model, new_spec, read_spec, save_model
from steps.models.hub_ctranslate import read_encoder
from steps.scoring.collect import read_json
from steps.scoring.wer import read_hypotheses
from steps.training.settings import TrainConfig
from tests.models.hub_folders import write_ctranslate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils"))

from jobs import UsageError, Work  # noqa: E402
from marks import Marks, changes, settings_text  # noqa: E402
from plan import StageError, read_plan  # noqa: E402

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")  # a number: that many of each kind, others every time
settings.register_profile(
    "files",
    max_examples=int(EXAMPLES or 60),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("files")

ODD = [
    "nan",
    "-1",
    "inf",
    "1e999",
    "../x",
    "$(touch pwned)",
    "`id`",
    "a;b",
    "'",
    '"',
    "|",
    "\u2028",
    "é",
    "\0",
    "<b>",
    "&",
]
words = st.sampled_from([*ODD, "s-0", "s-1", "0", "1.5", "fbank", "<blk>", " ", "\t", "\n", "\r\n"]) | st.text(
    max_size=5
)
texts = st.lists(words, max_size=30).map(" ".join) | st.lists(words, max_size=30).map("".join)
contents = texts.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=300)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 10**12])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def folder():
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    yield path
    shutil.rmtree(path)


def settle(function, *args, **options):
    """What a reader returns, or None when it refuses in words."""
    try:
        return function(*args, **options)
    except UserError as error:
        assert str(error).strip()
        return None


def damage(draw, content):
    """Content with some bytes changed, cut off or put in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if kind == "set" and place < len(data):
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=8))
        else:
            del data[place : place + draw(st.integers(1, 16))]
    return bytes(data)


@given(contents)
def test_tables(folder, content):
    (folder / "table").write_bytes(content)
    problems = []
    table = parse_table(folder / "table", problems)
    assert all(key and not set(key) & set(" \t\n") for key in table)
    settle(read_hypotheses, folder / "table")


@given(st.dictionaries(st.sampled_from(["wav.scp", "text", "utt2spk", "segments", "utt2dur", "utt2speed"]), contents))
def test_data_folders(folder, files):
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    base = {"wav.scp": b"s-0 /dev/null\n", "text": b"s-0 a\n", "utt2spk": b"s-0 s\n", "spk2utt": b"s s-0\n"}
    for name, content in (base | files).items():
        (data / name).write_bytes(content)
    for utt in settle(read_data_dir, data, False, False) or []:
        assert utt.utt_id and utt.text and utt.audio and not utt.audio.endswith("|")
        assert math.isfinite(utt.speed) and utt.speed > 0 and (utt.end_s is None or utt.end_s > utt.start_s >= 0)
        assert utt.duration_s is None or 0 < utt.duration_s < 1e9


@given(st.lists(st.tuples(words, words, texts, words), min_size=1, max_size=4))
@example([("a$(touch pwned)", "a", "'; rm -rf / #", "../x y.wav")])
def test_what_is_written_reads_back_the_same_or_is_refused(folder, rows):
    data = folder / "written"
    shutil.rmtree(data, ignore_errors=True)
    utterances = [Utterance(f"{speaker}-{utt_id}", speaker, text, audio) for utt_id, speaker, text, audio in rows]
    try:
        write_data_dir(data, utterances)
    except UserError:
        assert not (data / "text").exists()
        return
    back = {utt.utt_id: utt for utt in read_data_dir(data, check_audio=False)}
    assert back.keys() == {utt.utt_id for utt in utterances}
    for utt in utterances:
        assert (back[utt.utt_id].speaker, back[utt.utt_id].audio) == (utt.speaker, utt.audio)
        assert back[utt.utt_id].text.split() == [word for word in utt.text.replace("\t", " ").split(" ") if word]


@given(contents | values.map(lambda value: json.dumps(value).encode(errors="surrogatepass")))
@example(b"a: &a [*a]\n")
@example(b"num_mel_bins: 1.0e+400\n")
@example(b"? [a]\n: b\n")
@example(b"kind: 2001-99-99\n")
def test_settings(folder, content):
    (folder / "conf.yaml").write_bytes(content)
    for cls in (FeatureConfig, TrainConfig, DecodeConfig):
        settle(load_config, cls, folder / "conf.yaml")
    settings_text(str(folder / "conf.yaml"))


@given(st.dictionaries(st.sampled_from(list(FeatureConfig.__dataclass_fields__)), values, max_size=4))
def test_feature_settings(folder, value):
    (folder / "conf.yaml").write_text(json.dumps(value), encoding="utf-8", errors="replace")
    config = settle(load_config, FeatureConfig, folder / "conf.yaml")
    if config:
        assert 1 <= config.dim <= 1024 and config.sample_rate_hz >= 8000


@given(contents)
def test_token_and_word_lists(folder, content):
    (folder / "list").write_bytes(content)
    tokens = settle(read_tokens, folder / "list")
    assert tokens is None or len(set(tokens)) == len(tokens)
    found = settle(read_words, folder / "list")
    assert found is None or (found and all(found))


@given(values | st.fixed_dictionaries({"mean": st.lists(numbers, max_size=3), "std": st.lists(numbers, max_size=3)}))
@example({"mean": [0.0], "std": [float("nan")]})
@example({"mean": [0.0], "std": [10**400]})
def test_cmvn(folder, value):
    (folder / "cmvn.json").write_text(json.dumps(value), encoding="utf-8", errors="replace")
    cmvn = settle(read_cmvn, folder / "cmvn.json", 1)
    assert cmvn is None or (math.isfinite(cmvn["mean"][0]) and 0 < cmvn["std"][0] < math.inf)
    settle(read_json, folder / "cmvn.json")


@given(data=st.data())
def test_archives(folder, data):
    ark = folder / "x.ark"
    kaldiio.save_ark(
        str(ark), {"a": np.ones((5, 3), dtype="float32")}, compression_method=data.draw(st.sampled_from([None, 2]))
    )
    ark.write_bytes(damage(data.draw, ark.read_bytes()))
    place = data.draw(
        st.sampled_from([f"{ark}:2", f"{ark}:0", f"{ark}:99", str(ark), f"{ark}:2[0:1]", "cat |"]) | words
    )
    found = settle(load_feature_matrix, place)
    assert found is None or (found.ndim == 2 and found.size and np.isfinite(found).all())


@given(data=st.data())
def test_audio(folder, data):
    path = folder / "x.wav"
    kind = data.draw(st.sampled_from(["WAV", "FLAC", "MP3", "OGG", "NIST", "AIFF", "W64", "RF64", "CAF"]))
    soundfile.write(path, np.linspace(-0.5, 0.5, 400), 16000, format=kind)
    path.write_bytes(damage(data.draw, path.read_bytes()))
    for damaged in (False, True):
        samples = settle(load_audio, str(path), 16000, damaged=damaged)
        assert samples is None or (len(samples) and torch.isfinite(samples).all())
    info = settle(sound_info, str(path))
    assert info is None or info.seconds > 0


@pytest.fixture(scope="module")
def tokenizer_bytes(folder):
    train_tokenizer(["ab ba", "ba"]).save(folder / "tokenizer")
    return (folder / "tokenizer/tokenizer.model").read_bytes()


@given(data=st.data())
def test_tokenizers(tokenizer_bytes, data):
    tokenizer = settle(Tokenizer, damage(data.draw, tokenizer_bytes))
    if tokenizer:
        assert all(0 < token < tokenizer.vocab_size for token in tokenizer.encode("ab zé"))


@pytest.fixture(scope="module")
def model_folder(folder):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "context": 1, "num_blocks": 1, "block": {"units": 16}}
    carried = {}
    for name in ("tokenizer.model", "tokens.txt", "features.yaml"):
        (folder / name).write_text(name)
        carried[name] = folder / name
    save_model(folder / "model", build_model(new_spec("dnn", sizes, 8, 5, "test")), carried)
    return folder / "model"


@given(data=st.data())
def test_model_descriptions(model_folder, data):
    sound = json.loads((model_folder / "model.json").read_text())
    harmed = model_folder.parent / "harmed"
    shutil.rmtree(harmed, ignore_errors=True)
    shutil.copytree(model_folder, harmed)
    changed = sound | data.draw(st.dictionaries(st.sampled_from(list(sound)), values, min_size=1, max_size=2))
    if data.draw(st.booleans()):
        changed["model"] = sound["model"] | data.draw(st.dictionaries(st.sampled_from(list(sound["model"])), values))
    (harmed / "model.json").write_text(json.dumps(changed), encoding="utf-8", errors="replace")
    model = settle(load_model, harmed)
    assert model is None or all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


@given(data=st.data())
def test_weights(model_folder, data):
    harmed = model_folder.parent / "harmed"
    shutil.rmtree(harmed, ignore_errors=True)
    shutil.copytree(model_folder, harmed)
    weights = harmed / "model.safetensors"
    weights.write_bytes(damage(data.draw, weights.read_bytes()))
    spec = read_spec(harmed) | {"weights_sha256": sha256_file(weights)}
    (harmed / "model.json").write_text(json.dumps(spec))
    model = settle(load_model, harmed)
    assert model is None or all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


@pytest.fixture(scope="module")
def ctranslate_bytes(folder):
    arrays = {"encoder/num_heads": np.array(2, np.int16), "encoder/a/weight": np.ones((3, 2), np.float32)}
    return (write_ctranslate(folder / "whisper", arrays) / "model.bin").read_bytes()


@given(data=st.data())
def test_models_of_ctranslate2(ctranslate_bytes, folder, data):
    path = folder / "whisper/model.bin"
    path.write_bytes(damage(data.draw, ctranslate_bytes))
    arrays = settle(read_encoder, path) or {}
    assert sum(array.nbytes for array in arrays.values()) <= path.stat().st_size


@given(data=st.data())
def test_checkpoints(folder, data):
    """Damaged, and with a name that fits the damage."""
    place = folder / "checkpoints"
    shutil.rmtree(place, ignore_errors=True)
    save_checkpoint(place, 1, {"w": torch.arange(20.0), "best": {"loss": 1.0}})
    (path,) = place.iterdir()
    path.write_bytes(damage(data.draw, path.read_bytes()))
    step = NAME.fullmatch(path.name)[1]
    path.rename(place / f"step-{step}-{sha256_file(path)[:16]}.pt")
    settle(load_checkpoint, place)


@given(
    st.lists(words | st.sampled_from(["::", "--", "3", "x", "--needs", "--makes", ":then:", "JOB=1:2", "x.JOB.log"]))
)
def test_plans_and_job_lines(line):
    for reader, error in ((read_plan, StageError), (Work, UsageError)):
        try:
            reader(["::", *line] if reader is read_plan else line)
        except error as refused:
            assert str(refused)


@given(values | st.fixed_dictionaries({"id": st.text(), "generation": st.integers(), "fingerprint": values}))
def test_marks(folder, value):
    (task,), makers = read_plan(["::", "3", "model", "--needs", "x", "--makes", "y", "--", "train"])
    marks = Marks(str(folder / "exp"), [])
    path = Path(marks.path(task, "done"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8", errors="replace")
    mark = marks.read(task, "done")
    if mark:
        changes(mark["fingerprint"], marks.fingerprint(task, makers))

"""Made-up score folders."""

import json

from steps.core.datadir import Utterance
from steps.core.outdir import sha256_file
from steps.score import score

UTTERANCES = [
    Utterance(f"s{s}-u{u}", f"s{s}", " ".join(["one", "two", "three"][: 1 + (s + u) % 3]), "x.wav")
    for s in range(6)
    for u in range(4)
]


def make_model(exp, name, wrong=0, parent=None, size=1000, sets=("test",), lexicon=False, utts=UTTERANCES, **spec):
    """A finished model folder whose first `wrong` utterances are misrecognised; torch has one text more wrong."""
    export = exp / name / "export"
    export.mkdir(parents=True)
    for file, length in (("model.onnx", size), ("tokens.txt", 20), ("features.yaml", 30)):
        (export / file).write_bytes(b"x" * length)
    sums = [f"{sha256_file(path)}  {path.name}\n" for path in sorted(export.iterdir())]
    (export / "SHA256SUMS").write_text("".join(sums))
    content = {"parameters": 500, "nonzero_parameters": 400, "sparsity": None, "quantization": None}
    content |= {"parent": parent and {"name": parent}, **spec}
    (exp / name / "model.json").write_text(json.dumps(content))
    for set_name in sets:
        for suffix, more in (("_onnx", 0), ("", 1)):
            folder = exp / name / f"decode_{set_name}{suffix}"
            folder.mkdir()
            texts = [(u.utt_id, "bad" if i < wrong + more else u.text) for i, u in enumerate(utts)]
            for kind in ("greedy", "lexicon") if lexicon else ("greedy",):
                (folder / f"{kind}.txt").write_text("".join(f"{utt_id} {text}\n" for utt_id, text in texts))
                score(folder, kind, utts, set_name)


# as a name and as a text of data
EVIL = "<img src=x>[y](z)|`"


MODELS = ["teacher", "student", "student_int8"]


def make_noise(exp, name, more):
    """Noise scores: `more` errors in every utterance of the first three speakers."""
    folder = exp / name / "decode_test_noise"
    folder.mkdir()
    words = [len(u.text.split()) for u in UTTERANCES]
    errors = [more * (u.speaker in ("s0", "s1", "s2")) for u in UTTERANCES]
    content = {"ids": [u.utt_id for u in UTTERANCES], "speakers": [u.speaker for u in UTTERANCES], "seed": 0}
    content |= {"set": "test", "words": words, "levels": [{"snr_db": 10, "errors": errors}]}
    (folder / "noise.json").write_text(json.dumps(content))

"""Common Voice, as Mozilla ships it: what is read, what is refused."""

import shutil

from steps.core.sound import read_sound
from tests.core.sound_formats import without_xing
from tests.local import corpora
from tests.local.readers import good, refused, sizes


def test_commonvoice(tmp_path):
    corpora.commonvoice(tmp_path)
    sets, _ = good("commonvoice", tmp_path, "--corpus-dir", tmp_path)
    assert sizes(sets) == {"train": (8, 4), "dev": (6, 3), "test": (6, 3)}
    first, second = corpora.texts(0, 2)
    assert sets["train"][0].text == f"{first.capitalize()}, {first.split()[0].lower()}’s."
    assert sets["train"][1].text == f'{second.title()} "{second.lower()}"!'
    assert len(sets["train"][0].speaker) == 16


def test_commonvoice_clips_as_mozilla_encodes_them_and_a_tab_too_many(tmp_path):
    top = corpora.commonvoice(tmp_path) / "cv-corpus-21.0-2025-03-14/en"
    for path in (top / "clips").iterdir():
        without_xing(path)
    sets, said = good("commonvoice", tmp_path, "--corpus-dir", tmp_path)
    assert "train.tsv: not used, though it may matter: up_votes (2); down_votes (0); locale (en)" in said
    for utt in sets["train"]:
        samples, rate_hz = read_sound(utt.audio)
        assert utt.duration_s == round(len(samples) / rate_hz, 6)
    lines = (top / "dev.tsv").read_text(encoding="utf-8").split("\n")
    lines[2] = lines[2].replace(" ", "\t", 1)
    (top / "dev.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert "dev.tsv:3: 14 fields, expected 13" in refused("commonvoice", tmp_path / "b", "--corpus-dir", tmp_path)


def test_commonvoice_refuses_missing_clips_and_columns(tmp_path):
    top = corpora.commonvoice(tmp_path) / "cv-corpus-21.0-2025-03-14/en"
    (top / "clips/common_voice_en_1010.mp3").unlink()
    assert "train.tsv:4: no sound file clips/" in refused("commonvoice", tmp_path, "--corpus-dir", top)
    (top / "dev.tsv").write_text("path\tsentence\n")
    assert "dev.tsv:1: no column client_id" in refused("commonvoice", tmp_path, "--corpus-dir", top)
    shutil.copytree(top, top.parent / "fr")
    assert "name the language's folder" in refused("commonvoice", tmp_path, "--corpus-dir", tmp_path)

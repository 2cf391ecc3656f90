"""Preparation options: off means untouched; what is dropped is counted; leaks are refused; languages keep their letters."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from local.corpus import split_by_speaker
from local.durations import measure
from local.leaks import refuse_leaks
from local.preparation import FilterConfig, PreparationConfig, prepare_sets
from local.sound import SoundConfig, reduce_noise, speech_limits, treat
from local.text import TextConfig, in_words, normalise
from steps.core.cli import UserError
from steps.core.config import ConfigError, from_dict, load_config
from steps.core.datadir import Utterance, read_data_dir, write_data_dir
from steps.core.sound import Damaged, ManyChannels, read_sound
from tests.local.corpora import whistle

RATE = 16000


def make(tmp_path, name, samples, text="a b", speaker="s", **limits):
    path = tmp_path / f"{name}.wav"
    soundfile.write(path, samples, RATE)
    return Utterance(f"{speaker}-{name}", speaker, text, str(path), duration_s=len(samples) / RATE, **limits)


def noise(seconds, level=0.1, seed=0):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def test_the_defaults_and_conf_prepare_yaml_change_nothing(tmp_path):
    assert load_config(PreparationConfig, "conf/prepare.yaml") == PreparationConfig()
    utts = [make(tmp_path, "x", noise(1), "It’s 3 P.M., «Ali»!"), make(tmp_path, "y", noise(0.01))]
    assert prepare_sets({"train": utts}, PreparationConfig(), tmp_path / "out") == {"train": utts}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sound.json"]


@pytest.mark.parametrize(
    ("settings", "text", "wanted"),
    [
        ({"unicode": "NFC"}, "Cafe\u0301", "Café"),
        ({"case": "lower"}, "ÄRGER  IST\tDa", "ärger ist da"),
        ({"case": "lower", "language": "tr"}, "ISPARTA İzmir", "ısparta izmir"),
        ({"case": "lower", "language": "tr-TR"}, "ISPARTA I\u0307zmir", "ısparta izmir"),
        ({"case": "upper", "language": "tr"}, "ısparta izmir", "ISPARTA İZMİR"),
        ({"punctuation": "remove"}, "ok \u2764\ufe0f yes \U0001f468\u200d\U0001f467\U0001f3fd 1\ufe0f\u20e3", "ok yes 1"),
        ({"unicode": "NFC"}, "\u200da\u2060b \u061c\u200c", "ab"),
        ({"unicode": "NFC"}, "\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ({"punctuation": "remove"}, "It’s «five», 5%: yes—no…", "It's five 5 yes no"),
        ({"punctuation": "remove", "keep": "'-"}, "well-known (very)", "well-known very"),
        ({"language": "zh"}, "２０ 号 线 OK 吗", "20 号线 OK 吗"),
        ({"language": "zh-CN"}, "２０ 号 线", "20 号线"),
        ({"language": "ar", "unicode": "NFC"}, "\u200fمـــرحبا بكُم", "مرحبا بكُم"),
        ({"unicode": "NFC", "punctuation": "remove"}, "می\u200cخواهم؟", "می\u200cخواهم"),
        ({"unicode": "NFC", "case": "lower", "punctuation": "remove"}, "हिन्दी, भाषा।", "हिन्दी भाषा"),
        ({"numbers": True, "language": "en"}, "1,205 to 3.5", "one thousand, two hundred and five to three point five"),
        ({"numbers": True, "language": "en"}, "007", "zero zero seven"),
        ({"numbers": True, "language": "en"}, "0" + "1" * 12, "zero" + 12 * " one"),
        ({"numbers": True, "language": "en"}, "1" * 13, "one" + 12 * " one"),
        ({"numbers": True, "language": "en"}, "3.0 0.10 2.5", "three point zero zero point one zero two point five"),
        ({"numbers": True, "language": "en"}, "3.00", "three point zero zero"),
        ({"numbers": True, "language": "en-GB"}, "May 21st, the 1,000TH", "May twenty-first , the one thousandth"),
        ({"numbers": True, "language": "en"}, "5th,6th", "fifth , sixth"),
        ({"numbers": True, "language": "en"}, "2nds, 3.1st", "two nds, three point one st"),
        ({"numbers": True, "language": "en"}, "1" * 13 + "th", "one" + 12 * " one" + " th"),
        ({"numbers": True, "language": "de"}, "21st", "einundzwanzig st"),
        ({"numbers": True, "language": "ja"}, "3.0", "三点零"),
        ({"numbers": True, "language": "pl"}, "2.50", "dwa przecinek pięć"),
        ({"numbers": True, "language": "fr"}, "12\u202f345,60 et 1\u00a0000", 
         "douze mille trois cent quarante cinq virgule six zéro et mille"),
        ({"numbers": True, "language": "fr", "unicode": "NFKC"}, "1\u2009000\u2009000", "un million"),
        ({"numbers": True, "language": "fr"}, "12\u00a034 1 000", "douze trente quatre un zéro zéro zéro"),
        ({"unicode": "NFC"}, "1\u202f000", "1 000"),
        ({"numbers": True, "language": "de"}, "1.250 Euro", "eintausendzweihundertfünfzig Euro"),
    ],
)  # fmt: skip
def test_normalisation(settings, text, wanted):
    config = TextConfig(**settings)
    assert normalise(text, config).replace("-", " ") == wanted.replace("-", " ")
    once = normalise(text, config)
    assert normalise(once, config) == once


def test_a_language_that_numbers_lack_is_named():
    with pytest.raises(UserError, match="num2words has no language 'xx'"):
        in_words("5", "xx")


@pytest.mark.parametrize(("number", "language"), [("5,1", "tr"), ("5.1", "ar"), ("12345678901", "te")])
def test_numbers_that_num2words_says_wrongly_or_not_at_all_are_named(number, language):
    with pytest.raises(UserError, match=f"num2words .*{number}"):
        in_words(number, language)


def test_a_language_is_a_code():
    with pytest.raises(ValueError, match="must be a code such as en, tr or zh-CN, not 'Turkish'"):
        TextConfig(language="Turkish")


def test_turkish_without_its_language_is_told(tmp_path, capsys):
    utts = [make(tmp_path, "x", noise(1), "Kapıyı aç")]
    for language, told in (("", True), ("en", True), ("tr", False)):
        prepare_sets({"train": utts}, PreparationConfig(text=TextConfig(case="lower", language=language)), tmp_path)
        assert ("Turkish needs `text: {language: tr}`" in capsys.readouterr().out) is told


def test_filters_count_by_reason_and_spare_the_test_set(tmp_path):
    config = PreparationConfig(filter=FilterConfig(min_s=0.2, max_s=2, max_chars_per_s=10, alphabet="abc", max_run=3))
    utts = [
        make(tmp_path, "good", noise(1), "ab c"),
        make(tmp_path, "short", noise(0.1), "a"),
        make(tmp_path, "long", noise(3), "a"),
        make(tmp_path, "fast", noise(0.3), "abcabc"),
        make(tmp_path, "foreign", noise(1), "a d"),
        make(tmp_path, "run", noise(1), "a b b b"),
    ]
    kept = prepare_sets({"train": utts, "test": utts}, config, tmp_path / "out")
    assert kept == {"train": utts[:1], "test": utts}
    reasons = dict(line.split("\t")[1:] for line in (tmp_path / "out/dropped.tsv").read_text().splitlines())
    assert reasons == {
        "s-short": "too short", "s-long": "too long", "s-fast": "too many characters per second",
        "s-foreign": "character outside the alphabet: d", "s-run": "one word over and over",
    }  # fmt: skip


def test_counts_are_told_and_an_empty_set_is_refused(tmp_path, capsys):
    utts = [make(tmp_path, name, noise(1), name) for name in ("a", "b", "!")]
    config = PreparationConfig(text=TextConfig(punctuation="remove"), filter=FilterConfig(alphabet="a"))
    prepare_sets({"train": utts}, config, tmp_path)
    assert (
        "train: dropped 2 of 3 utterances (character outside the alphabet: b: 1, empty transcript: 1)"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="train: the preparation options leave no utterance"):
        prepare_sets({"train": utts[1:]}, config, tmp_path)
    with pytest.raises(UserError, match=r"filter.sets: no set trian"):
        prepare_sets({"train": utts}, PreparationConfig(filter=FilterConfig(sets=["trian"], min_s=1.0)), tmp_path)


def test_words_in_several_unicode_forms_are_told(tmp_path, capsys):
    sets = {
        name: [make(tmp_path, name, noise(1), text)]
        for name, text in (("train", "f\u00fcr es"), ("dev", "fu\u0308r es"))
    }
    prepare_sets(sets, PreparationConfig(), tmp_path)
    assert "warning: 1 word in several Unicode forms, such as f\u00fcr: " in capsys.readouterr().out
    kept = prepare_sets(sets, PreparationConfig(text=TextConfig(unicode="NFC")), tmp_path)
    assert kept["train"][0].text == kept["dev"][0].text and "Unicode" not in capsys.readouterr().out


def test_what_does_not_travel_with_a_model_is_said_and_a_level_is_refused(tmp_path, capsys):
    utts = [make(tmp_path, "a", noise(1))]
    prepare_sets({"train": utts}, PreparationConfig(sound=SoundConfig(denoise=0.5)), tmp_path / "out")
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == 1 and "denoise: not part of the model" in lines[0] and "trim" not in lines[0]
    assert json.loads((tmp_path / "out/sound.json").read_text()) == {"denoise": 0.5}
    prepare_sets({"train": utts}, PreparationConfig(sound=SoundConfig(channel=1)), tmp_path / "out")
    assert "warning" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out/sound.json").read_text()) == {}, "nothing is left of other settings"
    with pytest.raises(ConfigError, match=r"sound: level_dbfs: .*put `level_dbfs: -25.0` into features.yaml"):
        from_dict(PreparationConfig, {"sound": {"level_dbfs": -25}}, "prepare.yaml")


def test_treated_audio_is_a_new_file_and_inputs_stay(tmp_path):
    utt = dataclasses.replace(make(tmp_path, "x", noise(2)), start_s=0.5, end_s=1.5, duration_s=1.0)
    before = (tmp_path / "x.wav").read_bytes()
    new = treat(utt, SoundConfig(denoise=0.5), tmp_path / "out")
    assert (tmp_path / "x.wav").read_bytes() == before and new.audio != utt.audio
    samples, _ = read_sound(new.audio)
    assert len(samples) == RATE and new.duration_s == 1.0 and new.end_s is None
    assert np.std(samples) < 0.8 * np.std(read_sound(utt.audio)[0])
    evil = treat(dataclasses.replace(utt, utt_id="../../../escape"), SoundConfig(denoise=0.5), tmp_path / "out")
    assert (tmp_path / "out") in Path(evil.audio).resolve().parents
    silent = make(tmp_path, "silent", np.zeros(RATE))
    assert treat(silent, SoundConfig(denoise=0.5), tmp_path) == "digital silence"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"duration_s": 1.6}, "should last 1.60 s, but has 1.00 s of"),
        ({"start_s": 0.2, "end_s": 0.4, "duration_s": 1.0}, "should last 1.00 s, but has 0.20 s of"),
        ({"start_s": 0.8, "end_s": 1.6, "duration_s": 0.8}, "ends at 1.60 s, but"),
        ({"end_s": 1.6, "duration_s": None}, "ends at 1.60 s, but"),
        ({"speed": 0.5, "duration_s": 1.0}, "should last 1.00 s, but has 2.00 s of"),
        ({"start_s": 1.1, "end_s": 1.4}, "starts at 1.10 s, but"),
        ({"start_s": 1.0}, "starts at 1.00 s, but"),
        ({"start_s": 9.0}, "starts at 9.00 s, but"),
    ],
)
def test_times_that_disagree_with_the_sound_are_problems(tmp_path, told, words):
    utt, problems = dataclasses.replace(make(tmp_path, "x", noise(1.0)), **told), []
    measure({"train": [utt]}, problems)
    assert len(problems) == 1 and str(problems[0]).startswith(f"s-x: {words}")


DURATIONS = [({}, 1.0), ({"start_s": 0.25}, 0.75), ({"start_s": 0.2, "end_s": 0.4}, 0.2), ({"speed": 2.0}, 0.5)]


@pytest.mark.parametrize(("told", "seconds"), [*DURATIONS, ({"end_s": 1.4}, 1.0), ({"duration_s": 0.7}, 1.0)])
def test_durations_are_measured(tmp_path, told, seconds):
    utt, problems = dataclasses.replace(make(tmp_path, "x", noise(1.0)), **{"duration_s": None} | told), []
    assert measure({"train": [utt]}, problems)["train"][0].duration_s == seconds and not problems


@pytest.fixture
def stereo(tmp_path):
    """A recording with noise on the left and whistles on the right, and the whistles."""
    right = whistle([["A", "B"], ["C"]], 1)
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([noise(len(right) / RATE, 0.05)[: len(right)], right], axis=1), RATE)
    return Utterance("s-call", "s", "ab c", str(path), duration_s=len(right) / RATE), np.round(right * 32768) / 32768


def test_the_channel_that_was_named_is_what_every_later_program_reads(tmp_path, stereo):
    utt, right = stereo
    with pytest.raises(ManyChannels):
        treat(utt, SoundConfig(denoise=0.5), tmp_path / "out")
    part = dataclasses.replace(utt, utt_id="s-part", start_s=0.1, end_s=0.3, duration_s=0.2)
    config = PreparationConfig(sound=SoundConfig(channel=2))
    mono = make(tmp_path, "mono", noise(0.3))
    whole, cut, same = prepare_sets({"train": [utt, part, mono]}, config, tmp_path / "out")["train"]
    assert np.abs(read_sound(whole.audio)[0] - right).max() <= 1 / 32768
    assert np.array_equal(read_sound(cut.audio)[0], read_sound(whole.audio)[0][1600:4800]) and same == mono
    assert (whole.start_s, whole.end_s, whole.duration_s) == (0.0, None, utt.duration_s) and cut.duration_s == 0.2
    mixed = treat(utt, SoundConfig(channel="mix"), tmp_path / "mix")
    halves = read_sound(utt.audio, channel="mix")[0]
    assert np.abs(read_sound(mixed.audio)[0] - halves).max() <= 1 / 32768


def test_damaged_files_are_copied_as_far_as_they_go(tmp_path):
    utt = make(tmp_path, "cut", noise(1.0))
    path = Path(utt.audio)
    path.write_bytes(path.read_bytes()[:-16000])
    with pytest.raises(Damaged):
        treat(utt, SoundConfig(trim=True), tmp_path / "out")
    config = SoundConfig(damaged="accept")
    new = treat(utt, config, tmp_path / "out")
    assert new.audio != utt.audio and new.duration_s == 0.5 and len(read_sound(new.audio)[0]) == 8000
    late = dataclasses.replace(utt, start_s=0.2, end_s=1.2)
    assert treat(late, config, tmp_path / "out") == "its sound file ends before it"
    whole = make(tmp_path, "whole", noise(0.5))
    assert treat(whole, config, tmp_path / "out") == whole


@pytest.mark.parametrize("sound", [{"channel": 3}, {"channel": True}, {"channel": "left"}, {"damaged": "yes"}])
def test_faulty_sound_settings_are_refused(sound):
    with pytest.raises(ConfigError, match="must be"):
        from_dict(PreparationConfig, {"sound": sound}, "prepare.yaml")


def test_denoising_takes_noise_and_leaves_the_whistles():
    speech = whistle([["A", "B"], ["C", "D", "E"]] * 3, 1)
    noisy = (speech + noise(len(speech) / RATE, 0.02)).astype(np.float32)
    clean = reduce_noise(noisy, RATE, 1.0)
    pause = slice(0, round(0.07 * RATE))
    assert np.std(clean[pause]) < 0.5 * np.std(noisy[pause])
    assert np.corrcoef(clean, speech)[0, 1] > 0.7


def test_trimming_finds_speech_and_only_moves_limits(tmp_path, an4_dir):
    audio = next(an4_dir.glob("flac/an4_clstk/*/*.flac"))
    speech, rate = soundfile.read(audio, dtype="float32")
    padded = np.concatenate([noise(2, 1e-3).astype(np.float32), speech, noise(2, 1e-3).astype(np.float32)])
    start_s, end_s = speech_limits(padded, rate)
    assert 1.8 < start_s < end_s < 2.2 + len(speech) / rate
    utt = make(tmp_path, "x", padded)
    new = treat(utt, SoundConfig(trim=True, trim_pad_s=0.1), tmp_path)
    assert new.audio == utt.audio and new.start_s == pytest.approx(start_s - 0.1, abs=0.01)
    write_data_dir(tmp_path / "data", [new])
    assert read_data_dir(tmp_path / "data")[0].end_s == pytest.approx(end_s + 0.1, abs=0.01)


def test_trimming_drops_what_holds_no_speech(tmp_path):
    assert treat(make(tmp_path, "x", noise(1, 1e-4)), SoundConfig(trim=True), tmp_path) == "no speech found"


def test_several_processes_give_the_same(tmp_path):
    utts = [make(tmp_path, f"x{i}", noise(0.3, 0.1, i), "a") for i in range(6)]
    config = PreparationConfig(sound=SoundConfig(denoise=0.5))
    results = []
    for nj in (1, 2):
        kept = prepare_sets({"train": utts}, config, tmp_path / "out", nj)["train"]
        results.append([(utt, read_sound(utt.audio)[0].tobytes()) for utt in kept])
    assert results[0] == results[1]


def test_speaker_leaks_are_refused_or_said(tmp_path, capsys):
    sets = {"train": [make(tmp_path, "a", noise(1, 0.1, 1))], "test": [make(tmp_path, "b", noise(1, 0.1, 2))]}
    with pytest.raises(UserError, match="speaker s is in train and test"):
        refuse_leaks(sets)
    refuse_leaks(sets, shared_speakers=True)
    assert "1 speaker is in several sets" in capsys.readouterr().out


def test_the_same_recording_under_two_names_is_refused(tmp_path, capsys):
    sets = {"train": [make(tmp_path, "a", noise(1), speaker="s")], "test": [make(tmp_path, "b", noise(1), speaker="t")]}
    with pytest.raises(UserError, match="train/s-a and test/t-b are the same recording"):
        refuse_leaks(sets)
    refuse_leaks({"train": [sets["train"][0], make(tmp_path, "c", noise(1))]})
    assert "train: 1 recording is there more than once" in capsys.readouterr().out
    parts = [
        dataclasses.replace(sets["train"][0], utt_id=f"s-{i}", start_s=0.3 * i, end_s=0.3 * i + 0.3) for i in range(3)
    ]
    refuse_leaks({"train": parts[:2]})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("limits", "same"),
    [
        ([(0.0, 0.6), (0.01, 0.61)], True),
        ([(0.0, None), (0.1, 0.4)], True),
        ([(0.5, 0.6), (0.0, 1.0)], True),
        ([(0.0, 0.5), (0.4, 0.9)], False),
        ([(0.0, 0.5), (0.5, None)], False),
    ],
)
def test_stretches_of_a_recording_that_lie_in_each_other_are_refused_across_sets(tmp_path, capsys, limits, same):
    one, two = make(tmp_path, "a", noise(1.0), speaker="s"), make(tmp_path, "b", noise(1.0), speaker="t")
    pair = [
        dataclasses.replace(u, start_s=a, end_s=b, duration_s=(b or 1.0) - a)
        for u, (a, b) in zip((one, two), limits, strict=True)
    ]
    for first, second in (pair, pair[::-1]):
        sets = {"train": [first], "dev": [], "test": [second]}
        if same:
            with pytest.raises(UserError, match="separate .1 leak.*\n.*are the same recording"):
                refuse_leaks(sets)
        else:
            refuse_leaks(sets)
        refuse_leaks({"train": [first, second]}, shared_speakers=True)
        refuse_leaks({"train": [first], "extra": [second]}, joins={"extra": "train"})
    assert "more than once" not in capsys.readouterr().out


@pytest.mark.parametrize("speakers", [3, 6, 40])
def test_split_is_by_speaker_whatever_the_order(speakers):
    utts = [Utterance(f"s{i % speakers}-{i}", f"s{i % speakers}", "x", "x.wav") for i in range(speakers * 5)]
    sets = split_by_speaker(utts)
    owners = [{utt.speaker for utt in part} for part in sets.values()]
    assert all(owners) and sum(map(len, owners)) == speakers and sum(map(len, sets.values())) == len(utts)
    assert len(sets["train"]) >= 0.33 * len(utts)
    again = split_by_speaker(utts[::-1])
    assert {name: {utt.utt_id for utt in part} for name, part in again.items()} == {
        name: {utt.utt_id for utt in part} for name, part in sets.items()
    }
    with pytest.raises(UserError, match="2 speakers cannot be split"):
        split_by_speaker([utt for utt in utts if utt.speaker in ("s0", "s1")])


@pytest.mark.parametrize("name", ["dev", "test"])
def test_split_makes_one_set_only_where_the_other_is_there(name):
    utts = [Utterance(f"s{i % 30}-{i}", f"s{i % 30}", "x", "x.wav") for i in range(90)]
    sets = split_by_speaker(utts, **{f"{'dev' if name == 'test' else 'test'}_share": None})
    assert list(sets) == ["train", name] and len(sets[name]) == 9 and len(sets["train"]) == 81
    assert not {utt.speaker for utt in sets[name]} & {utt.speaker for utt in sets["train"]}
    assert [len(part) for part in split_by_speaker(utts).values()] == [72, 9, 9]

"""Batch plans: everything once, within the limit, reproducible."""

import random
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from steps.core.cli import UserError
from steps.core.config import save_config
from steps.core.datadir import Utterance, write_data_dir
from steps.data.batches import mean_of_sound, plan_batches
from steps.data.dataset import SpeechDataset
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import train_tokenizer
from steps.training.data import epoch_groups, load_groups
from steps.training.loop import LoopConfig

_random = random.Random(1)
FRAMES = [_random.randint(20, 900) for _ in range(300)]


@pytest.mark.parametrize("max_frames", [500, 3000, 10**6])
def test_every_utterance_once_and_within_the_limit(max_frames):
    batches = plan_batches(FRAMES, max_frames, seed=0, epoch=2)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(FRAMES[index] for index in batch) <= max_frames


def test_a_plan_depends_on_seed_and_epoch_alone():
    plan = plan_batches(FRAMES, 3000, 0, 0)
    assert list(plan) == list(plan_batches(FRAMES, 3000, 0, 0))
    assert list(plan) != list(plan_batches(FRAMES, 3000, 0, 1))
    assert list(plan) != list(plan_batches(FRAMES, 3000, 1, 0))


def test_utterances_of_like_length_share_a_batch():
    padded = sum(len(batch) * max(FRAMES[index] for index in batch) for batch in plan_batches(FRAMES, 6000, 0, 0))
    shuffled = np.random.default_rng(0).permutation(300)
    unsorted = sum(len(part) * max(FRAMES[index] for index in part) for part in np.array_split(shuffled, 30))
    assert padded < 1.2 * sum(FRAMES) < unsorted


@pytest.fixture
def spoken(tmp_path):
    """A data folder of four utterances, on the fly; the last is too short for more than three tokens."""
    texts = ["ab ba", "a b a", "b", "ab"]
    utts = [Utterance(f"s-{i}", "s", text, f"{i}.wav", duration_s=1.0) for i, text in enumerate(texts)]
    utts[-1] = Utterance("s-3", "s", "ab", "3.wav", duration_s=0.12)
    for utt in utts:
        # only their durations count
        (tmp_path / utt.audio).touch()
    write_data_dir(tmp_path, [replace(utt, audio=str(tmp_path / utt.audio)) for utt in utts])
    return tmp_path, train_tokenizer(texts)


def test_silence_at_the_ends_of_a_recording_has_the_token_of_silence_between_words(spoken):
    folder, tokenizer = spoken
    fit = (lambda lengths: lengths // 4, lambda tokens, repeats: tokens + repeats)
    plain = SpeechDataset(folder, tokenizer, FeatureConfig(), "on_the_fly", *fit)
    ended = SpeechDataset(folder, tokenizer, FeatureConfig(), "on_the_fly", *fit, end_spaces=True)
    space = tokenizer.pieces.index("\u2581")
    assert len(plain) == 4 and len(ended) == 3 and ended.dropped == ["s-3"]
    assert plain.left_out is ended.sample(2).left_out is None
    assert [ended.left_out.utt_id(i) for i in range(len(ended.left_out))] == ["s-3"] and ended.left_out.text(0) == "ab"
    for index in range(3):
        assert ended.tokens(index) == [space, *plain.tokens(index), space]
        assert tokenizer.decode(ended.tokens(index)) == plain.text(index)


@pytest.mark.parametrize("texts", [["a", "b"], ["ab ba"]])
def test_a_tokenizer_without_a_space_of_its_own_is_refused(spoken, texts):
    tokenizer = train_tokenizer(texts) if len(texts) == 2 else train_tokenizer(texts, "word")
    assert tokenizer.space_id is None
    with pytest.raises(UserError, match="end_spaces: true needs a tokenizer with a space of its own"):
        SpeechDataset(spoken[0], tokenizer, FeatureConfig(), "on_the_fly", end_spaces=True)


def test_a_sample_is_spread_over_the_whole_set(spoken):
    data = SpeechDataset(spoken[0], spoken[1], FeatureConfig(), "on_the_fly")
    part = data.sample(2)
    assert [part.utt_id(i) for i in range(len(part))] == ["s-0", "s-3"] and part.num_frames.tolist() == [100, 12]
    assert [data.sample(9).text(i) for i in range(4)] == [data.text(i) for i in range(4)] and len(data) == 4


def test_features_of_other_settings_are_found_in_a_part_of_a_folder_too(spoken):
    """As utils/subset_data_dir.py makes one: its feats.scp names archives of another folder."""
    folder, tokenizer = spoken
    for name in ("one", "two"):
        save_config(folder / name / "features.yaml", FeatureConfig(level_dbfs=-25.0 if name == "two" else None))
    (folder / "utt2num_frames").write_text("".join(f"s-{i} 100\n" for i in range(4)))
    places = [folder / ("two" if i == 3 else "one") / f"feats.{i}.ark:5" for i in range(4)]
    (folder / "feats.scp").write_text("".join(f"s-{i} {place}\n" for i, place in enumerate(places)))
    with pytest.raises(UserError, match=r"two/features.yaml and --features differ \(level_dbfs -25.0 and None\)"):
        SpeechDataset(folder, tokenizer, FeatureConfig())
    with pytest.raises(UserError, match=r"one/features.yaml and --features differ \(level_dbfs None and -25.0\)"):
        SpeechDataset(folder, tokenizer, FeatureConfig(level_dbfs=-25.0))
    save_config(folder / "two" / "features.yaml", FeatureConfig())
    assert len(SpeechDataset(folder, tokenizer, FeatureConfig())) == 4


def test_sound_shorter_than_its_duration_says_is_refused_where_the_transcript_no_longer_fits(tmp_path):
    """Else its loss would be infinite, and the learning rate be blamed."""
    for name, seconds in (("a", 1.0), ("b", 0.4)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(int(16000 * seconds), 0.1), 16000)
    text = "abababab"
    utts = [Utterance(f"s-{name}", "s", text, str(tmp_path / f"{name}.wav"), duration_s=1.0) for name in "ab"]
    write_data_dir(tmp_path / "data", utts)
    for needed, refused in ((20, True), (5, False)):
        fit = (lambda lengths: lengths // 4, lambda tokens, repeats, needed=needed: 0 * tokens + needed)
        data = SpeechDataset(tmp_path / "data", train_tokenizer([text]), FeatureConfig(), "on_the_fly", *fit)
        assert len(data.features(0)) == 100
        if refused:
            with pytest.raises(
                UserError, match=r"data/utt2dur: s-b has 0.40 s of sound, not 1.00, .* make utt2dur again"
            ):
                data.features(1)
        else:
            assert len(data.features(1)) == 40


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "status", "said"), [("stereo", 1, "a.wav: 2 channels"), ("gone", 5, "a.wav: no such")]
)
def test_bad_sound_is_one_line_whoever_reads_it(tmp_path, workers, fault, status, said):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((16000, 2) if fault == "stereo" else 16000, 0.1), 16000)
    write_data_dir(tmp_path / "data", [Utterance("s-a", "s", "ab", str(path), duration_s=1.0)])
    data = SpeechDataset(tmp_path / "data", train_tokenizer(["ab"]), FeatureConfig(), "on_the_fly")
    if fault == "gone":
        path.unlink()
    loop = LoopConfig(loader_workers=workers)
    with pytest.raises(UserError) as told:
        next(load_groups(data, epoch_groups(data, loop, 0, 0), loop, None, None, 0, 0))
    assert str(told.value).startswith(str(tmp_path)) and said in str(told.value) and told.value.status == status


def test_digital_silence_is_no_part_of_what_masks_are_filled_with():
    feats = np.array([[1.0, 3.0], [3.0, 5.0], [-16.0, -16.0]], np.float32)
    assert mean_of_sound(feats).tolist() == [2.0, 4.0] and mean_of_sound(feats[2:]).tolist() == [-16.0, -16.0]

"""What a training means: rates, averages, masks, dropout and kept zeros, seen from outside the loop."""

import copy
import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from steps.data.augment import SpecAugmentConfig
from steps.data.batches import BatchLoader
from steps.data.feature_config import FeatureConfig
from steps.data.tokenizer import train_tokenizer
from steps.losses.ctc import ctc_loss_sum
from steps.losses.distill import frame_kl_sum, select_frames
from steps.models.build import build_model, new_spec
from steps.models.heads.ctc import CtcConfig
from steps.scoring.wer import count_errors
from steps.search.greedy import greedy_search
from steps.training.distill_config import DistillConfig
from steps.training.loop import LoopConfig, Trainer
from steps.training.monitor import score_dev
from steps.training.objectives import DistillObjective, TranscriptObjective
from steps.training.optim import OptimConfig, learning_rate
from steps.training.teachers import ModelTeacher

DIM, CPU = 20, torch.device("cpu")
FEATURES = FeatureConfig(num_mel_bins=DIM)
TOKENIZER = train_tokenizer(["ab ba cab"])
SIZES = {"d_model": 16, "head_dim": 8, "kernel_size": 3, "subsampling_channels": [4, 4], "num_blocks": 1}
SIZES["block"] = {"heads": 2, "ff1": 16, "ff2": 16, "conv_channels": 16}
LOOP = LoopConfig(epochs=3, max_batch_frames=300, average_last=2, dev_every=1, save_every_s=1e9)


class Speech:
    """Noise with transcripts, in memory, behind the face of SpeechDataset. Args: frames: of each utterance."""

    left_out = None

    def __init__(self, frames, seed=0):
        rng = np.random.default_rng(seed)
        self.num_frames = np.array(frames, np.int32)
        self.rows = [rng.normal(1.0, 2.0, (count, DIM)).astype(np.float32) for count in frames]
        self.texts = [" ".join(rng.choice(["ab", "ba", "cab"], 2)) for _ in frames]
        self.feature_config = FEATURES

    def __len__(self):
        return len(self.rows)

    def utt_id(self, index):
        return f"utt-{index}"

    def text(self, index):
        return self.texts[index]

    def tokens(self, index):
        return TOKENIZER.encode(self.texts[index])

    def features(self, index, change=None):
        return self.rows[index]


SAME_LENGTH, MIXED = Speech([60] * 12), Speech([60, 90, 44, 71, 52, 83, 67, 45, 75, 58], seed=1)


class Watch(TranscriptObjective):
    """CTC that notes what each call got: training mode, the seed of its dropout, the batch."""

    def __init__(self, model):
        super().__init__(CtcConfig(), model)
        self.calls = []

    def forward(self, model, batch, *rest):
        self.calls.append((model.training, torch.initial_seed(), batch))
        return super().forward(model, batch, *rest)


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    model = build_model(new_spec("conformer", SIZES | changes, DIM, TOKENIZER.vocab_size, "test"))
    model.set_cmvn_(torch.full((DIM,), 1.0), torch.full((DIM,), 2.0))
    return model


def make_trainer(out, model=None, objective=None, loop=LOOP, optim=None, augment=None, train=SAME_LENGTH, **options):
    model, optim = model or make_model(), optim or OptimConfig(peak_lr=3e-3)
    objective = objective or TranscriptObjective(CtcConfig(), model)
    stop = options.pop("stop", SimpleNamespace(poll=lambda: 0))
    return Trainer(model, objective, train, MIXED, TOKENIZER, loop, optim, augment, out, 0, CPU, stop, **options)


def taught_by(config, student, teacher):
    """The objective of a student of one model."""
    return DistillObjective(config, student, [ModelTeacher(teacher, FEATURES, TOKENIZER.pieces)], CtcConfig())


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_rate_follows_the_whole_training_and_reaches_every_matrix(tmp_path, optimizer):
    optim, rates = OptimConfig(optimizer=optimizer, warmup=0.3), []
    trainer = make_trainer(tmp_path, optim=optim, stop=SimpleNamespace(poll=lambda: note()))

    def note():
        groups = getattr(trainer.optimizer, "optimizers", [trainer.optimizer])
        rates.append({group["lr"] for each in groups for group in each.param_groups})
        return 0

    trainer.train()
    total = len(rates)
    assert total == trainer.step == 3 * 3
    assert all(len(rate) == 1 for rate in rates)
    assert [rate.pop() for rate in rates] == pytest.approx([learning_rate(k / total, optim) for k in range(total)])


def watch_looks(monkeypatch, trainer):
    """The weights at every look at dev, in a list that fills as the trainer trains."""
    seen = []

    def look(*_):
        seen.append(weights(trainer.model))
        return {"loss": 1.0, "wer": 0.0, "cer": 0.0, "example": ""}

    monkeypatch.setattr("steps.training.loop.score_dev", look)
    return seen


@pytest.mark.parametrize("last", [1, 2, 3])
def test_what_ships_is_the_mean_over_the_last_epochs_and_no_other(tmp_path, monkeypatch, last):
    trainer = make_trainer(tmp_path, loop=dataclasses.replace(LOOP, average_last=last))
    seen = watch_looks(monkeypatch, trainer)
    trainer.train()
    *epochs, final = seen
    assert len(epochs) == 3
    torch.testing.assert_close(final, torch.stack(epochs[-last:]).mean(0))
    assert torch.equal(weights(trainer.model), final)


@pytest.mark.parametrize("max_frames", [300, 10**6])
def test_dev_is_scored_as_it_is_each_utterance_for_itself(max_frames):
    """No masks, no dropout, no padding: the numbers are those of one utterance after the other."""
    model = make_model(seed=4, dropout=0.5)
    with torch.no_grad():  # some letters beside the blanks
        model.state_dict()["output.weight"].mul_(6.0)
    model.eval()
    loss, frames, hyps = 0.0, 0, {}
    with torch.no_grad():
        for index in range(len(MIXED)):
            log_probs, lengths = model(torch.tensor(MIXED.rows[index])[None], torch.tensor([len(MIXED.rows[index])]))
            tokens = torch.tensor([MIXED.tokens(index)])
            loss += ctc_loss_sum(log_probs, lengths, tokens, torch.tensor([tokens.shape[1]])).item()
            frames += int(lengths)
            hyps[MIXED.utt_id(index)] = TOKENIZER.decode(greedy_search(log_probs, lengths)[0])
    refs = {MIXED.utt_id(index): MIXED.text(index) for index in range(len(MIXED))}
    found = score_dev(model.train(), MIXED, TOKENIZER, max_frames, CPU)
    assert found["loss"] == pytest.approx(loss / frames, rel=1e-5)
    assert len(set(hyps.values())) > 3
    for name, unit in (("wer", "word"), ("cer", "char")):
        assert found[name] == pytest.approx(count_errors(refs, hyps, unit).percent)


def test_dev_utterances_without_room_for_their_transcript_count_as_words_though_they_have_no_loss():
    model = make_model(seed=4)
    part, rest = Speech([60, 90, 44]), Speech([44, 5])
    part.left_out, rest.texts, rest.utt_id = rest, [4 * "cab ", "ab"], lambda index: f"short-{index}"
    found = score_dev(model, part, TOKENIZER, 300, CPU)
    part.left_out = None
    alone, short = score_dev(model, part, TOKENIZER, 300, CPU), score_dev(model, rest, TOKENIZER, 300, CPU)
    assert found["loss"] == alone["loss"] and short["wer"] > 0
    assert found["wer"] == pytest.approx((6 * alone["wer"] + 5 * short["wer"]) / 11)


def test_every_update_hears_other_masks_filled_with_the_mean(tmp_path):
    model, augment = make_model(), SpecAugmentConfig(freq_width=4, time_width=8)
    objective = Watch(model)
    make_trainer(tmp_path, model, objective, augment=augment, train=MIXED).train()
    heard = {}
    for _, _, batch in objective.calls:
        for utt_id, feats, length in zip(batch.utt_ids, batch.feats, batch.lengths, strict=True):
            heard.setdefault(utt_id, []).append(feats[:length].numpy())
    assert len(heard) == len(MIXED) and all(len(times) == LOOP.epochs for times in heard.values())
    for utt_id, times in heard.items():
        plain = MIXED.rows[int(utt_id.removeprefix("utt-"))]
        masked = [feats != plain for feats in times]
        assert all((feats[mask] == 1.0).all() for feats, mask in zip(times, masked, strict=True))
        assert not np.array_equal(masked[0], masked[1]) or not np.array_equal(masked[1], masked[2])
    assert any(mask.any() for mask in masked)


def test_masks_begin_after_their_share_of_the_epochs(tmp_path):
    model, augment = make_model(), SpecAugmentConfig(freq_width=4, time_width=8, masks_from=2 / 3)
    objective = Watch(model)
    make_trainer(tmp_path, model, objective, augment=augment, train=MIXED).train()
    changed = {}
    for _, _, batch in objective.calls:
        for utt_id, feats, length in zip(batch.utt_ids, batch.feats, batch.lengths, strict=True):
            plain = MIXED.rows[int(utt_id.removeprefix("utt-"))]
            changed.setdefault(utt_id, []).append(not np.array_equal(feats[:length].numpy(), plain))
    by_epoch = list(zip(*changed.values(), strict=True))
    assert len(by_epoch) == LOOP.epochs == 3
    assert not any(by_epoch[0]) and not any(by_epoch[1]) and any(by_epoch[2])


def test_dropout_is_on_in_every_update_and_never_the_same(tmp_path):
    model = make_model()
    objective = Watch(model)
    make_trainer(tmp_path, model, objective, loop=dataclasses.replace(LOOP, accumulate=2), train=MIXED).train()
    training, seeds, _ = zip(*objective.calls, strict=True)
    assert all(training) and len(set(seeds)) == len(seeds) > 6


def test_zeros_are_kept_at_every_update(tmp_path):
    def zero(model):
        with torch.no_grad():
            model.output.weight[3].zero_()

    largest = []
    trainer = make_trainer(
        tmp_path,
        stop=SimpleNamespace(poll=lambda: largest.append(trainer.model.output.weight[3].abs().max().item()) or 0),
        after_update=zero,
    )
    trainer.train()
    assert len(largest) == trainer.step > 6 and not any(largest)


def test_of_what_is_frozen_no_number_moves(tmp_path):
    model = make_model(conv_norm="batch")
    model.blocks.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_trainer(tmp_path, model).train()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "output.weight" in moved and not any(name.startswith("blocks.") for name in moved)


def gradient(trainer, batches):
    """What one update hands to the optimizer, by parameter name."""
    kept = {}
    trainer.optimizer.step = lambda: kept.update({n: p.grad.clone() for n, p in trainer.model.named_parameters()})
    trainer.update(batches, progress=0.5)
    return kept


def test_no_gradient_is_longer_than_allowed(tmp_path):
    lengths = []
    for clip_norm in (1e-3, 1e9):
        trainer = make_trainer(tmp_path / str(clip_norm), optim=OptimConfig(clip_norm=clip_norm))
        found = gradient(trainer, [batch_of(MIXED, range(4))])
        lengths.append(torch.cat([g.flatten() for g in found.values()]).norm().item())
    assert lengths[0] == pytest.approx(1e-3, rel=1e-3) and lengths[1] > 2e-3


def batch_of(data, indices):
    """One micro-batch of these utterances, not augmented."""
    return BatchLoader(data, [(list(indices), 1.0)], None, None, 0, 0)[0]


def taught_loss(student, teacher, batch, config):
    """The loss of one update by its definition: CTC per encoder frame, KL per frame that is taught."""
    log_probs, lengths = student(batch.feats, batch.lengths)
    with torch.no_grad():
        target, _ = teacher(batch.feats, batch.lengths)
    is_pad = torch.arange(target.shape[1]) >= lengths.unsqueeze(1)
    taught = select_frames(target, is_pad, config.frames, config.window)
    assert taught.sum() > 0 and (config.frames == "all") == bool((taught == ~is_pad).all())
    ctc = ctc_loss_sum(log_probs, lengths, batch.tokens, batch.token_lengths) / lengths.sum()
    kl = frame_kl_sum(log_probs, target, taught, 1.0) / taught.sum()
    return (1 - config.kl_weight) * ctc + config.kl_weight * kl


def make_pair():
    """A student without dropout and a teacher that spikes on about a quarter of the frames of MIXED."""
    student, teacher, batch = make_model(dropout=0.0), make_model(seed=7).eval(), batch_of(MIXED, range(len(MIXED)))
    with torch.no_grad():
        teacher.state_dict()["output.weight"].mul_(10.0)
        log_probs, _ = teacher(batch.feats, batch.lengths)
        lead = log_probs[:, :, 0] - log_probs[:, :, 1:].amax(-1)  # of the blank
        teacher.state_dict()["output.bias"][0] -= lead.quantile(0.25)
    return student, teacher


@pytest.mark.parametrize("frames", ["all", "spikes", "window"])
def test_a_taught_update_is_the_mean_over_the_frames_that_are_taught(tmp_path, frames):
    student, teacher = make_pair()
    config, optim = DistillConfig(kl_weight=0.75, frames=frames, window=1), OptimConfig(clip_norm=1e9)
    reference, batch = copy.deepcopy(student), batch_of(MIXED, range(6))
    trainer = make_trainer(tmp_path, student, taught_by(config, student, teacher), optim=optim)
    found = gradient(trainer, [batch])
    taught_loss(reference.train(), teacher, batch, config).backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frames", ["all", "spikes", "window"])
def test_an_update_does_not_depend_on_how_its_group_is_split(tmp_path, capsys, frames):
    """Gradient and reported loss of six utterances, the teacher nearly silent in the first three, in one micro-batch or several,
    with batches of weight 0 behind them."""
    config, optim = DistillConfig(kl_weight=0.75, frames=frames, window=1), OptimConfig(clip_norm=1e9)
    gradients, losses = [], []
    filler = dataclasses.replace(batch_of(MIXED, [4]), weight=0.0)
    for number, split in enumerate(([[6, 8, 9, 5, 3, 0]], [[6, 8, 9], [5, 3, 0]], [[6], [8, 9, 5], [3, 0]])):
        student, teacher = make_pair()
        objective = taught_by(config, student, teacher)
        trainer = make_trainer(tmp_path / str(number), student, objective, optim=optim)
        trainer.monitor.start(0)
        gradients.append(gradient(trainer, [*(batch_of(MIXED, indices) for indices in split), *[filler] * number]))
        trainer.monitor.report()
        losses.append(float(re.search(r" loss ([\d.]+) ", capsys.readouterr().out)[1]))
    assert losses == pytest.approx([losses[0]] * 3, abs=2e-4)
    for name, whole in gradients[0].items():
        for other in gradients[1:]:
            torch.testing.assert_close(other[name], whole, rtol=1e-4, atol=1e-6)

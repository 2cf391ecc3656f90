"""Looks at a finished training, gathers what the doctor needs to know, and keeps what it says in the model folder."""

import dataclasses
import statistics
from collections import Counter
from pathlib import Path

from steps.core.cli import UserError, say
from steps.core.copies import is_copy
from steps.core.outdir import write_json
from steps.core.sound import sound_info
from steps.core.tables import counted
from steps.data.dataset import SpeechDataset
from steps.data.tokenizer import Tokenizer
from steps.models.asr_model import AsrModel
from steps.models.normalisation import GLOBAL, SLIDING, UTTERANCE
from steps.scoring.history import read_curves
from steps.scoring.sources import read_json
from steps.training.doctor import Finding, SetFacts, TrainingFacts, diagnose
from steps.training.monitor import error_rates, recognise_set
from steps.training.settings import LearningConfig

FILE = "diagnosis.json"
# utterances of the training set that are recognised again; of each set, that are looked at otherwise; files opened
RECOGNISED, LOOKED_AT, OPENED = 60, 1000, 10
# More characters a word: a script without blanks, whose characters are counted.
LONGEST_WORDS = 12


def examine(
    folder: Path,
    model: AsrModel,
    train: SpeechDataset,
    dev: SpeechDataset,
    tokenizer: Tokenizer,
    config: LearningConfig,
    fresh: bool,
) -> list[Finding]:
    """Diagnose a finished training, say and write what was found.

    Args: folder: of the model; run.json tells its updates and its rates on dev.   model: with the weights that ship.
          fresh: whether the training began with random weights.
    """
    facts = gather(folder, model, train, dev, tokenizer, config, fresh)
    findings = diagnose(facts)
    looked_at = {"train_error": facts.train.error, "dev_error": facts.dev.error, "rate": facts.rate}
    write_json(
        folder / FILE,
        {"findings": [dataclasses.asdict(one) for one in findings], **looked_at, "recognised": RECOGNISED},
    )
    say(
        f"on its own training set: {facts.train.error:.2f} % {facts.rate} ({counted(len(facts.train.tokens), 'utterance')})"
    )
    for one in findings:
        say(f"{'warning' if one.serious else 'note'}: {one.text}")
    return findings


def gather(
    folder: Path,
    model: AsrModel,
    train: SpeechDataset,
    dev: SpeechDataset,
    tokenizer: Tokenizer,
    config: LearningConfig,
    fresh: bool,
) -> TrainingFacts:
    """The facts of a training; see `examine`."""
    run, part = read_json(folder / "run.json"), train.sample(RECOGNISED)
    device = model.feature_mean.device
    _, refs, hyps = recognise_set(model, part, tokenizer, config.loop.max_batch_frames, device)
    rate = (
        "wer"
        if sum(map(len, refs.values())) <= LONGEST_WORDS * sum(len(text.split()) for text in refs.values())
        else "cer"
    )
    own = look_at(part, train, error_rates(refs, hyps)[rate])
    curves = read_curves(folder.parent, [folder.name])
    losses, taught = (
        [value for _, value in curves.get(f"train/{name}", {}).get(folder.name, [])] for name in ("loss", "kl")
    )
    augment = config.augment and config.augment.in_epoch(0, config.loop.epochs)
    first = Counter((text.split() or [""])[0] for text in refs.values())
    return TrainingFacts(
        train=dataclasses.replace(own, empty=sum(not text for text in hyps.values()) / len(hyps)),
        dev=look_at(dev.sample(RECOGNISED), dev, run[f"dev_{rate}"]),
        updates=run["steps"],
        rate=rate.upper(),
        fresh=fresh,
        losses=losses,
        taught=taught,
        max_batch_frames=config.loop.max_batch_frames,
        peak_lr=config.optim.peak_lr,
        spaces_at_ends=None if tokenizer.space_id is None else config.end_spaces,
        first_word=max(first.values()) / len(refs),
        deviation=float(1 / model.feature_scale.min()),
        rates_hz=rates(train.sample(OPENED)),
        features_hz=train.feature_config.sample_rate_hz,
        normalisation=other_normalisation(model),
        early_masks=augment is not None and max(augment.freq_masks, augment.time_masks) > 0,
        words=statistics.median(len(text.split()) if rate == "wer" else len(text) / 4 for text in refs.values()),
    )


def other_normalisation(model: AsrModel) -> str:
    """The normalisation for speakers and microphones that are in no training set, if the model has it not and can; else empty."""
    if model.kind == "hub" or model.normalisation != GLOBAL:
        return ""
    return SLIDING if model.streaming else UTTERANCE


def look_at(part: SpeechDataset, whole: SpeechDataset, error: float) -> SetFacts:
    """The facts of one data set. Args: part: a sample of `whole`.   error: percent."""
    tokens = [part.tokens(index) for index in range(len(part))]
    more = whole.sample(LOOKED_AT)
    spoken = [more.utterance(index) for index in range(len(more))]
    # copies at other speeds have speakers of their own
    own = [utt for utt in spoken if utt.speed == 1.0] or spoken
    # as have copies for more weight
    speakers = {utt.speaker for utt in own}
    count = sum(map(len, tokens))
    return SetFacts(
        speakers=sum(not is_copy(speaker, speakers) for speaker in speakers),
        error=error,
        tokens=[len(ids) for ids in tokens],
        frames=part.num_frames.tolist(),
        unknown=sum(ids.count(Tokenizer.unknown_id) for ids in tokens) / max(count, 1),
        dropped=len(whole.dropped) / (len(whole) + len(whole.dropped)),
    )


def rates(part: SpeechDataset) -> Counter[int]:
    """Rates of the sound files of these utterances, those that can still be read, counted."""
    found: Counter[int] = Counter()
    for index in range(len(part)):
        try:
            found[sound_info(part.utterance(index).audio, guess=True).rate_hz] += 1
        except UserError:
            continue
    return found

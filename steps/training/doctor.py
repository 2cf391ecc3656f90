"""What is wrong with a training, in words, from facts about it: no files are read here and no model is run.

Every rule asks for a sign of failure besides its own number, so that a training that works is left alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

# A set counts as learnt badly from this error rate on, %: half-trained models of small recipes lie below.
BAD_RATE = 30.0
# Fewer rarely suffice from fresh weights; and the error rate on the training set from which on that matters, %.
FEW_UPDATES, UNFINISHED = 1000, 15.0
# Feature frames; smaller batches are not proposed.
SMALL_BATCH = 500
# Dev may be this much worse than the training set, points, or this many times.
GAP, RATIO = 15.0, 1.8
# How far the loss may lie above its lowest at the end, and in between.
RISE, RISE_BETWEEN = 1.3, 1.5
# Peak rates below are rarely enough for random weights.
LOW_RATE = 3.0e-4
# Words of a usual utterance from which on pieces of it are worth a trial.
SEVERAL_WORDS = 3
# Share of utterances with the same first word from which on it can be written without listening.
USUAL = 0.5
# Least spread of transcript lengths, as a share of their mean, that tells anything about recordings, and utterances for it.
SPREAD, ENOUGH = 0.2, 30


@dataclass(frozen=True)
class SetFacts:
    """One data set. error: percent of words (or characters, `rate`), greedy.   empty: share of utterances without any text, 0..1.

    tokens, frames: of each utterance that was looked at.
    unknown: share of tokens that the tokenizer lacks.   dropped: share of utterances too short for their transcript.
    """

    speakers: int
    error: float
    empty: float = 0.0
    tokens: Sequence[int] = ()
    frames: Sequence[int] = ()
    unknown: float = 0.0
    dropped: float = 0.0


@dataclass(frozen=True)
class TrainingFacts:
    """One training.

    updates: done.   rate: WER or CER.   fresh: whether the training began with random weights.   losses, taught: of training, in
    order, nats a frame: the whole, and the KL to teachers, if any.   max_batch_frames, peak_lr: settings.
    spaces_at_ends: whether transcripts end with the space between words; None: the tokenizer has no such token.
    first_word: share of the utterances that begin with the most frequent first word, 0..1.
    deviation: largest deviation of a feature bin over the training set, nats.   rates_hz: {rate of the sound: number of
    files looked at}.   features_hz: rate the features are computed at.
    normalisation: one that knows strangers better than the model's; empty: none.
    early_masks: whether SpecAugment's masks are there from the first epoch on.   words: of the median training utterance,
    four characters for one where there are no blanks.
    """

    train: SetFacts
    dev: SetFacts
    updates: int
    rate: str = "WER"
    fresh: bool = True
    losses: Sequence[float] = ()
    taught: Sequence[float] = ()
    max_batch_frames: int = 12000
    peak_lr: float = 0.0
    spaces_at_ends: bool | None = None
    first_word: float = 0.0
    deviation: float = 3.0
    rates_hz: Mapping[int, int] = field(default_factory=dict)
    features_hz: int = 16000
    normalisation: str = "utterance"
    early_masks: bool = False
    words: float = 5.0


@dataclass(frozen=True)
class Finding:
    """kind: a short name.  text: what is wrong and what to do, one sentence or two.  serious: a fault of the training; else
    something to know about its numbers."""

    kind: str
    text: str
    serious: bool = True


def diagnose(facts: TrainingFacts) -> list[Finding]:
    """All findings, the likeliest cause first; an empty list for a training that works."""
    rules = (sound, labels, teaching, course, output, fit, first_word, few_updates, speakers)
    return [finding for rule in rules for finding in rule(facts)]


def is_bad(facts: TrainingFacts) -> bool:
    """Whether the model fails on what it was trained on."""
    return facts.train.error >= BAD_RATE


def sound(facts: TrainingFacts) -> Iterator[Finding]:
    """Sound that cannot be what the features are for."""
    files = sum(facts.rates_hz.values())
    low = {hz: count for hz, count in facts.rates_hz.items() if hz < 0.75 * facts.features_hz}
    if files and sum(low.values()) > files / 2:
        rate = max(low, key=low.__getitem__)
        yield Finding(
            "rate",
            f"The sound has {rate} Hz, the features are computed at {facts.features_hz} Hz: the upper bins are empty. "
            f"Set sample_rate_hz: {rate} and fewer bins in features.yaml.",
        )
    if facts.deviation < 0.5:
        yield Finding(
            "silence",
            f"The features hardly change (deviation of the liveliest bin {facts.deviation:.2f} nats; speech has about 3): "
            "the sound files seem to be silent. Listen to some.",
        )


def labels(facts: TrainingFacts) -> Iterator[Finding]:
    """Transcripts that do not belong to their sound, or cannot be written in the units."""
    train = facts.train
    if train.dropped > 0.05:
        yield Finding(
            "too_short",
            f"{100 * train.dropped:.0f} % of the training utterances are too short for their transcript and were left out: "
            "transcripts of other recordings, limits in the wrong unit, or units that are too small.",
        )
    if max(train.unknown, facts.dev.unknown) > 0.01:
        yield Finding(
            "unknown",
            f"{100 * max(train.unknown, facts.dev.unknown):.1f} % of the characters are not in the tokenizer: make text of "
            "all sets alike (case, punctuation) in the preparation, or train the tokenizer anew.",
        )
    related = correlation(train.tokens, train.frames)
    if is_bad(facts) and related is not None and related < 0.2:
        yield Finding(
            "labels",
            f"Long transcripts do not belong to long recordings (correlation {related:.2f}): text and sound may be paired "
            "wrongly. Listen to some and read along.",
        )


def teaching(facts: TrainingFacts) -> Iterator[Finding]:
    """Teachers that say nothing where they would be listened to."""
    if facts.taught and not any(facts.taught):
        yield Finding(
            "untaught",
            "No frame was taught: the teachers say nothing but blanks, which distill.frames: spikes and window leave out, or more "
            "units than the student has frames. Look at how the teachers decode; frames: all teaches blanks, too.",
        )


def course(facts: TrainingFacts) -> Iterator[Finding]:
    """A loss that does not fall, or rises again."""
    losses = facts.losses
    if len(losses) < 3 or not is_bad(facts):
        return
    last = losses[-1]
    rises = [(min(losses[:i]), loss) for i, loss in enumerate(losses) if i]
    between = max(rises, key=lambda rise: rise[1] / rise[0])
    at_end = (min(losses), last)
    for (lowest, highest), factor in ((at_end, RISE), (between, RISE_BETWEEN)):
        if highest > factor * lowest:
            yield Finding(
                "diverged",
                f"The training loss rose from {lowest:.3f} to {highest:.3f} nats a frame: the learning rate is too high. "
                f"Lower optim.peak_lr ({facts.peak_lr:g}).",
            )
            return
    early = losses[len(losses) // 4]
    if last > 0.85 * early:
        yield Finding(
            "not_falling",
            f"The training loss did not fall any more after a quarter of the training ({early:.3f}, at the end {last:.3f} "
            f"nats a frame): the learning rate is far too high or too low (optim.peak_lr: {facts.peak_lr:g}), or the "
            "transcripts do not belong to the sound.",
        )


def output(facts: TrainingFacts) -> Iterator[Finding]:
    """A model that says nothing."""
    if facts.train.empty > 0.5:
        yield Finding(
            "blank",
            f"The model outputs nothing for {100 * facts.train.empty:.0f} % of its own training utterances: it still "
            "only knows the blank. Train longer.",
        )


def fit(facts: TrainingFacts) -> Iterator[Finding]:
    """Errors on the training set against those on dev."""
    train, dev = facts.train, facts.dev
    if is_bad(facts):
        remedy = (
            " Without masks at first (augment.masks_from: 0.2) it may." if facts.fresh and facts.early_masks else ""
        )
        if facts.fresh and 0 < facts.peak_lr < LOW_RATE:
            remedy += f" optim.peak_lr ({facts.peak_lr:g}) is low for random weights: 1e-3 to 1e-2 is usual."
        yield Finding(
            "underfit",
            f"{train.error:.0f} % {facts.rate} on its own training set ({dev.error:.0f} % on dev): it has not learnt the task."
            f"{remedy}",
        )
    elif dev.error > train.error + GAP and dev.error > RATIO * train.error:
        remedies = [
            "More speakers",
            *([f"normalisation: {facts.normalisation}"] if facts.normalisation else []),
            "a smaller model",
        ]
        remedies += ["pieces of a few words (run.sh --cut-with)"] if facts.words >= SEVERAL_WORDS else []
        yield Finding(
            "overfit",
            f"{dev.error:.0f} % {facts.rate} on dev, {train.error:.0f} % on its own training set: it has learnt these utterances by heart "
            f"or does not know such speakers. {', '.join(remedies[:-1])}, or {remedies[-1]} may help.",
        )


def first_word(facts: TrainingFacts) -> Iterator[Finding]:
    """Words that are written into the silence at the start."""
    if facts.spaces_at_ends is False and facts.first_word > USUAL and facts.train.error >= UNFINISHED:
        yield Finding(
            "first_word",
            f"{100 * facts.first_word:.0f} % of the training utterances begin with the same word, which can be written into "
            "the silence before it without listening: end_spaces: true gives that silence a token of its own.",
        )


def few_updates(facts: TrainingFacts) -> Iterator[Finding]:
    """Too short a training."""
    if facts.fresh and facts.updates < FEW_UPDATES and facts.train.error >= UNFINISHED:
        frames = round(facts.max_batch_frames * facts.updates / (3 * FEW_UPDATES))
        smaller = f", or take smaller batches (loop.max_batch_frames: {frames} instead of {facts.max_batch_frames})"
        yield Finding(
            "updates",
            f"Only {facts.updates:,} updates; a fresh model rarely does with fewer than a few thousand. Raise loop.epochs"
            f"{smaller if frames >= SMALL_BATCH else ''}.",
        )


def speakers(facts: TrainingFacts) -> Iterator[Finding]:
    """Sets whose numbers say nothing about other people."""
    one = [name for name, found in (("train", facts.train), ("dev", facts.dev)) if found.speakers == 1]
    if one:
        yield Finding(
            "one_speaker",
            f"{' and '.join(one)} {'have' if len(one) > 1 else 'has'} one speaker: expect more errors of anybody else. "
            "Where files have no speakers, name them in the preparation.",
            serious=False,
        )


def correlation(one: Sequence[int], other: Sequence[int]) -> float | None:
    """Pearson's, of numbers that vary enough to tell anything; else None."""
    count = len(one)
    if count < ENOUGH or count != len(other):
        return None
    means = sum(one) / count, sum(other) / count
    pairs = [(a - means[0], b - means[1]) for a, b in zip(one, other, strict=True)]
    squares = [sum(pair[i] ** 2 for pair in pairs) for i in (0, 1)]
    if any((square / count) ** 0.5 < SPREAD * mean for square, mean in zip(squares, means, strict=True)):
        return None
    return sum(a * b for a, b in pairs) / (squares[0] * squares[1]) ** 0.5

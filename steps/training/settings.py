"""Settings of the programs that train."""

from dataclasses import dataclass, field

from steps.compress.fake_quant import RoundedConfig
from steps.core.config import LATER, check
from steps.data.augment import SpecAugmentConfig
from steps.models.heads import DEFAULT
from steps.models.heads.ctc import CtcConfig
from steps.models.heads.transducer import TransducerConfig
from steps.models.normalisation import GLOBAL, NORMALISATIONS
from steps.training.distill_config import DistillConfig
from steps.training.inherit import InheritConfig
from steps.training.loop import LoopConfig
from steps.training.optim import OptimConfig


@dataclass(kw_only=True)
class LearningConfig:
    """Settings of every program that trains. source: `ark` (features of stage 1) or `on_the_fly`.
    augment: null switches SpecAugment off.  ctc, transducer: the loss of such a head.  distill: used where there is a teacher.
    end_spaces: transcripts of characters begin and end with a space, so that silence at the ends of a recording is the same
    token as between words; without, a small corpus can teach to write its usual first word there."""

    source: str = "ark"
    loop: LoopConfig = field(default_factory=LoopConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: SpecAugmentConfig | None = field(default_factory=SpecAugmentConfig)
    ctc: CtcConfig = field(default_factory=CtcConfig)
    transducer: TransducerConfig = field(default_factory=TransducerConfig, metadata=LATER)
    distill: DistillConfig = field(default_factory=DistillConfig)
    end_spaces: bool = field(default=False, metadata=LATER)

    def __post_init__(self):
        check(self.source in ("ark", "on_the_fly"), "source must be ark or on_the_fly")
        wave = self.augment is not None and self.augment.wave is not None
        check(not wave or self.source == "on_the_fly", "augment.wave needs source: on_the_fly")


@dataclass(kw_only=True)
class TrainConfig(LearningConfig):
    """Settings of a training of a teacher or a student.

    type: conformer, rnn, dnn, or hub, for a model from a hub (with --init or `inherit`).  model: its sizes, keys of that kind's
    config class.  head: ctc or transducer.  head_sizes: sizes of the head, keys of its class of sizes.
    normalisation: what features are centred and scaled by: `global`, mean and deviation of the corpus; `utterance`, the mean of
    the utterance instead; `utterance_variance`, its deviation, too; `sliding`, the mean of what has been heard so far, for models
    that stream.
    max_look_ahead_ms: refuse a model that needs to hear further ahead than this; null: no limit.
    freeze: with --init, what stays as it is: frontend, or encoder, which includes it; null: nothing.
    inherit: of a student, the blocks of a larger model that it begins with, whose widths it has.
    quantization: train with rounded weights from the first update on; the finished model has codes, as from steps.quantize_model.
    """

    type: str = "conformer"
    model: dict = field(default_factory=dict)
    head: str = DEFAULT
    head_sizes: dict = field(default_factory=dict, metadata=LATER)
    normalisation: str = field(default=GLOBAL, metadata=LATER)
    max_look_ahead_ms: float | None = None
    freeze: str | None = field(default=None, metadata=LATER)
    inherit: InheritConfig | None = field(default=None, metadata=LATER)
    quantization: RoundedConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        super().__post_init__()
        known = ", ".join(NORMALISATIONS)
        check(self.normalisation in NORMALISATIONS, f"normalisation must be one of {known}, not {self.normalisation!r}")
        check(self.freeze in (None, "frontend", "encoder"), "freeze must be frontend or encoder, or left out")
        check(
            not (self.freeze and self.quantization),
            "freeze: rounding leaves no weight as it is; leave out quantization",
        )
        limit = self.max_look_ahead_ms
        check(limit is None or limit >= 0, "max_look_ahead_ms must be 0 or more")

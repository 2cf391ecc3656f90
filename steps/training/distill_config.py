"""Settings of teaching: how a student learns from what its teachers say."""

from dataclasses import dataclass, field

from steps.core.config import LATER, check


@dataclass
class DistillConfig:
    """How a student is taught.

    kl_weight: share of the frame-wise KL, the rest is CTC, 0..1.  temperature: softens both posteriors, > 0.
    frames: `all`, `spikes` (teacher not blank) or `window` (spikes and `window` frames around them); the mean is over the
    chosen frames of each batch.
    teacher_view: `augmented`, the same features as the student, or `clean`: the teachers label each utterance once, as it is,
    and the labels stay in memory (25 frames a second x vocabulary x 2 bytes): much faster on small corpora. Labels stored by
    steps.label_data are clean ones either way.
    weighting: of several teachers, `equal`, or `error`: by 1 / word error rate on dev. The first one sets the frames: the
    others' peaks are laid on its peaks.
    intermediate_weight: share of the KL given to the student's middle block, through its own output layer, 0..1; 0: off.
    late: most frames by which the student's peaks may come after the teacher's, for a streaming student of a teacher that
    hears whole utterances; needs frames: all.
    hidden_weight: added weight of hidden-layer matching, 0: off.  hidden_layers: pairs [student block, teacher block] counted
    from 0 (last: -1); default: the last of each; with several teachers, the first is matched.
    hidden_only: the last of several teachers is matched and teaches nothing else, whatever its units.
    hidden_norm: each frame of the teacher's states is brought to mean 0 and variance 1 first, for encoders whose states have a
    few huge channels (Whisper's last block: 230 beside 1).
    lattice_weight: added weight of the lattice of a transducer teacher, the first one, for a transducer student: at each node
    the posteriors of blank, next unit and all others; 0: off.
    """

    kl_weight: float = 0.5
    temperature: float = 1.0
    frames: str = "all"
    window: int = 2
    teacher_view: str = "augmented"
    weighting: str = field(default="equal", metadata=LATER)
    intermediate_weight: float = 0.0
    late: int = field(default=0, metadata=LATER)
    hidden_weight: float = 0.0
    hidden_layers: list[list[int]] | None = None
    hidden_only: bool = field(default=False, metadata=LATER)
    hidden_norm: bool = field(default=False, metadata=LATER)
    lattice_weight: float = field(default=0.0, metadata=LATER)

    def __post_init__(self):
        check(0 <= self.kl_weight <= 1, "kl_weight must be in [0, 1]")
        check(self.temperature > 0, "temperature must be > 0")
        check(self.frames in ("all", "spikes", "window"), "frames must be all, spikes or window")
        check(self.window >= 0, "window must be >= 0")
        check(self.teacher_view in ("augmented", "clean"), "teacher_view must be augmented or clean")
        check(self.weighting in ("equal", "error"), "weighting must be equal or error")
        check(0 <= self.intermediate_weight < 1, "intermediate_weight must be in [0, 1)")
        check(self.kl_weight or not self.intermediate_weight, "intermediate_weight needs a kl_weight above 0")
        check(0 <= self.late <= 50, "late must be 0 to 50 frames")
        check(not self.late or (self.kl_weight and self.frames == "all"), "late needs a kl_weight and frames: all")
        check(self.hidden_weight >= 0, "hidden_weight must be >= 0")
        check(self.lattice_weight >= 0, "lattice_weight must be >= 0")
        weights = self.kl_weight, self.hidden_weight, self.lattice_weight
        check(any(weights), "kl_weight, hidden_weight and lattice_weight are all 0: nothing is distilled")
        clean = self.teacher_view == "clean"
        check(not (clean and self.lattice_weight), "lattice_weight needs teacher_view: augmented")
        check(
            all(len(pair) == 2 for pair in self.hidden_layers or []), "hidden_layers must be pairs [student, teacher]"
        )
        check(self.hidden_weight or not self.hidden_norm, "hidden_norm needs a hidden_weight above 0")
        both = self.hidden_weight and self.kl_weight
        check(both or not self.hidden_only, "hidden_only needs a hidden_weight and a kl_weight above 0")

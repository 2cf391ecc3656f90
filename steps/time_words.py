"""How long after its end a word comes out of a streaming model.

    python3 -m steps.time_words --model exp/an4_streaming/student_kd --reference exp/an4_streaming/teacher \\
        --data data/an4_streaming/test --out exp/an4_streaming/student_kd/delays_test.json

Where a word ends is what --reference, a model with the same units, makes of the transcript (forced alignment); one that
streams hears whole utterances for that. The word is out with the chunk in which --model, CTC or a transducer, emits its
last unit, once all sound that this chunk reads is there. Counted are the words of utterances that are recognised without an
error. Computing takes no time here: steps.benchmark has that. All this is of the model folder in torch, which gets no silence
after a recording; an export does, and may round activations that are float here.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from steps.core.cli import UserError, make_parser, parse_count, run_main, say
from steps.core.datadir import read_data_dir
from steps.core.exports import folder_kind, model_hashes
from steps.core.outdir import write_json
from steps.core.tables import counted
from steps.data.feature_config import FeatureConfig
from steps.deploy.export import use_chunk
from steps.deploy.recognition import open_inputs
from steps.deploy.runtimes import frame_recogniser, load_recogniser
from steps.deploy.runtimes.ctc import CtcRecogniser, load_tokenizer
from steps.deploy.runtimes.transducer import TransducerRecogniser
from steps.models.asr_model import AsrModel
from steps.models.build import read_spec
from steps.models.streaming import FRAME_MS
from steps.models.subsampling import CENTRE, STRIDE
from steps.search.alignment import CannotAlign, align_units, spoken_tokens
from steps.search.greedy import greedy_search

# percent of the words
SHARES = (50, 95)


@dataclass(frozen=True)
class Clock:
    """When things happen, in ms of sound. features: what is heard.   chunk: encoder frames.   ahead: feature frames that the
    chunk reads beyond those that its encoder frames stand for."""

    features: FeatureConfig
    chunk: int
    ahead: int

    def middle_ms(self, frame: int) -> float:
        """The middle of what an encoder frame hears."""
        return self._middle_of(STRIDE * frame + CENTRE)

    def out_ms(self, frame: int) -> float:
        """When all sound that the frame's chunk reads is there."""
        last = STRIDE * (frame // self.chunk + 1) * self.chunk + self.ahead - 1
        return self._middle_of(last) + self.features.frame_length_ms / 2

    def _middle_of(self, feature_frame):
        first = self.features.frame_length_ms if self.features.snip_edges else self.features.frame_shift_ms
        return first / 2 + feature_frame * self.features.frame_shift_ms


def main() -> None:
    args = parse_args()
    facts: dict[str, Any] = {"files": model_hashes(args.model), "reference": Path(args.reference).resolve().name}
    if Path(args.reference).resolve().parent == Path(args.model).resolve().parent:
        # by its name the report finds it
        facts["reference_files"] = model_hashes(args.reference)
    model, reference = open_model(args.model, args.num_threads), frame_recogniser(args.reference, args.num_threads)
    own = net_of(model, args.model)
    use_chunk(own, args.chunk_ms, args.model)
    if not own.chunk:
        raise UserError(f"{args.model}: hears whole utterances; give --chunk-ms to a model that streams")
    whole = net_of(reference, args.reference)
    if reference.tokens != model.tokens or whole.frontend.stride != STRIDE:
        raise UserError(f"{args.reference}: its units or frames differ from those of {args.model}")
    if whole.chunk:
        # in chunks, its own peaks would be late
        whole.use_chunk(0)
    clock = Clock(model.features, own.chunk, int(own.frontend.look_ahead) + STRIDE * own.ahead)
    utterances, tokenizer = read_data_dir(args.data), load_tokenizer(args.model)
    ids = {utt.utt_id: tokenizer.encode(utt.text) for utt in utterances}
    said = outputs_of(model, args.data, utterances, args.model)
    true = outputs_of(reference, args.data, utterances, args.reference)
    peaks_ms, outs_ms, right = [], [], 0
    for utt_id, heard in said.items():
        found = delays(heard, true[utt_id], ids[utt_id], model, clock) if utt_id in true else []
        right += bool(found)
        peaks_ms += [peak for peak, _ in found]
        outs_ms += [out for _, out in found]
    facts |= {"utterances": right, "of": len(utterances), "words": len(outs_ms), "chunk_ms": own.chunk * FRAME_MS}
    write_json(args.out, facts | {"peak_ms": percentiles(peaks_ms), "out_ms": percentiles(outs_ms)})
    say(
        f"{counted(len(outs_ms), 'word')} of {right} of {counted(len(utterances), 'utterance')}, chunks of {facts['chunk_ms']} ms"
    )
    if not right:
        say(f"{args.model} recognises no utterance of {args.data} without an error: nothing to time")
        return
    for text, values in (("emitted", peaks_ms), ("out with its chunk", outs_ms)):
        middle, late = percentiles(values).values()
        say(f"{text}: {middle:.0f} ms after the end of the word (median), {late:.0f} ms (95 %)")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="streaming model folder")
    parser.add_argument("--reference", required=True, metavar="DIR", help="model folder that tells where words end")
    parser.add_argument("--data", required=True, metavar="DIR", help="data folder with transcripts")
    parser.add_argument("--chunk-ms", type=int, metavar="MS", help="length of the chunks (default: the model's own)")
    parser.add_argument("--out", required=True, metavar="PATH", help="JSON file to write")
    parser.add_argument("--num-threads", type=parse_count, default=1, metavar="N", help="CPU threads (default: 1)")
    return parser.parse_args()


def open_model(folder: str, num_threads: int) -> CtcRecogniser | TransducerRecogniser:
    """The model that is timed. Raises: MissingInput, UserError."""
    if folder_kind(folder) == "model" and read_spec(folder).get("head") == "transducer":
        return cast(TransducerRecogniser, load_recogniser(folder, num_threads=num_threads))
    return frame_recogniser(folder, num_threads)


def net_of(recogniser: CtcRecogniser | TransducerRecogniser, folder: str) -> AsrModel:
    """The model behind a recogniser. Raises: UserError for an export."""
    net = getattr(recogniser.model, "model", None)
    if net is None:
        raise UserError(f"{folder}: an exported folder does not tell its frames; name the model folder")
    return cast(AsrModel, net)


def outputs_of(
    recogniser: CtcRecogniser | TransducerRecogniser, data: str, utterances: Sequence, folder: str
) -> dict[str, np.ndarray]:
    """Log-probabilities (T', V) of each utterance that is heard in one piece, by id; of a transducer what its encoder gives."""
    run = recogniser.encode if isinstance(recogniser, TransducerRecogniser) else recogniser.log_probs
    inputs = open_inputs(recogniser, data, list(utterances), folder)
    heard = {utt.utt_id: list(inputs(utt)) for utt in utterances}
    return {utt_id: run(pieces[0]) for utt_id, pieces in heard.items() if len(pieces) == 1}


def delays(
    said: np.ndarray,
    true: np.ndarray,
    ids: Sequence[int],
    recogniser: CtcRecogniser | TransducerRecogniser,
    clock: Clock,
) -> list[tuple[float, float]]:
    """How late the words of one utterance are.

    Args:    said, true: of the model and of the reference, see `outputs_of`.   ids: of the transcript.
    Returns: ms from the end of each word until its last unit is emitted, and until it is out; none where the model recognises
             another text, or one of the two cannot be aligned.
    """
    try:
        frames = complete_frames(said, ids, recogniser)
        words = align_units(true, ids, recogniser.tokens, recogniser.blank_id) if frames else []
    except CannotAlign:
        return []
    if len(words) != len(frames):
        # the same text in other units, in a script without spaces
        return []
    ends = [clock.middle_ms(word.end - 1) for word in words]
    return [(clock.middle_ms(frame) - end, clock.out_ms(frame) - end) for frame, end in zip(frames, ends, strict=True)]


def complete_frames(
    said: np.ndarray, ids: Sequence[int], recogniser: CtcRecogniser | TransducerRecogniser
) -> list[int]:
    """The encoder frames with which greedy search has each word of a transcript. Args: see `delays`.

    Returns: none where it recognises another text.   Raises: CannotAlign.
    """
    emitted = None
    if isinstance(recogniser, TransducerRecogniser):
        heard, frames = recogniser.emissions(said)
        emitted = [frames[spoken[-1]] for _, _, spoken in spoken_tokens(heard, recogniser.tokens)]
    else:
        (heard,) = greedy_search(said[None], [len(said)], recogniser.blank_id)
    if not ids or recogniser.text(heard).split() != recogniser.text(list(ids)).split():
        return []
    if emitted is not None:
        return emitted
    # of the units that it emits, which may spell the text in another way than the transcript's
    return [word.complete for word in align_units(said, heard, recogniser.tokens, recogniser.blank_id)]


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """The delays within which so many percent of the words lie, in ms; None without words."""
    return {f"p{share}": round(float(np.percentile(values, share)), 1) if values else None for share in SHARES}


if __name__ == "__main__":
    sys.exit(run_main(main))

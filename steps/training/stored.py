"""A teacher whose labels were stored by `steps.label_data`: looked up by utterance, nothing is computed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from steps.core.cli import UserError
from steps.core.outdir import sha256_file
from steps.data.dataset import SpeechDataset
from steps.data.labels import FILE, Labels, read_facts
from steps.training.teaching import Taught

# utterances looked at together
CHUNK = 10_000


class StoredTeacher:
    """The labels of one teacher; the fields of Teacher but `features`, and `look_up` instead of `teach`.

    Args: labels: opened.   name: folder, for messages.
    """

    def __init__(self, labels: Labels, name: str):
        own = labels.description
        self.labels, self.name, self.vocabulary = labels, name, own.vocabulary
        self.frame_shift_ms, self.depth, self.width = own.frame_shift_ms, own.depth if own.places else 0, own.width
        self.places, self.dev_wer = own.places, own.dev_wer

    def check_data(self, data: SpeechDataset) -> str:
        """Refuse a data folder that the labels are not of.

        Returns: a line to say.   Raises: UserError naming an utterance and the remedy.
        """
        shift_ms = data.feature_config.frame_shift_ms
        remedy = f"label {data.folder} (steps.label_data)"
        for start in range(0, len(data), CHUNK):
            ids = [data.utt_id(index) for index in range(start, min(start + CHUNK, len(data)))]
            numbers = self.labels.find(ids)
            if (missing := np.flatnonzero(numbers < 0)).size:
                raise UserError(
                    f"{self.name}: has no labels of {ids[missing[0]]} and {missing.size - 1} more; {remedy}"
                )
            own_s = data.num_frames[start : start + CHUNK] * shift_ms
            theirs_s = self.labels.frames(numbers) * self.frame_shift_ms
            wrong = np.flatnonzero(np.abs(own_s - theirs_s) > 100 + 2 * self.frame_shift_ms + 0.02 * own_s)
            if wrong.size:
                at = wrong[0]
                what = f"{ids[at]} has {own_s[at] / 1000:.2f} s, its labels are of {theirs_s[at] / 1000:.2f} s"
                raise UserError(f"{self.name}: {what}; {remedy} again")
        return f"teacher labels: stored in {self.name}, of clean speech whatever distill.teacher_view says"

    def look_up(self, utt_ids: Sequence[str], device: torch.device) -> Taught:
        """What was said about some utterances. Returns: see Taught; hidden: empty tensors for layers not stored."""
        numbers = self.labels.find(utt_ids)
        if (numbers < 0).any():
            raise UserError(f"{self.name}: has no labels of {utt_ids[int((numbers < 0).argmax())]}")
        read = [self.labels.read(int(number)) for number in numbers]
        rows = [torch.from_numpy(posteriors.expand()) for posteriors, _ in read]
        hidden = [torch.empty(0)] * (self.depth + 1 if self.places else 0)
        for layer, place in enumerate(self.places):
            own = [torch.tensor(states[layer].astype(np.float32)) for _, states in read]
            hidden[place] = pad_sequence(own, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows])
        return Taught(pad_sequence(rows, batch_first=True).to(device), lengths.to(device), hidden)


def open_stored(folder: str | Path) -> list[StoredTeacher]:
    """The teachers whose labels a folder holds. Raises: MissingInput, UserError."""
    facts = read_facts(folder)
    several = facts["teachers"] > 1
    check_sizes(folder, facts["files"])
    teachers = []
    for number in range(1, facts["teachers"] + 1):
        labels = Labels(folder, number, facts["parts"])
        teachers.append(StoredTeacher(labels, f"{folder} ({labels.description.teacher})" if several else str(folder)))
    return teachers


def check_sizes(folder: str | Path, files: dict) -> None:
    """Refuse a folder whose files are not those that labels.json lists, by their sizes."""
    for name, facts in files.items():
        path = Path(folder) / Path(str(name)).name
        size = path.stat().st_size if path.is_file() else None
        if not isinstance(facts, dict) or size != facts.get("bytes"):
            raise UserError(f"{path}: not the file that {FILE} names; run steps.label_data again")


def stored_identity(folder: str | Path) -> str:
    """What a training records about stored labels: labels.json has the hashes of all files."""
    return sha256_file(Path(folder) / FILE)

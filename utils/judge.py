"""Which tasks of a plan have to run, and why. Standard library only."""

import os

from inputs import changed_files, digest
from marks import changes
from plan import StageError


class Verdict:
    """What to do with a task.

    Args:   redo: why it has to run, None when up to date.   mark: its new mark.
            resume: the same work was done or begun before, so its partial outputs may be gone on with.
    """

    def __init__(self, redo, mark, resume):
        self.redo, self.mark, self.resume = redo, mark, resume


class Judge:
    """Compares tasks with the marks of earlier runs. Args: makers: the task that makes each file.   force: redo every task."""

    def __init__(self, marks, makers, force):
        self.marks, self.makers, self.force = marks, makers, force

    def check_inputs(self, tasks):
        """Before anything runs: every input is there or is made by an earlier selected task."""
        made = set()
        for task in tasks:
            for path in (*task.needs, *task.conf):
                self.check_input(task, path, made)
            made.update(task.makes, ["@" + task.name])

    def check_input(self, task, path, made=()):
        maker = self.makers.get(path)
        there = self.marks.read(maker, "done") if path[:1] == "@" and maker else os.path.exists(path)
        if path not in made and not there:
            who = f"stage {maker.stage} ({maker.name}) makes it" if maker else "no stage makes it"
            raise StageError(5, f"{task}: needs {path}, which is not there; {who}")

    def verdict(self, task):
        """Compare the task with its marks. Returns: Verdict."""
        done, started = self.marks.read(task, "done"), self.marks.read(task, "started")
        old = done or started
        changed = self.changes(task, old) if old else []
        gone = [path for path in task.makes if not os.path.exists(path)]
        others = self.marks.replaced_outputs(task, done) if done and task.replaces else []
        if self.force:
            redo = "--force"
        elif changed:
            redo = "; ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
        elif others:
            redo = f"{others[0]} is not the one that was made here"
        elif done:
            redo = f"{gone[0]} is gone" if gone else None
        else:
            redo = "was interrupted" if started else "not done yet"
        generation = (old["generation"] if old else 0) + self.force
        mark = self.new_mark(task, generation) if redo else old
        return Verdict(redo, mark, resume=bool(old) and not (changed or others or self.force))

    def changes(self, task, old):
        """What differs from an older mark of the task. Returns: list of a few words each."""
        fingerprint = self.marks.fingerprint(task, self.makers, like=old["fingerprint"])
        listed = [changed for path in task.lists if os.path.isfile(path) for changed in changed_files(path)]
        return listed + changes(old["fingerprint"], fingerprint)

    def new_mark(self, task, generation):
        fingerprint = self.marks.fingerprint(task, self.makers)
        return {"id": digest([fingerprint, generation]), "generation": generation, "fingerprint": fingerprint}

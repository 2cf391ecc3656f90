"""The whole chain, killed again and again."""

import json
import os

from tests import kill_resume
from tests.chain import finished_work


def test_killed_five_times_it_ships_the_same_bytes(tmp_path_factory, tmp_path, capsys):
    work = finished_work(tmp_path_factory).copy
    models = ("teacher", "teacher_int8")
    expected = {name: value for name, value in kill_resume.digests(work).items() if not name.startswith("exp/")}
    expected |= {name: value for name, value in kill_resume.digests(work).items() if name.split("/")[2] in models}
    (tmp_path / "state.json").write_text(json.dumps({"reference": expected, "runs": []}))
    options = ["--kills", "5", "--runs", "1", "--seed", "1", "--nj", len(os.sched_getaffinity(0))]
    status = kill_resume.main([*map(str, options), "--models", " ".join(models), "--workdir", str(tmp_path)])
    said = capsys.readouterr().out
    assert status == 0 and "5 kills, identical" in said, said

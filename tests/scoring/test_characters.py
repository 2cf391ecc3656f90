"""The rate of characters beside that of words: in the tables where the recipe wants it, nowhere else."""

import dataclasses

from steps.core.outdir import write_json
from steps.score import score
from steps.scoring.collect import collect_rows
from steps.scoring.compare import compare
from steps.scoring.markdown import comparison_cells, result_cells, result_notes
from tests.scoring.made_up import UTTERANCES, make_model


def wanted(exp, model):
    """Score a model anew with `cer: true`."""
    folder = exp / model / "decode_test_onnx"
    write_json(folder / "decode.json", {"settings": {"cer": True}})
    score(folder, "greedy", UTTERANCES, "test")


def test_columns_stand_beside_those_of_words(tmp_path):
    for name, wrong in (("big", 2), ("small", 9)):
        make_model(tmp_path, name, wrong=wrong, parent=None if name == "big" else "big")
    plain, _ = result_cells(collect_rows(tmp_path, ["big", "small"], ["test"]))
    assert not any("CER" in title for title in plain)
    assert compare(tmp_path, [("small", "big")], ["test"])[0].cer_difference is None
    for name in ("big", "small"):
        wanted(tmp_path, name)
    rows = collect_rows(tmp_path, ["big", "small"], ["test"])
    header, table = result_cells(rows)
    place = header.index("greedy CER")
    assert header[place - 2 : place + 2] == ["greedy WER", "95 %", "greedy CER", "95 %"]
    assert [title for title in header if title not in ("greedy CER",)].count("95 %") == 2
    for cells, row in zip(table, rows, strict=True):
        found = row.scores["greedy"]
        assert cells[place] == f"{found.cer_percent:.2f}" and len(cells) == len(header)
        assert cells[place + 1] == f"{found.cer_interval.low:.1f} - {found.cer_interval.high:.1f}"
    assert "CER: character errors" in result_notes(rows)
    # a row of another run, without
    alone = dataclasses.replace(
        rows[1], scores={"greedy": dataclasses.replace(rows[1].scores["greedy"], cer_interval=None)}
    )
    assert result_cells([rows[0], alone])[1][1][place : place + 2] == ["-", "-"]


def test_differences_are_paired(tmp_path):
    for name, wrong in (("big", 2), ("small", 9)):
        make_model(tmp_path, name, wrong=wrong)
        wanted(tmp_path, name)
    found = compare(tmp_path, [("small", "big")], ["test"])
    rows = collect_rows(tmp_path, ["big", "small"], ["test"])
    big, small = (row.scores["greedy"].cer_percent for row in rows)
    assert abs(found[0].cer_difference.percent - (small - big)) < 1e-9
    header, table = comparison_cells(found)
    assert header[-2:] == ["greedy CER", "can show"] and table[0][-2].startswith(f"{small - big:+.2f} [")

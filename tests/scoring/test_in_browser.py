"""The page of a report in a browser, on a telephone and on a desk: nothing is cut off, no picture is empty.

Needs Chromium on the PATH (Debian: apt install chromium). Looked at in it: the width of everything, opened.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from steps import report
from tests.scoring.made_up import UTTERANCES, make_model, make_noise

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MODELS = {"teacher": None, "student": None, "student_kd": None, "student_kd_prune": "student_kd",
          "student_kd_lowrank": "student_kd", "student_kd_int8": "student_kd",
          "student_kd_prune_int8": "student_kd_prune"}  # fmt: skip
LOOK = """<script>
document.querySelectorAll("details").forEach(one => one.open = true);
const wide = document.documentElement.clientWidth, found = [];
const name = one => `${one.tagName} ${one.className.baseVal ?? one.className}: ${one.textContent.slice(0, 60)}`;
const box = one => one.getBoundingClientRect();
if (document.documentElement.scrollWidth > wide) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
for (const one of document.querySelectorAll("body *:not(script)"))
  if (!one.closest("pre") && !one.closest("svg *") && box(one).width && (box(one).right > wide + 1 || box(one).left < 0))
    found.push("beyond the edge: " + name(one));
for (const one of document.querySelectorAll(".wide"))
  if (one.scrollWidth > one.clientWidth + 1) found.push("cut table: " + name(one));
for (const one of document.querySelectorAll("td, th, dd, p"))
  if (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display != "none") found.push("cut text: " + name(one));
for (const one of document.querySelectorAll("svg text")) {
  const inner = box(one), outer = box(one.closest("svg"));
  if (inner.left < outer.left - 2 || inner.right > outer.right + 2) found.push("cut label: " + name(one));
}
for (const picture of document.querySelectorAll("svg")) {
  const drawn = [...picture.querySelectorAll("[clip-path] , [clip-path] *")].map(box);
  const width = Math.max(...drawn.map(one => one.right)) - Math.min(...drawn.map(one => one.left));
  if (!(width > box(picture).width / 4)) found.push("empty picture: " + picture.getAttribute("aria-label"));
}
parent.document.body.innerHTML = `<pre id="found">${JSON.stringify({wide, found}).replaceAll("<", "&lt;")}</pre>`;
</script>"""


def make_runs(exp):
    """A chain of models with everything that a report can show."""
    for number, (model, parent) in enumerate(MODELS.items()):
        size = 900_000 // (number + 1)
        make_model(exp, model, wrong=number, parent=parent, size=size, lexicon=True, weights_sha256=model)
        make_noise(exp, model, number % 2)
        command = f"python3 -m steps.distill_student --out exp/an4/{model} " + "--option value " * 30
        facts = {
            "commit": "0123456789ab",
            "command": command,
            "seed": 0,
            "device": "cpu",
            "dev_wer": 3.21,
            "dev_cer": 1.0,
        }
        (exp / model / "run.json").write_text(json.dumps(facts | {"seconds": 1234.5}))
        taught = "[teacher]" if model == "student_kd" else "null"
        conf = f"step: distill_student\nteacher: {taught}\n{'long_name_' * 20}: 1\n"
        (exp / model / "conf.yaml").write_text(conf)
    speed = {"rtf": 0.0012, "rtf_features": 0.0007, "rtf_with_features": 0.0019, "macs_per_second": 53860375}
    speed |= {"latency_ms": {"p50": 5.4, "p90": 7.6, "p99": 20.3}, "load_s": 0.18, "peak_memory_bytes": 86106112}
    speed |= {"model_memory_bytes": 44056576, "rtf_spread": 0.0002, "all_threads_wall_rtf": 0.0015}
    ratios = {other: {"times_faster": 2.34, "low": 2.2, "high": 2.5} for other in list(MODELS)[:3]}
    models = {model: {**speed, "rtf_with_features": 0.002 / n, "ratios": ratios} for n, model in enumerate(MODELS, 1)}
    host = {"cpu": "Some(R) Processor(TM) of a Long Name @ 2.70GHz", "flags": ["avx2", "avx512f"], "versions": {}}
    settings = {"num_threads": 1, "all_threads": 2, "repeats": 7, "reference": "teacher", "data": "data/an4/test"}
    benchmark = {"models": models, "host": host, "settings": settings}
    (exp / "benchmark.json").write_text(json.dumps(benchmark))
    (exp / ".stages").mkdir()
    for number in range(40):
        task = {
            "stage": number // 4,
            "name": f"decode_student_kd_prune_int8_test_{number}",
            "seconds": number**3,
            "finished": "",
        }
        (exp / f".stages/{number:02d}_task.done").write_text(json.dumps(task))
    finding = {"serious": True, "text": "Only 824 updates from random weights. " * 4}
    (exp / "student/diagnosis.json").write_text(json.dumps({"findings": [finding, finding | {"serious": False}]}))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from torch.utils.tensorboard import SummaryWriter

    exp = tmp_path_factory.mktemp("exp")
    make_runs(exp)
    for model in list(MODELS)[:4]:
        with SummaryWriter(str(exp / model / "tensorboard")) as writer:
            for step in range(0, 1000, 10):
                writer.add_scalar("train/loss", 5 / (step + 1), step)
            for step in (990, 1000):
                writer.add_scalar("dev/loss", 0.1, step)
    words = ["report", "--exp", exp, "--models", *MODELS, "--sets", "test", "--benchmark", exp / "benchmark.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*map(str, words), "--recipe", "an4", "--out", str(exp / "report")])
        report.main()
    return (exp / "report/report.html").read_text()


def look(folder, text, width):
    """What Chromium finds wrong with a page on a screen of this width. Returns: (width of the page, list of str).

    The page stands in a frame, because no window is as narrow as a telephone.
    """
    plain = re.sub(r"<meta http-equiv=.*?>", "", text).replace("</body>", f"{LOOK}</body>")
    frame = f'<iframe style="border:0" width="{width}" height="2000" srcdoc="{html.escape(plain)}"></iframe>'
    (folder / "page.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{frame}</body>')
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/browser"]
    command = [
        BROWSER,
        *words,
        "--window-size=1600,2200",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"file://{folder}/page.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    found = json.loads(html.unescape(match[1]))
    return found["wide"], found["found"]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (apt install chromium)")
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_is_cut_off(page, tmp_path, width):
    assert look(tmp_path, page, width) == (width, [])


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (apt install chromium)")
def test_what_is_cut_off_is_noticed(page, tmp_path):
    cards = page.replace("@media (max-width", "@media (max-height")
    _, found = look(tmp_path, cards, 390)
    assert any("cut table" in one for one in found)
    _, found = look(tmp_path, page.replace("<h2>test</h2>", f"<h2 style='white-space:nowrap'>{'x' * 300}</h2>"), 1280)
    assert any("beyond the edge: H2" in one or "the page is" in one for one in found)


def test_a_page_for_people_has_no_raw_values(page):
    text = html.unescape(re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL))
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|\{'|\['|\bnan\b", text)
    assert "Timed on Some(R) Processor" in text and "repeats 7, reference teacher" in text
    assert len(UTTERANCES) == 24 and "24 utterances of 6 speakers" in text
    assert "Loss on dev" not in page and "Training loss" in page, "two points are no course"

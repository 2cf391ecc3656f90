"""Whatever data holds, Markdown shows it as text."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.scoring.escape import code_block, markdown, markdown_table

PLAIN = [  # what our own tables hold stays readable in a terminal
    "student_kd_prune_int8", "+1.20 [+0.40, +2.00] *", "p < 0.001", "12.34 (5/130)", "a - b", "--out exp/x --seed 0",
    "teacher 1.5 [1.2, 1.9]", "R&D", "5 * 3", "10.0 - 12.5", "C++ #1 > 2", "ɛ",
]  # fmt: skip
EVIL = {
    "<img src=x onerror=alert(1)>": "&lt;img src=x onerror=alert(1)>",
    "</td><script>": "&lt;/td>&lt;script>",
    "<!-- hide": "&lt;!-- hide",
    "&lt;b&gt; &#60;": "&amp;lt;b&amp;gt; &amp;#60;",
    "[click](http://evil.example)": "[click]\\(http://evil.example)",
    "![x](http://evil.example/a.png)": "![x]\\(http://evil.example/a.png)",
    "[x][y]": "[x]\\[y]",
    "[x]: http://evil.example": "[x]\\: http://evil.example",
    "**loud** and *soft*": "\\*\\*loud\\*\\* and \\*soft\\*",
    "_soft_ and __loud__": "\\_soft\\_ and \\_\\_loud\\_\\_",
    "~~gone~~": "\\~\\~gone\\~\\~",
    "`code`": "\\`code\\`",
    "a|b": "a\\|b",
    "a\\|b": "a\\\\\\|b",
    "a\n\n# Passed\r\n\x1b[2J\u2028b": "a # Passed [2J b",
}


@pytest.mark.parametrize("text", PLAIN)
def test_what_means_nothing_stays_as_it_is(text):
    assert markdown(text) == text


@pytest.mark.parametrize("text", EVIL)
def test_what_means_something_is_escaped(text):
    assert markdown(text) == EVIL[text]


@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet="ab1 <>&#;[]()!:*_~`|\\/\n\t\x1b", max_size=30))
def test_a_table_keeps_its_cells_and_holds_no_tag(text):
    lines = markdown_table(["model", "WER"], [[text, "1.00"], ["b", text]]).splitlines()
    assert len(lines) == 4
    for line in lines:
        bare = re.sub(r"\\.", " ", line)
        assert bare.count("|") == 3 and not re.search(r"[`~]|<[A-Za-z/!?]|\][(\[]", bare)
        assert not re.search(r"&(?!lt;|amp;)#?\w+;", bare)


def test_python_markdown_makes_no_element_of_it():
    """The package that TensorBoard brings."""
    render = pytest.importorskip("markdown").markdown
    for text in EVIL:
        page = render(f"## {markdown(text)}\n\nMade of {markdown(text)}.\n\n{code_block(text)}\n")
        assert set(re.findall(r"<(\w+)", page)) == {"h2", "p", "pre", "code"}, page


def test_code_blocks_stay_blocks():
    assert code_block("a\n\nb `x`\x1b") == "    a\n    \n    b `x` \n"

"""The pieces a page is made of: its style, tables that become cards on a telephone, pictures, paragraphs.

Every text from data is escaped; nothing on the page is executed or fetched.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from steps.scoring import plot

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fdfdfc; --soft: #f1f1ee; --line: #d5d5cf; --mark: #3b7dc4;
  --bad: #b3261e; --bad-soft: #fbe9e7; --hint: #8a6100; --hint-soft: #fdf3d7 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e0; --paper: #16181b; --soft: #212428; --line: #3a3e44; --mark: #7fb2e8;
    --bad: #ff9a8f; --bad-soft: #3a1f1d; --hint: #f0c96a; --hint-soft: #332a14 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
h3 { margin-top: 1.6rem; font-size: 1.05rem }
.story { font-size: 1.15rem; background: var(--soft); padding: .8rem 1rem; border-left: 4px solid var(--mark) }
.story p { margin: .3rem 0 }
.warning, .hint { padding: .6rem 1rem; margin: .6rem 0; border-left: 4px solid }
.warning { background: var(--bad-soft); border-color: var(--bad) } .hint { background: var(--hint-soft); border-color: var(--hint) }
.warning::before { content: "Warning: "; font-weight: bold; color: var(--bad) }
.hint::before { content: "Note: "; font-weight: bold; color: var(--hint) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem } dt { font-weight: bold } dd { margin: 0 }
.wide { overflow-x: auto; overflow-wrap: normal }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { background: var(--soft); white-space: normal; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
.left td, .left th { text-align: left }
figure { margin: 1rem 0 } svg { width: 100%; height: auto; max-width: 46rem; display: block }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: .8rem; line-height: 1.35; overflow-wrap: normal }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 70rem) {
  dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } th, td { white-space: normal; overflow-wrap: anywhere } }
.note { font-size: .85rem; opacity: .85 } details { margin: .5rem 0 } summary { cursor: pointer }
"""
# A row becomes a card where the table would be cut: a name on top, then a line for each number.
CARDS = """
@media (max-width: SCREEN) {
  table.NAME, .NAME tbody, .NAME tr, .NAME td { display: block; width: 100% } .NAME thead { display: none }
  .NAME tr { border: 1px solid var(--line); border-radius: .4rem; margin: .6rem 0; padding: .3rem .7rem }
  .NAME td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; white-space: normal;
    text-align: right }
  .NAME td::before { content: attr(data-label); opacity: .75; text-align: left }
  .NAME td:first-child { display: block; font-weight: bold; text-align: left } .NAME td:first-child::before { content: none }
  .NAME td.none { display: none } }
"""
# columns of a table from which on it becomes cards, and the screens that it does on
NARROW, BROAD = (4, "cards", "70rem"), (9, "broad", "76rem")
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>
"""


def page_head(title: str) -> str:
    """Everything before the first heading."""
    cards = "".join(CARDS.replace("SCREEN", screen).replace("NAME", name) for _, name, screen in (NARROW, BROAD))
    return HEAD.format(title=escape(title), style=STYLE + cards)


def html_table(header: Sequence[Any], rows: Iterable[Sequence[Any]], css: str = "") -> str:
    """A table; one of many columns becomes a card for each row where the screen is too narrow for it."""
    for columns, name, _ in (NARROW, BROAD):
        css += f" {name}" if len(header) >= columns else ""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(cell_of, header, row))}</tr>\n" for row in rows)
    table = f'<table class="{css.strip()}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def cell_of(title: Any, cell: Any) -> str:
    """One cell, with the title of its column for the card."""
    none = ' class="none"' if cell == "-" else ""
    return f'<td data-label="{escape(str(title))}"{none}>{escape(str(cell))}</td>'


def figure(draw: Callable[[], Figure], prefix: str, alt: str) -> str:
    """A picture as inline SVG."""
    return f"<figure>{plot.inline_svg(draw, prefix, alt)}</figure>"


def paragraph(text: str, css: str = "") -> str:
    """A paragraph of text."""
    name = f' class="{css}"' if css else ""
    return f"<p{name}>{escape(text)}</p>"


def note(text: str) -> str:
    """Markdown notes as small print."""
    return f'<p class="note">{escape(text.strip()).replace(chr(10) + "- ", "<br>- ")}</p>' if text else ""


def folded(title: str, content: str) -> str:
    """HTML behind a line that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def preformatted(text: str, wrap: bool = False) -> str:
    """Text as it stands; `wrap`: lines may be broken."""
    css = ' class="text"' if wrap else ""
    return f"<pre{css}>{escape(text)}</pre>"

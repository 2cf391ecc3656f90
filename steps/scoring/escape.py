"""Text from data as Markdown: shown as it is, whatever it contains, with no more backslashes than that takes."""

import re
from collections.abc import Sequence

INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Backslash, code, table cell, strike-through; the start of a tag, of an entity, of a link's target; emphasis, which needs a
# star beside something and an underscore that is not within a word.
SPECIAL = re.compile(r"[\\`|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(\[:]|\*(?=\S)|(?<=\S)\*|(?<![^\W_])_|_(?![^\W_])")
# not every reader of Markdown knows a backslash before these
ENTITIES = {"<": "&lt;", "&": "&amp;"}


def markdown(text: object) -> str:
    """Text from data within a line of Markdown: it makes no tag, link, code, emphasis or new line.

    Source: CommonMark 0.31, sections 2.4 (backslash escapes) and 6.2 (emphasis).
    """
    return SPECIAL.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), INVISIBLE.sub(" ", str(text)))


def code_block(text: object) -> str:
    """Text from data as an indented code block, where nothing is markup."""
    lines = str(text).split("\n")
    return "".join(f"    {INVISIBLE.sub(' ', line)}\n" for line in lines)


def markdown_table(header: Sequence, rows: Sequence[Sequence], text_columns: Sequence[int] = (0,)) -> str:
    """A Markdown table with padded columns: those numbered in `text_columns` to the left, the others to the right."""
    cells = [[markdown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    signs = ["<" if i in text_columns else ">" for i in range(len(header))]
    lines = [
        "| " + " | ".join(f"{cell:{sign}{w}}" for cell, sign, w in zip(row, signs, widths, strict=True)) + " |\n"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + ("-" if sign == "<" else ":") for sign, w in zip(signs, widths, strict=True))
    return lines[0] + rule + "|\n" + "".join(lines[1:])

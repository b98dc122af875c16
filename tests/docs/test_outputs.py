"""What the docs show as the output of a statement is its output.

A ```text block behind the comment ``<!-- output -->`` is the last column of what the last statement of the ```sql
blocks above it gave. A line of ``…`` stands for any number of lines; times in milliseconds are not compared. With
``HALO_REWRITE=1`` blocks without such a line are written anew; read the difference before committing it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import halo_sql

ROOT = Path(__file__).parents[2]
MARK = "<!-- output -->\n"
BLOCK = re.compile(rf"^({re.escape(MARK)})?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if MARK in page.read_text("utf-8")]
CONFIG = {"halo_store": "off", "halo_default_model": "echo", "halo_default_embedding_model": "echo"}


def outputs(text: str) -> list[tuple[int, int, str, str]]:
    """Begin and end of each block that shows an output, what it shows, what there is to show."""
    found = []
    with halo_sql.connect(":memory:", config=CONFIG) as connection:
        given = ""
        for block in BLOCK.finditer(text):
            if block[1]:
                found.append((block.start(3), block.end(3), block[3], given))
            elif block[2] == "sql":
                for statement in block[3].split(";\n"):
                    if statement.strip():
                        rows = connection.execute(statement).fetchall()
                        given = "\n".join(str(row[-1]) for row in rows) + "\n"
    return found


def pattern(shown: str) -> str:
    """What an output must match."""
    lines = (timeless(line) for line in shown.splitlines())
    return "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line) + r"\n" for line in lines)


def timeless(text: str) -> str:
    return re.sub(r" +\d+\.\d+ ms", " ms", text)


def test_there_are_outputs() -> None:
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_outputs_are_what_the_docs_show(page: Path) -> None:
    text = page.read_text("utf-8")
    found = outputs(text)
    assert found
    if os.environ.get("HALO_REWRITE"):
        for start, end, shown, given in reversed(found):
            if "…\n" not in shown.splitlines(keepends=True):
                text = text[:start] + given + text[end:]
        page.write_text(text, encoding="utf-8")
    for _, _, shown, given in outputs(text):
        if not re.fullmatch(pattern(shown), timeless(given)):
            assert timeless(given) == timeless(shown), page.name
            pytest.fail(f"{page.name} shows another output:\n{shown}")


def test_a_line_of_dots_stands_for_lines_and_nothing_else() -> None:
    assert re.fullmatch(pattern("a\n…\nc   1.234 ms\n"), timeless("a\nb\nb\nc 2.5 ms\n"))
    assert re.fullmatch(pattern("a\n…\nc\n"), "a\nc\n")
    assert not re.fullmatch(pattern("a\n…\nc\n"), "a\nb\n")
    assert not re.fullmatch(pattern("a.\n"), "ab\n")

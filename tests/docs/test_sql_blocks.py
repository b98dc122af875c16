"""Every ```sql and ```python block of the docs runs, in the order of its page, with the echo model.

An answer that does not fit its declared type is not a failure here: echo answers with the prompt, so a block that
asks for an ENUM has done all it can when its answer arrives.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import halo_sql

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if "```sql" in page.read_text("utf-8")
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIG = {"halo_store": "off", "halo_default_model": "echo", "halo_default_embedding_model": "echo"}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of each block in this language."""
    text = page.read_text(encoding="utf-8")
    found = FENCE.finditer(text)
    return [(text.count("\n", 0, block.start()) + 2, block[2]) for block in found if block[1] == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sql_blocks_run(page: Path) -> None:
    found = blocks(page, "sql")
    assert found
    with halo_sql.connect(":memory:", config=CONFIG) as connection:
        for line, text in found:
            for statement in text.split(";\n"):
                try:
                    if statement.strip():
                        connection.execute(statement).fetchall()
                except halo_sql.EngineError as problem:
                    if problem.code != "invalid_output":
                        pytest.fail(f"{page.name}:{line}\n{statement}\n{problem}", pytrace=False)
                except halo_sql.Error as problem:
                    pytest.fail(f"{page.name}:{line}\n{statement}\n{problem}", pytrace=False)


@pytest.mark.parametrize("page", ["README.md", "docs/tools.md", "docs/emulated.md"])
def test_python_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HALO_DEFAULT_MODEL", "echo")
    monkeypatch.setenv("HALO_STORE", "off")
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / page, "python")
    assert found
    for line, text in found:
        names: dict[str, object] = {}
        exec(compile("\n" * (line - 1) + text, page, "exec"), names)
        assert "con" in names

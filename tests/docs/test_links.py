"""Pages: relative links lead somewhere, READMEs of the root folders stay short, changes are logged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for pattern in ("*.md", "docs/**/*.md", "*/README.md")
    for page in sorted(ROOT.glob(pattern))
    if ".venv" not in page.parts
]
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("folder", ["grammar", "operators", "optimizer"])
def test_folder_readme_is_short(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert 5 < text.count("\n") < 60


def test_changelog_names_the_version() -> None:
    import halo_sql

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    assert f"## [{halo_sql.__version__}]" in text


def test_pages_name_no_machine() -> None:
    paths = re.compile(r"(?<![\w.])/(work|root|home)/")
    found = {str(page.relative_to(ROOT)) for page in PAGES if paths.search(page.read_text(encoding="utf-8"))}
    assert found == set()

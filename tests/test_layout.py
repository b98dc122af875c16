"""The shape of the project: links, guards, wheel, import directions, file lengths.

docs/design/001-folders-at-the-root.md says why the folders lie where they lie.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("grammar", "operators", "optimizer")
SOURCES = sorted(
    path
    for folder in ("halo_sql", *FOLDERS)
    for path in (ROOT / folder).rglob("*.py")
    # Python 3.13's rglob follows no links; before it, what lies behind ours is met a second time
    if not any(parent.is_symlink() for parent in path.parents)
)
TESTS = sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))

#: The only files that may import these packages, each with its reason.
NAMED_FILES = {
    "duckdb": {
        "halo_sql/duck.py": "the adapter",
        "halo_sql/duck_errors.py": "its exceptions",
        "halo_sql/duck_tokens.py": "its tokenizer",
        "halo_sql/result.py": "reads DuckDB's results and converts batches through it",
    },
    "sqlglot": {"grammar/syntax.py": "the syntax tree of a query with calls"},
    "lark": {"grammar/statements/parse.py": "our own statements"},
    "vllm": {
        "halo_sql/engines/vllm_worker.py": "runs in the worker process",
        "halo_sql/engines/vllm_blocks.py": "a KV connector, runs in vLLM's processes",
    },
    "torch": {
        "halo_sql/engines/vllm_blocks.py": "a KV connector, runs in vLLM's processes",
        "halo_sql/engines/vllm_worker.py": "runs in the worker process",
        "halo_sql/engines/bundled.py": "runs in a child process, once per bundled model",
    },
    "transformers": {"halo_sql/engines/bundled.py": "runs in a child process, once per bundled model"},
}
MAX_LINES = 400


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@cache
def imported_names(path: Path) -> set[str]:
    """The dotted names a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_link_is_relative_and_leads_to_the_folder(folder: str) -> None:
    link = ROOT / "halo_sql" / folder
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{folder}"
    assert link.resolve() == ROOT / folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_no_package_of_its_own(folder: str) -> None:
    bare = run_python("-c", f"import {folder}")
    assert bare.returncode != 0
    assert f"ImportError: import halo_sql.{folder}" in bare.stderr
    inside = run_python("-c", f"import halo_sql.{folder}")
    assert inside.returncode == 0, inside.stderr


def test_no_file_imports_a_folder_by_its_bare_name() -> None:
    assert SOURCES
    bare = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES + TESTS
        for name in imported_names(path)
        if name.split(".")[0] in FOLDERS
    ]
    assert bare == []


def test_sources_import_by_full_name() -> None:
    # One spelling per module: relative imports would hide a layer from a reader and from a search.
    relative = [
        str(path.relative_to(ROOT)) for path in SOURCES if any(name[:1] == "." for name in imported_names(path))
    ]
    assert relative == []


@pytest.mark.parametrize("package", sorted(NAMED_FILES))
def test_package_is_imported_in_named_files_only(package: str) -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name.split(".")[0] == package for name in imported_names(path))
    }
    assert importers <= set(NAMED_FILES[package])


def test_import_is_light() -> None:
    heavy = (
        "vllm, torch, transformers, pandas, polars, pyarrow, numpy, sqlglot, lark, httpx, prompt_toolkit, tokenizers"
    )
    code = f"import sys, halo_sql\nprint(*[name for name in '{heavy}'.split(', ') if name in sys.modules])\n"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_layers_are_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_no_file_outgrows_a_reader() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES + TESTS
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MAX_LINES
    }
    assert long == {}


def test_wheel_holds_the_folders_inside_the_package(tmp_path: Path) -> None:
    built = run_python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("halo_sql-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"halo_sql"}
    wanted = {f"halo_sql/{path.relative_to(ROOT).as_posix().removeprefix('halo_sql/')}" for path in SOURCES}
    grammars = {f"halo_sql/{path.relative_to(ROOT)}" for path in (ROOT / "grammar").rglob("*.lark")}
    assert wanted | grammars | {"halo_sql/py.typed"} <= names
    assert not any("__pycache__" in name for name in names)

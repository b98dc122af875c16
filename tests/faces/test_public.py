"""The public surface: what ``halo_sql`` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import halo_sql
from halo_sql import dbapi, errors

HEAVY = (
    "duckdb",
    "pyarrow",
    "sqlglot",
    "lark",
    "httpx",
    "prompt_toolkit",
    "pandas",
    "polars",
    "numpy",
    "vllm",
    "torch",
)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_all_is_the_whole_surface() -> None:
    public = {name for name in dir(halo_sql) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(halo_sql, name)).__name__ == "module"}
    extra = {"annotations", "TYPE_CHECKING", "Any"}  # what every module of ours has
    assert public - modules - extra == set(halo_sql.__all__) - {"__version__"}


@pytest.mark.parametrize("name", halo_sql.__all__)
def test_every_name_comes_from_where_it_is_defined(name: str) -> None:
    value = getattr(halo_sql, name)
    if name == "__version__":
        assert value.count(".") == 2
    elif name in vars(errors):
        assert value is getattr(errors, name)
    else:
        assert value is getattr(dbapi, name)


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert halo_sql.__version__ == project["version"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = halo_sql.conect


def test_importing_loads_nothing_heavy() -> None:
    loaded = python(f"import halo_sql, sys; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_a_plain_statement_loads_only_duckdb() -> None:
    code = (
        "import halo_sql, sys; con = halo_sql.connect(); con.execute('SELECT 1').fetchall(); con.close(); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert python(code) == "['duckdb']"


def test_python_m_halo_sql_is_the_shell() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "halo_sql", "-csv", "-c", "SELECT 42 AS a"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "a\n42\n"

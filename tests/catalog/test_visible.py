"""Which database a snapshot reads: the current one, whatever else has the catalog's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_sql.catalog.objects import ModelDef
from halo_sql.catalog.store import Catalog
from halo_sql.duck import Duck

M = ModelDef("m", "echo", "echo")


@pytest.fixture
def duck(tmp_path: Path) -> Iterator[Duck]:
    """Database a, with model m in its catalog, and b without one."""
    connection = Duck.connect(str(tmp_path / "a.db"), False, {})
    Catalog(connection).create_model(M)
    connection.execute(f"ATTACH '{tmp_path / 'b.db'}' AS b")
    connection.execute("CREATE SCHEMA a.other")
    connection.execute("CREATE SCHEMA b.other")
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("USE a", True),
        ("USE a.other", True),
        ("USE b", False),
        ("SET search_path = 'a.main,b.main'", True),
        ("SET search_path = 'b.main,a.main'", False),
        ("SET search_path = 'a.halo_catalog'", True),
        ("SET search_path = 'a.main,b.other'", True),
        ("SET search_path = 'b.main,a.halo_catalog'", False),
    ],
)
@pytest.mark.parametrize("named_alike", [False, True])
def test_a_snapshot_is_of_the_current_database(
    duck: Duck, tmp_path: Path, setting: str, seen: bool, named_alike: bool
) -> None:
    if named_alike:  # another database whose own name is that of the catalog's schema
        duck.execute(f"ATTACH '{tmp_path / 'c.db'}' AS halo_catalog")
        duck.execute("CREATE TABLE halo_catalog.main.objects (i INTEGER)")
    duck.execute(setting)
    assert ("m" in Catalog(duck).snapshot().models) is seen


def test_a_snapshot_of_an_empty_database_leaves_an_open_transaction_usable(duck: Duck) -> None:
    duck.execute("USE b")
    duck.execute("BEGIN")
    assert "m" not in Catalog(duck).snapshot().models
    Catalog(duck).create_model(M)
    assert "m" in Catalog(duck).snapshot().models
    duck.execute("ROLLBACK")
    assert "m" not in Catalog(duck).snapshot().models

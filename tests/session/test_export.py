"""Scripts of all objects, and DuckDB's own EXPORT and IMPORT DATABASE."""

from __future__ import annotations

from pathlib import Path

import pytest

import halo_sql

KINDS = ("models", "prompts", "tools", "agents")
OBJECTS = Path(__file__).with_name("objects.sql").read_text(encoding="utf-8")


def connect(database: str = ":memory:") -> halo_sql.Connection:
    return halo_sql.connect(database, config={"halo_store": "off", "halo_default_model": "echo"})


def objects(con: halo_sql.Connection) -> list[list[tuple[object, ...]]]:
    return [
        con.execute(
            f"SELECT * EXCLUDE (version, created, current) FROM halo_{kind}() WHERE scope = 'persistent' ORDER BY ALL"
        ).fetchall()
        for kind in KINDS
    ]


def test_the_script_makes_equal_objects_in_another_database(tmp_path: Path) -> None:
    with connect(str(tmp_path / "a.db")) as con, connect(str(tmp_path / "b.db")) as other:
        con.execute(OBJECTS)
        script = [row[0] for row in con.execute("SELECT sql FROM halo_export() ORDER BY position").fetchall()]
        other.execute("CREATE TABLE orders AS SELECT 1 AS id, 'a' AS body; CREATE TYPE mood AS ENUM ('sad', 'ok')")
        other.execute("; ".join(script))
        made = objects(con)
        assert [len(rows) for rows in made] == [2, 1, 4, 2]
        made[3][1] = (*made[3][1][:5], '{"max_steps": 8}', *made[3][1][6:])  # an agent's WITH must hold something
        assert objects(other) == made
        assert other.execute("SELECT sql FROM halo_export() ORDER BY position").fetchall() == [(sql,) for sql in script]


def test_the_script_is_sql_a_person_may_keep() -> None:
    with connect() as con:
        con.execute(OBJECTS)
        rows = con.execute("SELECT kind, name, sql FROM halo_export()").fetchall()
        assert not any(sql.endswith(";") for _, _, sql in rows)
        assert "brief" not in str(rows)
        assert [kind for kind, _, _ in rows] == ["model"] * 3 + ["prompt"] + ["tool"] * 5 + ["agent"] * 2


@pytest.mark.parametrize("form", ["", " (FORMAT parquet)"])
def test_duckdbs_export_and_import_keep_objects(tmp_path: Path, form: str) -> None:
    with connect(str(tmp_path / "a.db")) as con, connect(str(tmp_path / "b.db")) as other:
        con.execute(OBJECTS)
        con.execute("CREATE OR REPLACE PROMPT p AS 'second'; DROP AGENT nothing")
        con.execute(f"EXPORT DATABASE '{tmp_path / 'out'}'{form}")
        other.execute(f"IMPORT DATABASE '{tmp_path / 'out'}'")
        assert objects(other) == objects(con)
        assert other.execute("SELECT version FROM halo_prompts()").fetchall() == [(2,)]
        assert len(other.execute("FROM halo_prompts(all_versions := true)").fetchall()) == 2
        other.execute("CREATE OR REPLACE PROMPT p AS '{{ body }}'")
        assert other.execute("SELECT LLM_MAP(p) FROM orders").fetchall() == [("a",)]


def test_objects_go_with_a_copied_database(tmp_path: Path) -> None:
    with connect(str(tmp_path / "a.db")) as con:
        con.execute(OBJECTS)
        con.execute(f"ATTACH '{tmp_path / 'b.db'}' AS b; COPY FROM DATABASE a TO b")
        before = objects(con)
        con.execute("USE b")
        assert objects(con) == before

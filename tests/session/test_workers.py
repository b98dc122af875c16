"""Several workers of a model, seen from SQL: options, plans, who answered."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import halo_sql
from halo_sql.desks import workers_of
from halo_sql.errors import CatalogError


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off"}) as made:
        made.execute("CREATE TEMP MODEL two FROM 'echo' USING echo WITH (workers = 2)")
        yield made


QUERY = "SELECT LLM_MAP('{{ i }} is asked', model => 'two') AS m FROM range(40) r(i)"


def test_rows_are_those_of_one_worker(con: halo_sql.Connection) -> None:
    one = con.execute(QUERY.replace("'two'", "'echo'")).fetchall()
    assert con.execute(QUERY).fetchall() == one


def test_a_plan_names_the_workers_and_analyze_what_each_did(con: halo_sql.Connection) -> None:
    plan = "\n".join(row[-1] for row in con.execute(f"EXPLAIN {QUERY}").fetchall())
    assert "worker=two/0,two/1" in plan
    told = "\n".join(row[-1] for row in con.execute(f"EXPLAIN ANALYZE {QUERY}").fetchall())
    assert "answered by two/0: " in told
    assert "Worker two/0: " in told
    assert "Worker two/1: " in told
    found = con.last_profile()
    assert found is not None
    assert set(found["workers"]) == {"two/0", "two/1"}
    assert sum(worker["requests"] for worker in found["workers"].values()) == 40
    assert all(worker["requests"] >= 10 for worker in found["workers"].values())
    assert sum(worker["prompt_tok"] for worker in found["workers"].values()) == found["totals"]["prompt_tok"]
    assert '"workers": {"two/0": ' in json.dumps(found["plan"])


def test_counters_are_those_of_the_run(con: halo_sql.Connection) -> None:
    for _ in range(2):
        con.execute(QUERY).fetchall()
    found = con.last_profile()
    assert found is not None
    assert sum(worker["requests"] for worker in found["workers"].values()) == 40


def test_calls_say_who_answered(con: halo_sql.Connection) -> None:
    con.execute(QUERY).fetchall()
    con.execute("SELECT LLM_MAP('alone', model => 'echo')").fetchall()
    rows = con.execute("SELECT worker, count(*) FROM halo_calls() GROUP BY ALL ORDER BY 1 NULLS LAST").fetchall()
    assert [row[0] for row in rows] == [0, 1, None]
    assert rows[0][1] + rows[1][1] == 40


def test_a_wrong_number_of_workers_is_refused(con: halo_sql.Connection) -> None:
    with pytest.raises(CatalogError, match='"workers"'):
        con.execute("CREATE TEMP MODEL none FROM 'echo' USING echo WITH (workers = 0)")


def test_the_workers_of_a_placement() -> None:
    assert workers_of("m/1,other/0,m/0", "m") == (0, 1)
    assert workers_of("hub/org/m/3", "hub/org/m") == (3,)
    assert workers_of("other/0", "m") == ()

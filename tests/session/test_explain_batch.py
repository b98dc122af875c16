"""What is shown of a batch: its plans, and what each statement did."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

import halo_sql

from .batch_support import MORE, WHOLE, Model, batch, connected, one_by_one


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def con(model: Model) -> Iterator[halo_sql.Connection]:
    with connected(model) as connection:
        yield connection


GOLDEN = """\
Statements 1, 3, 4, 5, 6: one plan
Batch  5 statements
├─ 1: #7 Materialize
│  └─ Select  llm_map('{{ c }}')#6 = llm#4, b#5 = b#2
│     └─ #4 Materialize
│        └─ LlmMap  llm#4 = LLM_MAP(m, "{c#3}")
│           └─ DuckFragment  sql=SELECT c2 AS c2, c3 AS c3 FROM (SELECT * FROM (SELECT * FROM t ) AS f(c1, c2, c3)) AS r
├─ 3: Select  group_#5, said#6
│  └─ → #7 Materialize
├─ 4: Select  b#10 = b#8, llm_map('{{ q.z }}')#11 = llm#9
│  └─ LlmMap  llm#9 = LLM_MAP(m, "{z#7}")
│     └─ DuckFragment  Scan (SELECT c AS z, b FROM t ) q
├─ 5: Select  group_#13 = b#2
│  └─ LlmFilter  LLM_FILTER(m, "yes {llm#4}", max_tokens=8)
│     └─ → #4 Materialize
└─ 6: DuckFragment  Aggregate
   ├─ #9 Materialize
   │  └─ Select  y#14 = group_#5, m#15 = said#6
   │     └─ → #7 Materialize
   └─ Select  y#16 = y#14, m#17 = m#15
      └─ → #9 Materialize
"""


def test_equal_parts_are_one_node_however_columns_are_called_and_ordered(con: halo_sql.Connection) -> None:
    cte = "q AS MATERIALIZED (SELECT b AS y, LLM_MAP('{{ c }}') AS m FROM t)"
    statements = [
        "SELECT LLM_MAP('{{ c }}'), b FROM t",
        "SELECT 1 AS one",
        "SELECT b AS group_, LLM_MAP('{{ c }}') AS said FROM t",
        "SELECT q.b, LLM_MAP('{{ q.z }}') FROM (SELECT c AS z, b FROM t ) q",
        "SELECT group_ FROM (SELECT LLM_MAP('{{ c }}') AS said, b AS group_ FROM t) WHERE LLM_FILTER('yes {{ said }}')",
        f"WITH {cte} SELECT count(*) FROM q q1 JOIN q q2 USING (m)",
    ]
    text = con.explain_batch(statements)
    shown = [re.sub(r" +~.*| · (?!sql=SELECT c2).*", "", line) for line in text.split("\n\n")[0].splitlines()]
    assert "\n".join(re.sub(r" · ~10 rows$", "", line) for line in shown) + "\n" == GOLDEN
    assert "Statement 2: by itself" in text
    assert batch(con, statements) == one_by_one(con, statements)


def test_each_statement_has_its_profile_and_shared_nodes_count_once(con: halo_sql.Connection, model: Model) -> None:
    batch(con, [WHOLE, MORE, WHOLE])
    ids = [profile.number for profile in con.session.profiles()[-3:]]
    rows = con.execute(f"SELECT statement, status, llm_calls FROM halo_queries() WHERE id IN {tuple(ids)} ORDER BY id")
    found = rows.fetchall()
    assert [row[:2] for row in found] == [(WHOLE, "done"), (MORE, "done"), (WHOLE, "done")]
    assert [row[2] for row in found] == [20, 0, 0]
    assert sum(row[2] for row in found) == len(model.asked)
    logged = con.execute("SELECT query, count(*) FROM halo_calls() GROUP BY ALL").fetchall()
    assert logged == [(ids[0], 20)]
    last = con.last_profile()
    assert last is not None
    assert last["notes"][-1] == f"shares nodes with query {ids[0]}, where they are counted"
    assert last["plan"]["rows"] == 10


def test_explain_of_a_batch_says_what_runs_together(con: halo_sql.Connection) -> None:
    statements = [
        WHOLE,
        MORE,
        "INSERT INTO t VALUES (1, 1, 'z')",
        "CREATE TABLE u (i INTEGER)",
        "SELECT LLM_MAP('{{ i }}') FROM u",
    ]
    text = con.explain_batch(statements)
    titles = [part.splitlines()[0] for part in text.split("\n\n") if part.startswith("Statement")]
    assert titles == [
        *("Statements 1, 2: one plan", "Statement 3: by itself", "Statement 4: by itself"),
        "Statement 5: planned when the statements before it have run",
    ]
    assert con.explain("BEGIN BATCH; " + "; ".join(statements) + "; END BATCH;") == text
    ran = con.explain_batch(statements, analyze=True)
    assert "20 calls" in ran
    assert con.execute("SELECT count(*) FROM t").fetchall() == [(11,)]
    con.execute("DROP TABLE u")
    found = json.loads(con.explain_batch(statements, format="json"))
    assert [part["statements"] for part in found] == [[1, 2], [3], [4], [5]]
    assert found[0]["plan"]["operator_name"] == "Batch"
    assert con.explain_batch([WHOLE, MORE], format="mermaid").startswith("flowchart")
    with pytest.raises(halo_sql.ProgrammingError, match="draws one plan"):
        con.explain_batch(statements, format="mermaid")

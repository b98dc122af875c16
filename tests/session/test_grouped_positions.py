"""LLM_REDUCE in every clause of a grouped SELECT: with echo and an empty prompt it is string_agg, in the same place.

``@`` stands for the aggregate. The first list is planned over groups (an LlmReduce); the second is evaluated by demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql

TABLE = """
CREATE TABLE t AS
SELECT range::INTEGER AS id, (range % 3)::INTEGER AS g, ['a', 'b', NULL, 'd'][1 + range % 4] AS body, range * 1.5 AS x,
       {'k': range % 2} AS s
FROM range(9)
"""
OVER_GROUPS = """
SELECT g+1 AS g, @ AS r FROM t GROUP BY g ORDER BY g
SELECT g+1 AS g, @ AS r FROM t GROUP BY g HAVING g > 1 ORDER BY 1
SELECT -g AS g, @ AS r FROM t GROUP BY t.g HAVING g < 0 ORDER BY r
SELECT -g AS h, @ AS r FROM t GROUP BY h ORDER BY h
SELECT max(g) AS g, @ AS r FROM t GROUP BY t.g ORDER BY g DESC
SELECT s.k, @ AS r FROM t GROUP BY s.k ORDER BY s.k
SELECT s, @ AS r FROM t GROUP BY s ORDER BY s
SELECT t.s.k AS kk, @ AS r, count(*) FILTER (WHERE x > 3) FROM t GROUP BY kk ORDER BY kk
SELECT "g", @ AS "R x" FROM t GROUP BY "g" ORDER BY "R x"
SELECT T.G, @ FROM t GROUP BY g ORDER BY 2
SELECT g, @ FROM main.t GROUP BY main.t.g ORDER BY main.t.g
SELECT g, @ r FROM t tt GROUP BY tt.g ORDER BY tt.g
SELECT g, (SELECT count(*) FROM t u WHERE u.g = t.g) AS n, @ r FROM t GROUP BY g ORDER BY g
SELECT g, @ r, row_number() OVER (ORDER BY count(*) DESC, g) AS n FROM t GROUP BY g QUALIFY n < 3 ORDER BY n
SELECT g, @ r, lag(@) OVER (ORDER BY g) FROM t GROUP BY g ORDER BY g
SELECT count(*), @ FROM t WHERE g = (SELECT max(g) FROM t)
SELECT g, body, @ r FROM t GROUP BY g, body HAVING body IS NOT NULL AND body <> 'a' ORDER BY ALL
SELECT CASE g WHEN 0 THEN 'no' ELSE 'so' END c, @ FROM t GROUP BY CASE g WHEN 0 THEN 'no' ELSE 'so' END ORDER BY c
SELECT g, @ FROM t GROUP BY (g) ORDER BY (g) DESC
SELECT a.g, @2 FROM t a JOIN t b USING (g) GROUP BY a.g ORDER BY 1
SELECT g, @2 FROM t a JOIN t b USING (g) GROUP BY g ORDER BY g
SELECT b.g, a.g, @2 FROM t a JOIN t b ON a.id = b.id GROUP BY b.g, a.g ORDER BY 1
SELECT g, @ AS r, any_value(body) || '!' AS x FROM t GROUP BY g ORDER BY x, g
SELECT DISTINCT ON (g % 2) g, @ AS r FROM t GROUP BY g ORDER BY g % 2, g
SELECT list(x ORDER BY id), @ FROM t
SELECT g, @ FROM (SELECT * FROM t WHERE id > 2) AS q GROUP BY ALL ORDER BY 1
SELECT g, @ FROM t GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL
SELECT @ FROM t GROUP BY ROLLUP(g, s.k) ORDER BY ALL
SELECT g, max(id) + length(@) AS m FROM t GROUP BY g ORDER BY m DESC LIMIT 2 OFFSET 1
SELECT sum(length(r)) FROM (SELECT @ AS r FROM t GROUP BY g)
SELECT g, @ FROM t GROUP BY 1 ORDER BY 1
SELECT 1 AS one, @ FROM t GROUP BY one
SELECT g, g + 1, @ FROM t GROUP BY g, g + 1 ORDER BY g
SELECT upper(body) u, @ FROM t GROUP BY upper(body) HAVING u > 'A' ORDER BY u
SELECT x.g, @3 FROM (VALUES (1, 2), (1, 3)) x(g, id) GROUP BY x.g
SELECT COALESCE(body, 'none') b, @ FROM t GROUP BY b ORDER BY b
SELECT g AS body, @ FROM t GROUP BY g ORDER BY body
FROM t SELECT g, @ GROUP BY g ORDER BY g
SELECT g, @ FROM t, LATERAL (SELECT t.id * 2 AS y) l GROUP BY g ORDER BY g
WITH t AS (SELECT * FROM t WHERE id < 5) SELECT g, @ FROM t GROUP BY g ORDER BY g
SELECT g, @ AS r FROM t GROUP BY g UNION ALL SELECT 9, @ FROM t ORDER BY 1
SELECT g, first(@ ) OVER () FROM t GROUP BY g ORDER BY g
SELECT g, count(DISTINCT id), quantile_cont(x, 0.5), @ FROM t GROUP BY g ORDER BY g
SELECT mode() WITHIN GROUP (ORDER BY g), @ FROM t
SELECT g, @ FROM t GROUP BY g ORDER BY max(x) FILTER (WHERE id > 1) DESC NULLS LAST
SELECT struct_pack(a := g, b := @) FROM t GROUP BY g ORDER BY g
SELECT [g, length(@)], {'a': @} FROM t GROUP BY g ORDER BY g
SELECT g IN (1, 2), @ FROM t GROUP BY g IN (1, 2) ORDER BY 1
SELECT date_trunc('day', DATE '2024-01-01' + g) AS d, @ FROM t GROUP BY d ORDER BY d
SELECT g, @ FROM t WHERE body IS NOT NULL GROUP BY g WINDOW w AS (ORDER BY g) ORDER BY g
SELECT g, @ FROM t TABLESAMPLE 100% GROUP BY g ORDER BY g
SELECT g, @ FROM t GROUP BY ((g)), () ORDER BY 1
"""
BY_DEMAND = """
SELECT g, @ r FROM t GROUP BY g HAVING r IN (SELECT @ FROM t GROUP BY g) ORDER BY g
SELECT g % 2 = 0, @ FROM t GROUP BY (g%2)=0 ORDER BY 1
SELECT t.*, @ FROM t GROUP BY ALL ORDER BY id
"""


@pytest.fixture(scope="module", params=["on", "off"])
def connection(request: Any) -> Iterator[halo_sql.Connection]:
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_optimizer": request.param, "halo_verify": True}
    with halo_sql.connect(config=config) as made:
        made.execute(TABLE)
        yield made


def written(statement: str, template: str) -> str:
    """The statement with an aggregate over ids in the place of ``@`` (``@2``: of a join, ``@3``: of VALUES)."""
    for mark, item, order in (("@2", "a.id + b.id", "a.id, b.id"), ("@3", "x.id", "x.id"), ("@", "id", "id")):
        statement = statement.replace(mark, template.format(item=item, order=order))
    return statement


REDUCE = "LLM_REDUCE('', {item} ORDER BY {order}, separator => ',')"
STRING_AGG = "string_agg(CAST(({item}) AS VARCHAR), ',' ORDER BY {order})"


@pytest.mark.parametrize("statement", [*OVER_GROUPS.strip().split("\n"), *BY_DEMAND.strip().split("\n")])
def test_reduce_is_string_agg(connection: halo_sql.Connection, statement: str) -> None:
    ours, plain = written(statement, REDUCE), written(statement, STRING_AGG)
    assert connection.execute(ours).fetchall() == connection.execute(plain).fetchall()
    operator = "LlmReduce" if statement in OVER_GROUPS.strip().split("\n") else "Demand"
    assert operator in connection.explain(ours)

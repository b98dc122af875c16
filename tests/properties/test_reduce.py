"""Random statements: with echo and an empty prompt LLM_REDUCE is string_agg, and ORDER BY LLM_RANK('{{ x }}') is
ORDER BY x."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import halo_sql

TABLE = """
CREATE TABLE t AS
SELECT range AS id, (range * 7 % 5)::INTEGER AS a, ['x', 'y', NULL][1 + range % 3] AS b, range % 2 = 0 AS c,
       nullif(range * 13 % 17, 4)::INTEGER AS n
FROM range(40)
"""


@pytest.fixture(scope="module", params=["on", "off"])
def connection(request: Any) -> Iterator[halo_sql.Connection]:
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_optimizer": request.param, "halo_verify": True}
    with halo_sql.connect(config=config) as made:
        made.execute(TABLE)
        yield made


INPUTS = ("b", "n", "id", "a + 1", "b || a", "c", "coalesce(b, '-')")
KEYS = (
    "",
    "a",
    "b",
    "c",
    "a, b",
    "ROLLUP (a, c)",
    "CUBE (b, c)",
    "GROUPING SETS ((a), (b), ())",
    "a % 2",
    "upper(b), c",
)
SHOWN = {"ROLLUP (a, c)": "a, c", "CUBE (b, c)": "b, c", "GROUPING SETS ((a), (b), ())": "a, b", "": "7"}
BESIDE = ("count(*)", "sum(n)", "max(b)", "count(DISTINCT a) + 1")
FILTERS = ("", " FILTER (WHERE n > 6)", " FILTER (WHERE c AND b IS NOT NULL)", " FILTER (WHERE false)")
HAVING = (
    "",
    " HAVING count(*) > 4",
    " HAVING max(n) < 16 AND count(b) > 0",
    " HAVING {r} > '1'",
    " HAVING length({r}) > 9 OR {r} IS NULL",
)
WRAPPED = (
    "{r}",
    "upper({r})",
    "coalesce({r}, 'none') || count(*)",
    "CASE WHEN count(*) > 5 THEN {r} END",
    "length({r}) + 1",
)


@st.composite
def groupings(draw: Any) -> tuple[str, str]:
    """A grouped statement with LLM_REDUCE, and the same with string_agg."""
    item, keys = draw(st.sampled_from(INPUTS)), draw(st.sampled_from(KEYS))
    distinct = draw(st.booleans())
    order = item if distinct else draw(st.sampled_from(["id", "n DESC, id", "b NULLS FIRST, id DESC"]))
    keep = draw(st.sampled_from(FILTERS))
    fan_in = draw(st.sampled_from(["", ", fan_in => 2", ", fan_in => 5"]))
    having, wrapped = draw(st.sampled_from(HAVING)), draw(st.sampled_from(WRAPPED))
    beside = draw(st.sampled_from(BESIDE))
    where = draw(st.sampled_from(["", " WHERE id > 20", " WHERE b = 'x'", " WHERE false"]))
    limit = draw(st.sampled_from(["", " ORDER BY ALL", " ORDER BY ALL LIMIT 3"]))
    word = "DISTINCT " if distinct else ""
    reduced = f"LLM_REDUCE('', {word}{item} ORDER BY {order}, separator => '+'{fan_in}){keep}"
    # DuckDB compares what a DISTINCT aggregate is given, and sorts texts otherwise than numbers
    listed = f"list_filter(list({word}{item} ORDER BY {order}){keep}, lambda one: one IS NOT NULL)"
    plain = f"nullif(array_to_string(CAST({listed} AS VARCHAR[]), '+'), '')"
    group = f" GROUP BY {keys}" if keys else ""

    def statement(aggregate: str) -> str:
        items = f"{SHOWN.get(keys, keys)}, {wrapped.format(r=aggregate)} AS r, {beside}"
        return f"SELECT {items} FROM t{where}{group}{having.format(r=aggregate)}{limit}"

    return statement(reduced), statement(plain)


@settings(deadline=None, max_examples=120)
@given(groupings())
def test_reduce_is_string_agg(connection: halo_sql.Connection, pair: tuple[str, str]) -> None:
    ours, plain = pair
    found, expected = connection.execute(ours).fetchall(), connection.execute(plain).fetchall()
    if " ORDER BY ALL" in ours.rsplit(")", 1)[-1]:
        assert found == expected, ours
    else:
        assert Counter(found) == Counter(expected), ours


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(["n", "a", "id", "n * 1.5", "a - 2", "nullif(a, 1)"]),
    st.sampled_from(["", " ASC", " DESC", " DESC NULLS FIRST", " NULLS FIRST"]),
    st.sampled_from([", id", ", a DESC, id DESC", ", b, id"]),
    st.sampled_from(["", " LIMIT 0", " LIMIT 1", " LIMIT 7", " LIMIT 5 OFFSET 3", " LIMIT 100", " OFFSET 30"]),
    st.sampled_from(["", ", method => 'score'", ", method => 'tournament'", ", method => 'tournament', fan_in => 2"]),
    st.sampled_from(["", " WHERE id > 25", " WHERE b = 'y'", " WHERE false"]),
)
def test_ranking_is_sorting(
    connection: halo_sql.Connection, key: str, words: str, rest: str, limit: str, method: str, where: str
) -> None:
    ours = f"SELECT id, b FROM t{where} ORDER BY LLM_RANK('{{{{ {key} }}}}'{method}){words}{rest}{limit}"
    plain = f"SELECT id, b FROM t{where} ORDER BY {key}{words}{rest}{limit}"
    assert connection.execute(ours).fetchall() == connection.execute(plain).fetchall(), ours

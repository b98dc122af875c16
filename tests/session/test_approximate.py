"""Approximate filters through connections: off by default, fewer calls with a good proxy, exact with a bad one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql
from halo_sql.engines.budget import Price
from halo_sql.errors import EngineError

FILTER = "LLM_FILTER('Is it even? {{ n }}', quality => 0.9, proxy => 'small')"
QUERY = f"SELECT n FROM t WHERE {FILTER} ORDER BY n"


class Models:
    """Two models that know whether a number is even, one of them at a tenth of the price; what they were asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.bad = ""  # how the small one errs
        self.refused = -1  # hundreds of this one fail
        self.prices = {"large": Price(10.0, 40.0), "small": Price(1.0, 4.0)}

    def large(self, messages: list[dict[str, str]]) -> str:
        self.asked["large"] += 1
        if self.number(messages) % 100 == self.refused:
            raise ValueError("not this one")
        return "yes" if self.number(messages) % 2 == 0 else "no"

    def small(self, messages: list[dict[str, str]]) -> str:
        self.asked["small"] += 1
        number = self.number(messages)
        even = number % 2 == 0
        if self.bad == "useless":
            return str((number * 7919 % 100) / 100)
        if self.bad == "contrary":
            return "0.1" if even else "0.9"
        if self.bad == "constant":
            return "0.5"
        if self.bad == "failing":
            return "no idea"
        return str(0.75 + number % 20 / 100 if even else 0.05 + number % 20 / 100)

    @staticmethod
    def number(messages: list[dict[str, str]]) -> int:
        return int(re.findall(r"\d+", messages[-1]["content"])[-1])


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def con(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[halo_sql.Connection]:
    monkeypatch.setattr("halo_sql.planning.price", lambda model: models.prices.get(model.name, Price()))
    config = {"halo_store": "off", "halo_default_model": "large", "halo_approximate": True}
    with halo_sql.connect(config=config) as con:
        con.create_model("large", models.large, concurrency=64)
        con.create_model("small", models.small, concurrency=64)
        con.execute("CREATE TABLE t AS SELECT range::INTEGER AS n FROM range(2000)")
        yield con


def rows(con: halo_sql.Connection, sql: str = QUERY) -> list[int]:
    return [row[0] for row in con.execute(sql).fetchall()]


def quality(found: list[int], wanted: list[int]) -> tuple[float, float]:
    both = len(set(found) & set(wanted))
    return both / len(found), both / len(wanted)


EVEN = list(range(0, 2000, 2))


def cascade(con: halo_sql.Connection) -> dict[str, Any]:
    stack = [con.last_profile()["plan"]]
    while stack:
        node = stack.pop()
        if node["operator_name"] == "LlmFilterCascade":
            return node
        stack += node["children"]
    raise AssertionError("no cascade in the plan")


def test_off_by_default(con: halo_sql.Connection, models: Models) -> None:
    con.execute("RESET halo_approximate")
    with halo_sql.connect() as fresh:
        [(default,)] = fresh.execute("SELECT value FROM halo_settings() WHERE name = 'halo_approximate'").fetchall()
        assert default == "false"
    con.execute("SET halo_approximate = false")
    assert rows(con) == EVEN
    assert models.asked == {"large": 2000}
    plan = con.explain(QUERY)
    assert "Cascade" not in plan
    assert "is answered exactly: halo_approximate is false" in plan


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SET halo_optimizer = off", "the optimizer is off"),
        ("SET halo_disabled_rules = 'llm_filter_cascade'", "no approximate plan is allowed"),
    ],
)
def test_other_ways_to_be_exact(con: halo_sql.Connection, models: Models, statement: str, reason: str) -> None:
    con.execute(statement)
    assert rows(con) == EVEN
    assert models.asked == {"large": 2000}
    assert f"is answered exactly: {reason}" in con.explain(QUERY)


def test_a_good_proxy_saves_calls(con: halo_sql.Connection, models: Models) -> None:
    found = rows(con)
    assert min(quality(found, EVEN)) >= 0.9
    assert models.asked["small"] == 2000
    assert models.asked["large"] < 400
    node = cascade(con)
    details = node["details"]
    assert details["sampled"] + details["asked"] == models.asked["large"]
    assert sum(details[key] for key in ("sampled", "asked", "accepted by proxy", "rejected by proxy")) == 2000
    assert 0.2 < details["rejects below"] <= details["accepts from"] < 0.95
    assert con.last_profile()["totals"]["llm_calls"] == sum(models.asked.values())
    assert node["extra_info"]["what"].endswith("approximate: quality >= 0.9, proxy=small")
    again, asked = rows(con), models.asked["large"]
    assert (again, models.asked["large"]) == (found, asked)  # the same sample


@pytest.mark.parametrize("bad", ["useless", "contrary", "constant", "failing"])
def test_a_bad_proxy_decides_nothing(con: halo_sql.Connection, models: Models, bad: str) -> None:
    models.bad = bad
    found = rows(con)
    assert min(quality(found, EVEN)) >= 0.9
    if bad != "useless":  # a few of its lowest scores may be rejected
        assert found == EVEN
        assert models.asked["large"] == 2000
    assert models.asked["small"] == 2000


def test_the_order_of_rows_changes_nothing(con: halo_sql.Connection) -> None:
    found = rows(con)
    con.execute("CREATE OR REPLACE TABLE t AS SELECT n FROM t ORDER BY hash(n)")
    assert rows(con) == found


def test_nulls_and_equal_rows(con: halo_sql.Connection, models: Models) -> None:
    con.execute("INSERT INTO t SELECT NULL FROM range(10)")
    con.execute("INSERT INTO t SELECT 4 FROM range(100)")
    counts = Counter(rows(con))
    assert counts[4] == 101
    assert None not in counts
    assert con.last_profile()["totals"]["llm_calls_coalesced"] == 100


def test_few_rows_are_not_worth_a_sample(con: halo_sql.Connection, models: Models) -> None:
    assert rows(con, f"SELECT n FROM t WHERE n < 100 AND {FILTER} ORDER BY n") == list(range(0, 100, 2))
    assert models.asked == {"large": 100}


def test_a_limit_may_be_cheaper_exactly(con: halo_sql.Connection, models: Models) -> None:
    assert len(rows(con, f"SELECT n FROM t WHERE {FILTER} LIMIT 3")) == 3
    assert models.asked["small"] == 0
    assert models.asked["large"] < 100


@pytest.mark.parametrize("price", [Price(10.0, 40.0), Price(20.0, 80.0), Price()])
def test_a_proxy_that_is_not_known_to_be_cheaper_is_not_used(
    con: halo_sql.Connection, models: Models, price: Price
) -> None:
    models.prices["small"] = price
    assert rows(con) == EVEN
    assert models.asked == {"large": 2000}
    assert "no approximate plan is allowed and known to be cheaper than asking large" in con.explain(QUERY)


def test_failures_of_the_model_follow_on_error(con: halo_sql.Connection, models: Models) -> None:
    models.refused = 8
    query = QUERY.replace("quality", "on_error => 'null', quality")
    found = rows(con, query)
    assert "Cascade" in con.explain(query)
    assert min(quality(found, [n for n in EVEN if n % 100 != 8])) >= 0.9
    assert con.last_profile()["totals"]["errors"] > 0
    with pytest.raises(EngineError, match="not this one") as caught:
        rows(con)
    assert "LLM_FILTER(" in str(caught.value)


def test_verdicts_of_the_proxy_are_never_stored(
    con: halo_sql.Connection, models: Models, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    con.execute(f"SET halo_store = '{tmp_path / 'store.sqlite'}'")
    con.create_model("large", models.large, concurrency=64, storable=True)
    con.create_model("small", models.small, concurrency=64, storable=True)
    rows(con)
    asked = models.asked["large"]
    con.execute("SET halo_approximate = false")
    assert rows(con) == EVEN
    assert models.asked["large"] == 2000
    assert con.last_profile()["totals"]["llm_calls_from_store"] == asked
    con.execute("SET halo_approximate = true")
    models.asked.clear()
    rows(con)
    assert not models.asked


def test_what_is_learnt_is_of_verdicts_and_of_the_templates_asked(con: halo_sql.Connection, models: Models) -> None:
    con.execute("DROP STATISTICS")
    found = rows(con)
    learnt = con.execute("SELECT call, model, requests, true_share FROM halo_statistics()").fetchall()
    known = {(call[:10], model): (requests, share) for call, model, requests, share in learnt if call}
    requests, share = known["LLM_FILTER", "large"]
    assert requests == models.asked["large"]
    assert share == pytest.approx(len(found) / 2000, abs=0.01)
    requests, share = known["LLM_SCORE ", "small"]
    assert (requests, share) == (2000, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("quality => 0.9", "quality needs a proxy"),
        ("proxy => 'small'", "proxy says who may decide in part, but not how well"),
        ("quality => 1.0, proxy => 'small'", "It takes a number above 0 and below 1"),
        ("quality => 0, proxy => 'small'", "It takes a number above 0 and below 1"),
        ("quality => 'high', proxy => 'small'", "It takes a number above 0 and below 1"),
        ("quality => n, proxy => 'small'", "must be a constant"),
        ("quality => 0.9, proxy => 'smal'", 'model "smal" does not exist'),
        ("quality => 0.9, proxy => 'large'", "is the model itself"),
        ("quality => 0.9, proxy => 'minilm'", "minilm"),
        ("quality => 0.9, proxy => 'small', temperature => 1", "at this temperature they change"),
    ],
)
def test_wrong_options_are_told_with_their_place(con: halo_sql.Connection, options: str, words: str) -> None:
    with pytest.raises(halo_sql.Error) as caught:
        con.execute(f"SELECT n FROM t WHERE LLM_FILTER('Is it even? {{{{ n }}}}', {options})")
    assert words in str(caught.value)
    assert "LINE 1" in str(caught.value)
    assert "^" in str(caught.value)


@pytest.mark.parametrize("option", ["quality => 0.9", "proxy => 'small'"])
def test_other_operators_take_neither(con: halo_sql.Connection, option: str) -> None:
    with pytest.raises(halo_sql.Error, match="LLM_FILTER takes it"):
        con.execute(f"SELECT LLM_MAP('{{{{ n }}}}', {option}) FROM t")


def test_a_call_that_is_no_condition_is_exact(con: halo_sql.Connection, models: Models) -> None:
    query = f"SELECT count(*) FROM (SELECT {FILTER} AS even FROM t) WHERE even"
    assert con.execute(query).fetchall() == [(1000,)] or models.asked["small"]
    query = f"SELECT n, {FILTER} AS even FROM t ORDER BY n"
    assert [row[0] for row in con.execute(query).fetchall() if row[1]] == EVEN
    assert "it is not a whole condition" in con.explain(query)


def test_explain_analyze_tells_what_happened(con: halo_sql.Connection) -> None:
    text = con.explain(QUERY, analyze=True)
    assert re.search(r"sampled \d+, accepted by proxy \d+, rejected by proxy \d+, asked \d+", text)
    assert "llm_filter_cascade" in con.execute("EXPLAIN (RULES) " + QUERY).fetchall()[0][1]
    assert "small: prefill" in con.execute("EXPLAIN (COSTS) " + QUERY).fetchall()[0][1]
    assert con.execute("SELECT count(*) FROM halo_rules() WHERE name = 'llm_filter_cascade'").fetchall() == [(1,)]


def test_the_proxy_is_checked_like_any_model_when_it_may_be_asked(con: halo_sql.Connection, models: Models) -> None:
    con.execute("CREATE SECRET key (TYPE llm, API_KEY 'abc')")
    con.execute("CREATE MODEL hosted FROM 'http://127.0.0.1:1/v1' USING openai WITH (model = 'x', secret = key)")
    con.execute("DROP SECRET key")
    query = QUERY.replace("'small'", "'hosted'")
    with pytest.raises(halo_sql.Error, match='Secret "key" does not exist'):
        rows(con, query)
    assert not models.asked
    con.execute("SET halo_approximate = false")
    assert rows(con, query) == EVEN


def test_what_changes_rows_in_place_is_exact(con: halo_sql.Connection, models: Models) -> None:
    con.execute(f"DELETE FROM t WHERE {FILTER}")
    assert con.execute("SELECT count(*), min(n % 2) FROM t").fetchall() == [(1000, 1)]
    assert models.asked == {"large": 2000}


def test_options_as_parameters(con: halo_sql.Connection, models: Models) -> None:
    query = "SELECT n FROM t WHERE LLM_FILTER('Is it even? {{ n }}', quality => ?, proxy => ?)"
    found = [row[0] for row in con.execute(query, [0.8, "small"]).fetchall()]
    assert min(quality(found, EVEN)) >= 0.8
    assert models.asked["large"] < 200

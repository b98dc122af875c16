"""Semantic joins by classification: an item is asked once for all labels, a sample shows whether that is trusted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql
from halo_sql.errors import EngineError

TOPICS = ("prices", "delivery", "colours", "repairs", "refunds", "manuals", "jobs", "weather")
CALL = "LLM_FILTER('Is {{ t.body }} about {{ l.topic }}?', quality => 0.9)"
JOIN = f"SELECT t.id, l.topic FROM t JOIN l ON {CALL} ORDER BY ALL"


class Model:
    """Knows what texts are about; ``careless`` classifications leave out what they like."""

    def __init__(self) -> None:
        self.pairs = self.items = 0
        self.careless = 0.0
        self.broken = False
        self.systems: Counter[str] = Counter()

    def __call__(self, messages: list[dict[str, str]]) -> str:
        user = messages[-1]["content"]
        found = re.match(r"Is text (\d+) on (.*) about (.*)\?", user)
        assert found is not None, user
        number, about, label = int(found[1]), found[2].split(" and "), found[3]
        if label != "[LABEL]":
            self.pairs += 1
            return "yes" if label in about else "no"
        self.items += 1
        self.systems[messages[0]["content"]] += 1
        if self.broken:
            return "I cannot say"
        return json.dumps([topic for topic in about if number * 7919 % 100 >= 100 * self.careless])


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def con(model: Model) -> Iterator[halo_sql.Connection]:
    config = {"halo_store": "off", "halo_default_model": "m", "halo_approximate": True}
    with halo_sql.connect(config=config) as con:
        con.create_model("m", model, concurrency=64)
        con.execute("CREATE TABLE l (topic VARCHAR)")
        con.execute("INSERT INTO l SELECT unnest(?)", [list(TOPICS)])
        con.execute(
            "CREATE TABLE t AS SELECT range AS id, 'text ' || range || ' on ' || a.topic || ' and ' || b.topic AS body "
            "FROM range(300), l a, l b WHERE a.rowid = range % 8 AND b.rowid = (range * 5 + 3) % 8"
        )
        yield con


def exact(con: halo_sql.Connection) -> list[tuple[Any, ...]]:
    return con.execute("SELECT id, topic FROM t, l WHERE contains(body, topic) ORDER BY ALL").fetchall()


def details(con: halo_sql.Connection) -> dict[str, float]:
    stack = [con.last_profile()["plan"]]
    while stack:
        node = stack.pop()
        if node["operator_name"] == "LlmFilterCascade":
            found: dict[str, float] = node["details"]
            return found
        stack += node["children"]
    raise AssertionError("no cascade in the plan")


def test_an_item_is_asked_once_for_all_labels(con: halo_sql.Connection, model: Model) -> None:
    found = con.execute(JOIN).fetchall()
    assert found == exact(con)
    assert model.items == 300
    assert model.pairs < 0.4 * 2400
    assert con.last_profile()["totals"]["llm_calls"] == model.items + model.pairs
    [system] = model.systems
    assert all(f"- {topic}" in system for topic in TOPICS)
    assert details(con)["accepted by proxy"] > 0
    plan = con.explain(JOIN)
    assert "approximate: quality >= 0.9, proxy=m" in plan
    assert "classifies by topic#" in plan


def test_off_by_default(con: halo_sql.Connection, model: Model) -> None:
    for statement in ("SET halo_approximate = false", "SET halo_disabled_rules = 'classify_join'"):
        con.execute(statement)
        assert con.execute(JOIN).fetchall() == exact(con)
        assert (model.items, model.pairs) == (0, 2400)
        assert "Cascade" not in con.explain(JOIN)
        con.execute("SET halo_approximate = true")
        model.pairs = 0


def test_labels_that_are_missed_are_found_pair_by_pair(con: halo_sql.Connection, model: Model) -> None:
    model.careless = 0.5
    assert con.execute(JOIN).fetchall() == exact(con)  # what is named is right, what is not is asked
    done = details(con)
    assert done["accepted by proxy"] > 0
    assert done["rejected by proxy"] == 0
    assert model.pairs > 1500


def test_classifications_that_fail_decide_nothing(con: halo_sql.Connection, model: Model) -> None:
    model.broken = True
    assert con.execute(JOIN).fetchall() == exact(con)
    assert model.pairs == 2400
    model.broken = False


def test_a_condition_beside_an_equality(con: halo_sql.Connection, model: Model) -> None:
    query = f"SELECT t.id, l.topic FROM t JOIN l ON t.id % 2 = l.rowid % 2 AND {CALL} ORDER BY ALL"
    wanted = "SELECT id, topic FROM t, l WHERE contains(body, topic) AND id % 2 = l.rowid % 2 ORDER BY ALL"
    assert con.execute(query).fetchall() == con.execute(wanted).fetchall()


@pytest.mark.parametrize(("label", "items"), [("NULL", 300), ("' '", 0), ("repeat('long ', 100)", 0)])
def test_labels_that_no_classification_can_name(con: halo_sql.Connection, model: Model, label: str, items: int) -> None:
    con.execute(f"INSERT INTO l VALUES ({label})")
    assert con.execute(JOIN).fetchall() == [row for row in exact(con) if row[1] in TOPICS]
    assert model.items == items
    assert model.pairs == 2700 or items


def test_many_labels_are_asked_pair_by_pair(con: halo_sql.Connection, model: Model) -> None:
    con.execute("INSERT INTO l SELECT 'topic ' || range FROM range(60)")
    con.execute("DELETE FROM t WHERE id >= 40")
    assert con.execute(JOIN).fetchall() == exact(con)
    assert model.items == 0


def test_a_proxy_classifies_when_there_is_one(con: halo_sql.Connection, model: Model) -> None:
    other = Model()
    con.create_model("other", other, concurrency=64)
    query = JOIN.replace("0.9", "0.9, proxy => 'other'")
    assert con.execute(query).fetchall() == exact(con)
    assert (other.items, other.pairs, model.items) == (300, 0, 0)
    assert 0 < model.pairs < 1000
    con.execute("SET halo_max_calls = 100")
    with pytest.raises(EngineError, match="halo_max_calls"):
        con.execute(query).fetchall()


def test_one_hole_or_an_object_needs_a_proxy(con: halo_sql.Connection) -> None:
    for prompt in ("{{ t.body }}?", "{{ t.body, l.topic }}?"):
        with pytest.raises(halo_sql.Error, match="quality needs a proxy"):
            con.execute(f"SELECT 1 FROM t, l WHERE LLM_FILTER('{prompt}', quality => 0.9)")

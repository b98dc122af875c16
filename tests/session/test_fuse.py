"""``fuse => true`` through connections: the answers of one request, as if each had been asked by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql

BODY = "a long text that is read again for each question; " * 40


def answer(question: str, data: str) -> Any:
    if "Classify" in question:
        return ["big", "odd"] if "JSON array" in question else " Big"
    if "Extract" in question:
        return {"size": len(data) // 1000, "colour": None}
    number = int(re.findall(r"number (\d+)", data)[0]) if "number" in data else 0
    return number * 2 if "double" in question else f"{question.split()[0]} of {number}"


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def con(seen: list[str]) -> Iterator[halo_sql.Connection]:
    def ask(messages: list[dict[str, str]]) -> str:
        prompt = messages[-1]["content"]
        seen.append(prompt)
        if "\nq1: " not in prompt:
            found = answer("\n".join(message["content"] for message in messages), prompt)
            return json.dumps(found) if isinstance(found, list | dict) else str(found)
        asked, data = prompt.split("[1]:\n", 1)
        questions = re.findall(r"^(q\d+): (.*?)(?=\nq\d+: |\n\n$)", asked, re.MULTILINE | re.DOTALL)
        return json.dumps({name: answer(text, data) for name, text in questions})

    with halo_sql.connect(config={"halo_store": "off", "halo_verify": True}) as con:
        con.create_model("ask", ask)
        con.execute("SET halo_default_model = 'ask'")
        con.execute("SET halo_objective = 'tokens'")  # side by side, two requests of a few rows take no longer than one
        con.execute(f"CREATE TABLE t AS SELECT range AS i, 'number ' || range || ' ' || '{BODY}' AS body FROM range(5)")
        con.execute("INSERT INTO t VALUES (5, NULL)")
        yield con


QUERY = """SELECT i, LLM_MAP('topic of: {{ body }}', fuse => true) AS topic,
                  LLM_MAP('double it: {{ body }}', returns => 'INTEGER', fuse => true) AS twice FROM t ORDER BY i"""
ROWS = [(i, f"topic of {i}", 2 * i) for i in range(5)] + [(5, None, None)]


def test_one_request_per_row_gives_the_answers_of_two(con: halo_sql.Connection, seen: list[str]) -> None:
    assert "· fused 2 calls ·" in con.explain(QUERY)
    assert con.execute(QUERY).fetchall() == ROWS
    assert len(seen) == 5
    assert all(prompt.count(BODY) == 1 for prompt in seen)


def test_computed_and_object_holes_are_compared_by_value(con: halo_sql.Connection, seen: list[str]) -> None:
    for hole in ("{{ upper(body) }}", "{{ i, body }}"):
        seen.clear()
        query = f"SELECT LLM_MAP('topic of: {hole}', fuse => true), LLM_MAP('mood of: {hole}', fuse => true) FROM t"
        assert len(con.execute(query).fetchall()) == 6
        assert len(seen) == (5 if "upper" in hole else 6)


def test_without_the_option_or_the_rule_prompts_stay_as_they_are(con: halo_sql.Connection, seen: list[str]) -> None:
    con.execute("SET halo_disabled_rules = 'fuse_llm_maps'")
    assert con.execute(QUERY).fetchall() == ROWS
    assert len(seen) == 10
    con.execute("RESET halo_disabled_rules")
    seen.clear()
    assert con.execute(QUERY.replace(", fuse => true", "", 1)).fetchall() == ROWS
    assert len(seen) == 10
    assert not any("q1:" in prompt for prompt in seen)


def test_filters_on_answers_and_branches_of_case_see_the_same(con: halo_sql.Connection, seen: list[str]) -> None:
    assert con.execute(f"SELECT i FROM ({QUERY}) WHERE twice > 4 AND topic <> 'topic of 4'").fetchall() == [(3,)]
    seen.clear()
    guarded = """SELECT CASE WHEN i < 2 THEN LLM_MAP('topic of: {{ body }}', fuse => true) END,
                        CASE WHEN i < 2 THEN LLM_MAP('mood of: {{ body }}', fuse => true) END FROM t ORDER BY i"""
    rows = con.execute(guarded).fetchall()
    assert rows[:3] == [("topic of 0", "mood of 0"), ("topic of 1", "mood of 1"), (None, None)]
    assert all("number 0" in prompt or "number 1" in prompt for prompt in seen)


def test_a_wrong_answer_fails_the_statement_as_it_would_alone(con: halo_sql.Connection) -> None:
    query = QUERY.replace("double it", "mood of")
    with pytest.raises(halo_sql.Error, match="does not fit"):
        con.execute(query).fetchall()
    with pytest.raises(halo_sql.Error, match="does not fit"):
        con.execute(query.replace("fuse => true", "fuse => false")).fetchall()
    lenient = query.replace("fuse => true", "fuse => true, on_error => 'null'")
    assert con.execute(lenient).fetchall() == [(i, topic, None) for i, topic, _ in ROWS]


MIXED = """SELECT LLM_MAP('topic of: {{ body }}', fuse => true) AS topic,
    LLM_CLASSIFY(body, [{'label': 'small'}, {'label': 'big', 'description': 'more than a page'}], fuse => true) AS size,
    LLM_CLASSIFY(body, ['odd', 'big', 'new'], multi => true, fuse => true) AS tags,
    LLM_EXTRACT(body, 'STRUCT(size INTEGER, colour VARCHAR)', fuse => true) AS parts FROM t ORDER BY i"""


def test_classify_and_extract_are_asked_with_maps(con: halo_sql.Connection, seen: list[str]) -> None:
    assert "· fused 4 calls ·" in con.explain(MIXED)
    rows = con.execute(MIXED).fetchall()
    assert len(seen) == 5
    assert all("- big: more than a page" in prompt and "- colour: text" in prompt for prompt in seen)
    con.execute("SET halo_disabled_rules = 'fuse_llm_maps'")
    seen.clear()
    assert con.execute(MIXED).fetchall() == rows
    assert len(seen) == 20
    assert rows[3] == ("topic of 3", "big", ["odd", "big"], {"size": 2, "colour": None})
    assert rows[5] == (None,) * 4


def test_types_of_fused_columns_are_those_of_the_calls(con: halo_sql.Connection) -> None:
    kinds = [row[1] for row in con.execute(f"DESCRIBE {MIXED}").fetchall()]
    con.execute(f"CREATE TABLE made AS {MIXED}")
    assert [row[1] for row in con.execute("DESCRIBE made").fetchall()] == kinds
    assert kinds[1:] == ["VARCHAR", "VARCHAR[]", "STRUCT(size INTEGER, colour VARCHAR)"]


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        ({"q1": "a", "q2": "huge"}, "'q2': it is none of 'small', 'big'"),
        ({"q1": None, "q2": "big"}, "'q1': it is null"),
        ({"q1": "a"}, "'q2' is missing"),
        ({"q1": "a", "q2": "big", "q3": 1}, "'q3' is unknown"),
        (["a", "big"], "not an object"),
    ],
)
def test_a_member_that_its_call_would_refuse_is_refused(con: halo_sql.Connection, answered: Any, problem: str) -> None:
    con.create_model("odd", lambda messages: json.dumps(answered))
    query = """SELECT LLM_MAP('topic of: {{ body }}', model => 'odd', fuse => true),
                      LLM_CLASSIFY(body, ['small', 'big'], model => 'odd', fuse => true) FROM t"""
    with pytest.raises(halo_sql.Error, match=re.escape(problem)):
        con.execute(query).fetchall()


def test_values_that_are_carried_as_text_and_json(con: halo_sql.Connection) -> None:
    answered = {"q1": "10:00:00+02", "q2": " BIG ", "q3": None, "q4": 2**127}
    con.create_model("odd", lambda messages: json.dumps(answered))
    con.execute("SET halo_default_model = 'odd'")
    query = """SELECT LLM_MAP('at: {{ body }}', returns => 'TIMETZ', fuse => true)::VARCHAR,
                      LLM_CLASSIFY(body, ['small', 'big'], fuse => true),
                      LLM_MAP('more: {{ body }}', returns => 'JSON', fuse => true),
                      LLM_MAP('count: {{ body }}', returns => 'UHUGEINT', fuse => true) FROM t WHERE i < 5"""
    assert "· fused 4 calls ·" in con.explain(query)
    assert con.execute(query).fetchall() == [("10:00:00+02", "big", "null", 2**127)] * 5


def test_the_option_is_one_of_llm_map(con: halo_sql.Connection) -> None:
    with pytest.raises(halo_sql.Error, match="fuse"):
        con.execute("SELECT LLM_FILTER('{{ body }}', fuse => true) FROM t")
    with pytest.raises(halo_sql.Error, match="true or false"):
        con.execute("SELECT LLM_MAP('{{ body }}', fuse => 3) FROM t")

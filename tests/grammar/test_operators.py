"""What scalar operators ask of the model: system message, form of the answer, options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, YES_NO, Answer
from halo_sql.ir.logical import LlmFilter, LlmMap
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import json_schema
from halo_sql.ir.walk import walk
from halo_sql.operators.convert import answer_form


def call_of(bound: Any, text: str) -> LlmCall:
    """The one call of ``SELECT <text> FROM t``."""
    plan = bound(f"SELECT {text} AS m FROM t").plan
    calls = [call for node in walk(plan) if isinstance(node, LlmMap) for call in node.calls]
    calls += [node.call for node in walk(plan) if isinstance(node, LlmFilter)]
    assert len(calls) == 1
    return calls[0]


def test_classify_tells_the_labels(bound: Any) -> None:
    labels = "[{'label': 'bug', 'description': 'it is\n  broken'}, {'label': 'praise', 'description': NULL}]"
    call = call_of(bound, f"LLM_CLASSIFY(body, {labels})")
    assert call.prompt.system == (
        "Classify the text that the user gives.\n"
        "Answer with the one label below that fits best, and nothing else.\n"
        "Labels:\n"
        "- bug: it is broken\n"
        "- praise"
    )
    assert (call.kind, call.labels, call.returns.text) == ("classify", ("bug", "praise"), "VARCHAR")
    assert answer_form(call) == Answer("choice", choices=("bug", "praise"))


def test_several_labels_are_a_list_of_them(bound: Any) -> None:
    call = call_of(bound, "LLM_CLASSIFY(body, ['a', 'b'], multi => true)")
    assert call.prompt.system is not None
    assert "JSON array" in call.prompt.system
    assert call.returns.text == "VARCHAR[]"
    form = answer_form(call)
    assert (form.kind, form.choices) == ("json", ("a", "b"))
    assert json.loads(form.schema) == {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 2}


def test_extract_tells_the_fields(bound: Any) -> None:
    type_text = (
        "STRUCT(name VARCHAR, born DATE, size DECIMAL(5,2), mood ENUM(''good'', ''bad''), n UTINYINT, "
        "parts STRUCT(label VARCHAR, ok BOOLEAN)[], pair DOUBLE[2], words MAP(VARCHAR, INTEGER))"
    )
    call = call_of(bound, f"LLM_EXTRACT(body, '{type_text}')")
    assert call.prompt.system == (
        "Extract these fields from the text that the user gives.\n"
        "Answer with one JSON object and nothing else. A field that the text does not tell is null.\n"
        "Fields:\n"
        "- name: text\n"
        "- born: date, YYYY-MM-DD\n"
        "- size: number\n"
        "- mood: one of good, bad\n"
        "- n: integer\n"
        "- parts: list of: object with the fields below\n"
        "  - label: text\n"
        "  - ok: true or false\n"
        "- pair: list of exactly 2: number\n"
        "- words: object, its keys: text, its values: integer"
    )
    schema = json.loads(answer_form(call).schema)
    assert schema == json_schema(call.returns, optional=True)
    assert schema["properties"]["n"] == {"type": ["integer", "null"], "minimum": 0, "maximum": 255}
    assert schema["properties"]["mood"] == {"type": ["string", "null"], "enum": ["good", "bad", None]}
    assert schema["properties"]["parts"]["items"]["type"] == "object"
    assert schema["required"] == [name for name, _ in call.returns.fields]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("LLM_MAP('{{ body }}')", TEXT),
        ("LLM_FILTER('{{ body }}')", YES_NO),
        ("LLM_SCORE('{{ body }}')", SCORE),
        ("LLM_EMBED(body, model => 'echo')", EMBEDDING),
    ],
)
def test_forms(bound: Any, text: str, form: Answer) -> None:
    call = call_of(bound, text)
    assert answer_form(call) == form
    assert call.prompt.system is None


@pytest.mark.parametrize("operator", ["LLM_CLASSIFY({0}, ['a', 'b']", "LLM_EXTRACT({0}, 'STRUCT(a VARCHAR)'"])
def test_the_users_words_come_first_and_examples_last(bound: Any, operator: str) -> None:
    own = call_of(bound, operator.format("body") + ")").prompt.system
    options = "system => 'You sort.', examples => [{'input': 'x', 'output': 'a'}]"
    found = call_of(bound, operator.format("body") + f", {options})").prompt.system
    assert found == f"You sort.\n\n{own}\n\nInput: x\nOutput: a"
    # the PROMPT "good" has a system message, which an option replaces
    assert call_of(bound, operator.format("good") + ")").prompt.system == f"Be brief.\n\n{own}"
    assert call_of(bound, operator.format("good") + ", system => 'No.')").prompt.system == f"No.\n\n{own}"


def test_a_label_has_room(bound: Any) -> None:
    long = "x" * 200
    assert call_of(bound, f"LLM_CLASSIFY(body, ['a', '{long}'])").sampling.max_tokens >= 200
    assert call_of(bound, f"LLM_CLASSIFY(body, ['a', '{long}'], multi => true)").sampling.max_tokens >= 206
    assert call_of(bound, "LLM_CLASSIFY(body, ['a'], max_tokens => 3)").sampling.max_tokens == 3
    assert call_of(bound, "LLM_EMBED(body, model => 'echo')").sampling.max_tokens == 0


def test_labels_decide_whether_calls_are_the_same(bound: Any) -> None:
    first = call_of(bound, "LLM_CLASSIFY(body, ['a', 'b'])")
    assert first.same_request(call_of(bound, "LLM_CLASSIFY(body, ['a', 'b'])"))
    assert not first.same_request(call_of(bound, "LLM_CLASSIFY(body, ['b', 'a'])"))

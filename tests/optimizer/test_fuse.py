"""Which calls are asked together, what the request says, and when it pays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halo_sql.explain import render_text
from halo_sql.ir.call_key import call_key
from halo_sql.ir.physical import LlmMapExec
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole, Sampling
from halo_sql.optimizer.context import CallProfile

from .plans import ID, A, T, call, col, context, llm_map, plan_of, project, well_formed

LONG: dict[str, Any] = {"rows": 1000, "chars": {3: 4000, 4: 4000}}


def asked(*calls: LlmCall, **options: Any) -> list[LlmCall]:
    done = plan_of(llm_map(T, *calls), context(**{**LONG, **options}))
    well_formed(done.dag)
    return [item for node in done.dag.nodes if isinstance(node.op, LlmMapExec) for item in node.op.calls]


def ask(output: int, text: str, **rest: Any) -> LlmCall:
    return call(output, text, **{"fuse": True, **rest})


def test_one_request_shows_the_data_once_behind_all_questions() -> None:
    (one,) = asked(ask(20, "topic of {3} in {4}?"), ask(21, "{4}, {3}: its mood?"), ask(22, "{3}{4}{3}"))
    texts = [segment for segment in one.prompt.user if isinstance(segment, str)]
    assert texts[0].endswith("\nq1: topic of [1] in [2]?\nq2: [2], [1]: its mood?\nq3: [1][2][1]\n\n[1]:\n")
    assert [segment for segment in one.prompt.user if not isinstance(segment, str)] == [
        Hole(T.columns[2].id),
        Hole(T.columns[3].id),
    ]
    assert one.returns.text == "STRUCT(q1 VARCHAR, q2 VARCHAR, q3 VARCHAR)"
    assert one.sampling.max_tokens == 3 * (256 + 16)
    assert [part.output for part in one.fused] == [20, 21, 22]


@pytest.mark.parametrize(
    "other",
    [
        ask(21, "mood of {3}", fuse=False),
        ask(21, "mood of {4}"),
        ask(21, "mood of {3}", model="n"),
        ask(21, "mood of {3}", on_error="null"),
        ask(21, "mood of {3}", on_error="struct"),
        ask(21, "mood of {3}", cache=False),
        ask(21, "mood of {3}", priority=3),
        ask(21, "mood of {3}", guard=A.id),
        ask(21, "mood of {3}", sampling=Sampling(temperature=0.5, seed=3)),
        ask(21, "mood of {3}", sampling=Sampling(stop=("x",))),
        ask(21, "mood of {3}", kind="score"),
        ask(21, "mood of {3, 4}"),
        ask(21, "mood of them"),
    ],
    ids=lambda item: f"{item.label} {item.model} {item.on_error}",
)
def test_calls_that_differ_in_more_than_their_question_stay_apart(other: LlmCall) -> None:
    assert len(asked(ask(20, "topic of {3}"), other)) == 2


def labelled(output: int, text: str, *labels: str, system: str = "", **rest: Any) -> LlmCall:
    """LLM_CLASSIFY as it is bound."""
    words = "Labels: " + ", ".join(labels)
    done = ask(output, text, kind="classify", labels=labels, instructions=words, **rest)
    said = f"{system}\n\n{words}" if system else words
    return replace(done, prompt=replace(done.prompt, system=said))


def test_classifications_and_maps_are_asked_together() -> None:
    (one,) = asked(ask(20, "topic of {3}"), labelled(21, "{3}", "bug", "praise"))
    text = one.prompt.user[0]
    assert isinstance(text, str)
    assert text.endswith("\nq1: topic of [1]\nq2: The text that the user gives is: [1]\nLabels: bug, praise\n\n[1]:\n")
    assert (one.kind, one.prompt.system, one.labels) == ("map", None, ())
    assert one.returns.text == "STRUCT(q1 VARCHAR, q2 VARCHAR)"
    assert [part.kind for part in one.fused] == ["map", "classify"]


def test_the_users_own_system_message_stays_one() -> None:
    first, second = (labelled(20 + n, "{3}", "a", str(n), system="Be strict.") for n in (1, 2))
    (one,) = asked(first, second)
    assert one.prompt.system == "Be strict."
    assert len(asked(first, labelled(23, "{3}", "a", "3"))) == 2
    assert len(asked(first, ask(24, "topic of {3}"))) == 2


def test_very_many_labels_stay_apart() -> None:
    many = tuple(f"label number {number}" for number in range(400))
    assert len(asked(ask(20, "topic of {3}"), labelled(21, "{3}", *many))) == 2


def test_answers_of_volatile_calls_stay_independent() -> None:
    assert len(asked(ask(20, "topic of {3}", volatile=True), ask(21, "mood of {3}", volatile=True))) == 2


def test_objects_are_the_same_in_whatever_order_their_fields_are() -> None:
    first, second = ask(20, "topic of {3, 4}"), ask(21, "mood of {4, 3}")
    (one,) = asked(first, second)
    assert one.prompt.columns() == first.prompt.columns()
    assert isinstance(first.prompt.user[-1], ObjectHole)


def test_columns_computed_in_the_same_way_are_the_same_data() -> None:
    shown, again, other = (col(number) for number in (30, 31, 32))
    source = project(T, ID, (shown, "upper(#3)"), (again, "upper(#3)"), (other, "lower(#3)"))

    def fused(first: int, second: int) -> list[int]:
        plan = llm_map(source, ask(20, f"topic of {{{first}}}"), ask(21, f"mood of {{{second}}}"))
        done = plan_of(plan, context(**LONG))
        return [len(item.fused) for node in done.dag.nodes if isinstance(node.op, LlmMapExec) for item in node.op.calls]

    assert fused(30, 31) == [2]
    assert fused(30, 32) == [0, 0]


def test_others_in_the_node_are_asked_as_before() -> None:
    found = asked(ask(20, "topic of {3}"), call(22, "size of {3}"), ask(21, "mood of {3}"))
    assert sorted(len(item.fused) for item in found) == [0, 2]


def test_it_saves_prompt_tokens_and_says_what_it_is() -> None:
    calls = (ask(20, "topic of {3}"), ask(21, "mood of {3}"))
    together = plan_of(llm_map(T, *calls), context(**LONG))
    apart = plan_of(llm_map(T, *(replace(item, fuse=False) for item in calls)), context(**LONG))
    tokens = [sum(node.estimate.prompt_tok for node in done.dag.nodes) for done in (together, apart)]
    assert tokens[0] < 0.6 * tokens[1]
    assert "· fused 2 calls ·" in render_text(together.dag)
    off = plan_of(llm_map(T, *calls), context(**LONG, disabled_rules=frozenset({"fuse_llm_maps"})))
    assert "fused" not in render_text(off.dag)


def test_it_does_not_pay_for_short_data_of_an_engine_that_shares_no_prefix() -> None:
    found = asked(ask(20, "topic of {3}"), ask(21, "mood of {3}"), chars={3: 4}, objective="tokens")
    assert len(found) == 2


def test_what_was_learnt_of_the_answers_counts() -> None:
    calls = (ask(20, "topic of {3}"), ask(21, "mood of {3}"))
    learnt = {("m", call_key(item)): CallProfile(output_tok=3.0) for item in calls}
    done = plan_of(llm_map(T, *calls), context(**LONG, calls=learnt))
    (node,) = (node for node in done.dag.nodes if isinstance(node.op, LlmMapExec))
    assert node.estimate.output_tok == 1000 * 2 * (3.0 + 5.0)

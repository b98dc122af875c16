"""Plans and contexts as text: read back they are equal, share what they shared, and optimize to the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings

from halo_sql.ir import expr, logical, prompt
from halo_sql.ir.logical import Filter
from halo_sql.ir.walk import children, output_columns
from halo_sql.optimizer import context as contexts
from halo_sql.optimizer.codec import CLASSES, DamagedError, decode, encode
from halo_sql.optimizer.context import CallProfile, EngineProfile, OptimizerContext

from .memo_cases import GIVES, GIVES_NOT, MAPPED, over_cte
from .normalize_cases import FIRES, KNOWN
from .plans import BODIES, TITLES, T, call, context, llm_map, plan_of, sample, where
from .test_same_rows import PLANS, build


def read_back(*roots: Any) -> list[Any]:
    lines, places = encode(*roots)
    made = decode([json.loads(line) for line in lines])
    return [made[place] for place in places]


def planned_twice(plan: Any, ctx: OptimizerContext) -> None:
    """The plan and what was read back from its text give one DAG."""
    again, ctx_again = read_back(plan, ctx)
    first, second = plan_of(plan, ctx), plan_of(again, ctx_again, output_columns(plan))
    assert again == plan
    assert second.dag == first.dag
    assert second.cost == first.cost
    assert second.trace.counters == first.trace.counters
    assert second.trace.groups() == first.trace.groups()
    assert [(rule.name, rule.tried, rule.fired) for rule in second.trace.rules] == [
        (rule.name, rule.tried, rule.fired) for rule in first.trace.rules
    ]


@given(PLANS)
@settings(max_examples=60, deadline=None)
def test_random_plans(steps: list[tuple[str, int]]) -> None:
    planned_twice(build(steps), context(rows=500, distinct={3: 20, 4: 3}, chars={3: 100.5}))


@pytest.mark.parametrize("rule", FIRES)
def test_plans_of_normalize_rules(rule: str) -> None:
    for plan, _ in FIRES[rule]:
        planned_twice(plan, KNOWN.get(rule, context()))


@pytest.mark.parametrize("rule", GIVES)
def test_plans_of_other_rules(rule: str) -> None:
    for plan, options, _ in (GIVES[rule], GIVES_NOT[rule]):
        planned_twice(plan, context(**options))


def test_a_context_keeps_all_it_knows() -> None:
    made = call(20, "{3, 4}")
    ctx = context(
        rows=10,
        distinct={3: 2},
        objects={made.output: (sample(c3=BODIES, c4=TITLES), None)},
        engines={"m": EngineProfile(kv_read_s=1e-300, memory_bytes=math.inf, device="café")},
        calls={("m", "k"): CallProfile(true_share=0.1)},
        disabled_rules=frozenset({"sink", "limit"}),
        occupied_bytes={"cuda:0": 1e9},
        prune=False,
    )
    (again,) = read_back(ctx)
    assert replace(again, objects={}) == replace(ctx, objects={})
    ((known, nothing),) = again.objects.values()
    assert (known.names, known.values, known.before) == (("c3", "c4"), (BODIES, TITLES), (0,) * 96)
    assert nothing is None


def test_the_text_is_the_same_whatever_the_order_of_sets() -> None:
    names = [f"rule {number}" for number in range(20)]
    texts = {tuple(encode(context(disabled_rules=frozenset(own)))[0]) for own in (names, names[::-1])}
    assert len(texts) == 1


def test_what_is_shared_stays_shared() -> None:
    plan: Any = MAPPED
    for number in range(60):  # each level reads the one below it twice: 2⁶⁰ readings of one plan
        plan = over_cte(plan, 2)
        plan = replace(plan, inputs=tuple(replace(reader, cte=number) for reader in plan.inputs))
    lines, _ = encode(plan)
    assert len(lines) < 1000
    (again,) = read_back(plan)
    first, second = again.inputs
    assert first.input is second.input


def test_plans_that_are_equal_but_not_one_stay_two() -> None:
    one, two = (llm_map(T, call(20, "x {3}")) for _ in range(2))
    assert one == two
    first, second, third = read_back(one, two, one)
    assert first is not second
    assert first is third


def test_depth_does_not_matter() -> None:
    plan: Any = T
    for number in range(20_000):
        plan = where(plan, f"#2 > {number}")
    (again,) = read_back(plan)
    depth = 0
    while isinstance(again, Filter):
        assert again.predicate.parts[-1] == f" > {19_999 - depth}"
        again, depth = children(again)[0], depth + 1
    assert depth == 20_000
    assert again == T


def test_every_class_of_plans_and_contexts_is_known() -> None:
    modules = (logical, expr, prompt, contexts)
    frozen = [own for module in modules for own in vars(module).values() if isinstance(own, type) and is_dataclass(own)]
    missing = {own.__name__ for own in frozen} - CLASSES.keys()
    assert missing == {"BoundStatement"}  # of the binder: its plan is what is optimized


def test_an_older_text_lacks_fields_that_have_defaults() -> None:
    lines = ["SqlType", {"text": "VARCHAR", "kind": "varchar"}]
    assert decode([lines]) == [expr.SqlType("VARCHAR", "varchar")]


DAMAGED: list[tuple[Iterable[Any], str]] = [
    ([["Popen", {"args": ["ls"]}]], "object 0: no class 'Popen'"),
    ([["ColumnRef", {"id": 1, "name": "a"}]], "object 0: ColumnRef has no field 'name'"),
    ([["ColumnRef", {}]], "object 0: ColumnRef without its field 'id'"),
    ([["ColumnRef", {"id": "1"}]], "object 0: ColumnRef.id cannot be str 1"),
    ([["ColumnRef", {"id": True}]], "object 0: ColumnRef.id cannot be bool True"),
    ([["ColumnRef", {"id": 1}], ["Distinct", {"input": {"at": 0}}]], "object 1: Distinct.input cannot be ColumnRef"),
    ([["Distinct", {"input": {"at": 0}}]], "object 0: cannot read {'at': 0}"),
    ([["Distinct", {"input": {"from": 0}}]], "object 0: cannot read {'from': 0}"),
    ([["Distinct", {"input": {}}]], "object 0"),
    ([["Distinct"]], "object 0"),
    ([7], "object 0"),
    ([["OptimizerContext", {"objective": "luck"}]], "object 0: luck"),
    ([["OptimizerContext", {"max_usd": {"float": "much"}}]], "object 0"),
    ([["OptimizerContext", {"engines": {"map": [["m", 1]]}}]], "object 0: OptimizerContext.engines"),
    ([["SqlExpr", {"parts": [7], "type": None}]], "object 0: SqlExpr.parts"),
]


@pytest.mark.parametrize(("lines", "message"), DAMAGED)
def test_damaged_lines_are_refused(lines: list[Any], message: str) -> None:
    with pytest.raises(DamagedError) as problem:
        decode(lines)
    assert str(problem.value).startswith(message)


def test_fields_are_those_of_the_classes() -> None:
    ctx = OptimizerContext()
    name, written = json.loads(encode(ctx)[0][-1])
    assert name == "OptimizerContext"
    assert list(written) == [field.name for field in fields(ctx)]

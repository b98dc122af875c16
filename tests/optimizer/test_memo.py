"""The memo: interning, merging, closure under merges."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Fragment, InputRef
from halo_sql.ir.walk import children
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.memo import GroupRef, Memo

from .plans import T, call, col, context, limit, llm_filter, llm_map, order_by, plan_of, where

A_THEN_B = llm_filter(llm_filter(T, 21, "a {3}"), 22, "b {3}")
B_THEN_A = llm_filter(llm_filter(T, 22, "b {3}"), 21, "a {3}")


def consistent(memo: Memo) -> None:
    """Every live expression refers to live groups, is known under its key once, and stands with its children."""
    keys = set()
    for group in memo.groups.values():
        assert memo.find(group.id) == group.id
        assert group.expressions
        for expression in group.expressions:
            key = memo._key(expression)
            assert key not in keys
            keys.add(key)
            owner, known = memo._interned[key]
            assert (memo.find(owner), known) == (group.id, expression)
            for child in children(expression):
                assert isinstance(child, GroupRef)
                assert memo.find(child.id) == child.id
                assert any(parent is expression for _, parent in memo.group(child).parents)


def test_equal_plans_are_one_group() -> None:
    memo = Memo(OptimizerContext())
    first = memo.insert(A_THEN_B)
    again = memo.insert(llm_filter(llm_filter(T, 21, "a {3}"), 22, "b {3}"))
    assert first == again
    assert (len(memo.groups), memo.expression_count) == (3, 3)
    consistent(memo)


def test_different_plans_are_different_groups() -> None:
    memo = Memo(OptimizerContext())
    assert memo.insert(where(T, "#2 > 1")) != memo.insert(where(T, "#2 > 2"))
    assert memo.insert(llm_map(T, call(20, "x {3}"))) != memo.insert(llm_map(T, call(20, "x {4}")))


def test_proving_two_groups_equal_merges_them_and_their_parents() -> None:
    memo = Memo(OptimizerContext())
    first, second = memo.insert(A_THEN_B), memo.insert(B_THEN_A)
    above_first, above_second = memo.insert(limit(A_THEN_B, 3)), memo.insert(limit(B_THEN_A, 3))
    top_first, top_second = (
        memo.insert(order_by(limit(A_THEN_B, 3), "#1")),
        memo.insert(order_by(limit(B_THEN_A, 3), "#1")),
    )
    assert len({first, second, above_first, above_second, top_first, top_second}) == 6
    memo.insert(B_THEN_A, first)
    assert memo.find(first) == memo.find(second)
    assert memo.find(above_first) == memo.find(above_second)
    assert memo.find(top_first) == memo.find(top_second)
    assert memo.merges == 3
    assert len(memo.expressions(first)) == 2
    consistent(memo)


def test_self_reference_after_a_merge_is_survived() -> None:
    # a rule that proves Limit(X) = X makes an expression whose input is its own group
    memo = Memo(OptimizerContext())
    source = memo.insert(T)
    memo.insert(limit(T, None), source)
    assert len(memo.groups) == 1
    assert [memo.find(child.id) for item in memo.expressions(source) for child in children(item)] == [source]
    consistent(memo)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6))
def test_any_merges_keep_the_memo_consistent(pairs: list[tuple[int, int]]) -> None:
    memo = Memo(OptimizerContext())
    bases = [where(T, f"#2 > {number}") for number in range(4)]
    tops: list[Any] = []
    for base in bases:
        tops += [limit(base, 3), order_by(limit(base, 3), "#1"), llm_filter(base, 21, "a {3}")]
    ids = [memo.insert(plan) for plan in tops]
    for left, right in pairs:
        memo.insert(bases[right], memo.insert(bases[left]))
    consistent(memo)
    classes = {number: number for number in range(4)}
    for left, right in pairs:
        old, new = classes[right], classes[left]
        classes = {number: (new if kind == old else kind) for number, kind in classes.items()}
    for left in range(4):
        for right in range(4):
            for offset in range(3):
                same = memo.find(ids[3 * left + offset]) == memo.find(ids[3 * right + offset])
                assert same == (classes[left] == classes[right])


def test_search_merges_groups_of_a_plan() -> None:
    # both orders in one statement: exploring proves them equal
    refs = [InputRef(index, (("id", ColumnId(1)),)) for index in range(2)]
    union = Fragment(("FROM ", refs[0], " UNION ALL FROM ", refs[1]), (col(60, "id"),), (A_THEN_B, B_THEN_A))
    done = plan_of(union, context(disabled_rules=frozenset({"narrow_inputs"})))
    assert done.trace.counter("merges") > 0
    assert len([node for node in done.dag.nodes if "Llm" in type(node.op).__name__]) == 2
    # one input, read twice by one query: nothing to materialize besides the fragment's own spool; and a RowGraph
    assert [len(node.inputs) for node in done.dag.nodes] == [0, 1, 1, 1, 1]

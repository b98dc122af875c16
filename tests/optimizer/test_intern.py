"""Equal sub-plans are one node, whatever their columns are called; different ones never are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

import halo_sql
from halo_sql.errors import Span
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr
from halo_sql.ir.logical import Fragment, Join, Project
from halo_sql.ir.physical import DuckFragmentExec, Input, LlmMapExec, PhysicalNode, SelectExec
from halo_sql.ir.prompt import Hole, LlmCall, Prompt, Sampling
from halo_sql.ir.renumber import Renaming
from halo_sql.ir.types import BOOLEAN, VARCHAR
from halo_sql.optimizer.intern import Interner
from halo_sql.optimizer.optimize import Optimized


def column(number: int, name: str = "x") -> Column:
    return Column(ColumnId(number), name, VARCHAR)


def scan(place: int, ids: Sequence[int], text: str = "SELECT * FROM t", volatile: bool = False) -> PhysicalNode:
    columns = tuple(column(number, f"n{number}") for number in ids)
    return PhysicalNode(place, DuckFragmentExec(Fragment((text,), columns, volatile=volatile)), (), columns)


def asked(below: PhysicalNode, hole: int, output: int, label: str = "", **options: float) -> PhysicalNode:
    call = LlmCall(ColumnId(output), "map", Prompt((Hole(ColumnId(hole)),)), "m", label=label, span=Span(3, 4))
    call = replace(call, sampling=Sampling(**options))  # type: ignore[arg-type]
    return PhysicalNode(below.id + 1, LlmMapExec((call,)), (below.id,), (*below.columns, column(output)))


def test_ids_names_labels_and_positions_make_no_difference() -> None:
    interner = Interner()
    first = scan(0, (1, 2))
    found = interner.add([first, asked(first, 2, 3, "LLM_MAP('{{ a }}')")], 0)
    second = scan(0, (7, 4))
    again = interner.add([second, asked(second, 4, 9, "LLM_MAP('{{ b }}')")], 1, offset=100)
    assert len(interner.nodes) == 2
    place, ids = again[1]
    assert place == found[1][0]
    assert [ids[ColumnId(own)] for own in (7, 4, 9)] == [found[1][1][ColumnId(own)] for own in (1, 2, 3)]
    there, own = interner.aliases[Span(3, 4), 1]
    assert (there.label, own.label, own.span) == ("LLM_MAP('{{ a }}')", "LLM_MAP('{{ b }}')", Span(103, 104))


@pytest.mark.parametrize(
    "other",
    [
        [scan(0, (1, 2), "SELECT * FROM u"), asked(scan(0, (1, 2)), 2, 3)],
        [scan(0, (1, 2)), asked(scan(0, (1, 2)), 1, 3)],
        [scan(0, (1, 2)), asked(scan(0, (1, 2)), 2, 3, top_p=0.5)],
    ],
)
def test_another_table_hole_or_option_is_another_node(other: list[PhysicalNode]) -> None:
    interner = Interner()
    base = scan(0, (1, 2))
    first = interner.add([base, asked(base, 2, 3)])
    assert interner.add(other, 1)[1][0] != first[1][0]


def test_what_may_differ_each_time_equals_nothing() -> None:
    base = scan(0, (1, 2))
    for nodes in ([base, asked(base, 2, 3, temperature=0.5)], [scan(0, (1, 2), "SELECT random()", volatile=True)]):
        interner = Interner()
        places = [interner.add(nodes, number)[len(nodes) - 1][0] for number in range(2)]
        assert places[0] != places[1]
    expr = SqlExpr(("uuid()",), VARCHAR, volatile=True)
    node = PhysicalNode(0, DuckFragmentExec(Project(base.op.tree, ((column(5), expr),))), (), (column(5),))  # type: ignore[union-attr]
    interner = Interner()
    assert interner.add([node], 0)[0] != interner.add([node], 1)[0]


def test_the_order_of_picked_columns_makes_no_difference() -> None:
    interner = Interner()
    for number, order in enumerate(((1, 2), (2, 1))):
        base = scan(0, (1, 2))
        picks = tuple((column(10 + own), ColumnId(own)) for own in order)
        chosen = PhysicalNode(1, SelectExec(picks), (0,), tuple(new for new, _ in picks))
        below = base.op.tree  # type: ignore[union-attr]
        exprs = tuple((column(20 + own), column_expr(column(own))) for own in order)
        projected = PhysicalNode(2, DuckFragmentExec(Project(below, exprs)), (), tuple(new for new, _ in exprs))
        found = interner.add([base, chosen, projected], number)
        if not number:
            before = found
    assert len(interner.nodes) == 3
    assert found == before


def test_two_readings_that_become_one_node_keep_columns_of_their_own() -> None:
    base = scan(0, (1,))
    left = PhysicalNode(1, SelectExec(((column(2), ColumnId(1)),)), (0,), (column(2),))
    right = PhysicalNode(2, SelectExec(((column(3), ColumnId(1)),)), (0,), (column(3),))
    tree = Join((Input(0, left.columns), Input(1, right.columns)))
    both = PhysicalNode(3, DuckFragmentExec(tree), (1, 2), (column(2), column(3)))
    interner = Interner()
    found = interner.add([base, left, right, both])
    assert found[1][0] == found[2][0]
    joined = interner.nodes[found[3][0]]
    assert len(set(joined.inputs)) == 2
    assert len({each.id for each in joined.columns}) == 2
    assert interner.add([base, left, right, both], 1)[3][0] == found[3][0]


@pytest.mark.parametrize("apart", ["1 = 2", "2 = 1"])
def test_readings_of_one_node_below_different_nodes_keep_columns_of_their_own(apart: str) -> None:
    """Both inputs of the join hand a column of one scan on; a condition on it may not be one on the other's."""
    base, own = scan(0, (1,)), replace(scan(2, (3,)), id=2)
    left, right = asked(base, 1, 2), replace(asked(own, 3, 4, top_p=0.5), id=3)
    sides = {"1": left.columns[0].id, "2": right.columns[0].id}

    def joined(place: int, condition: str) -> PhysicalNode:
        first, second = condition.split(" = ")
        on = SqlExpr((ColumnRef(sides[first]), " = ", ColumnRef(sides[second])), BOOLEAN)
        tree = Join((Input(0, left.columns), Input(1, right.columns)), (on,))
        return PhysicalNode(place, DuckFragmentExec(tree), (1, 3), (*left.columns, *right.columns))

    interner = Interner()
    found = interner.add([base, left, own, right, joined(4, "1 = 1"), joined(5, apart), joined(6, "2 = 2")])
    assert found[0][0] == found[2][0]
    assert len({found[place][0] for place in (4, 5, 6)}) == 3
    for node in interner.nodes:
        assert len({each.id for each in node.columns}) == len(node.columns)


QUERIES = [
    "SELECT LLM_MAP('{{ a }}'), b FROM t WHERE LLM_FILTER('{{ b }}') ORDER BY a LIMIT 3",
    "SELECT b, LLM_REDUCE('s', a), count(*) FROM t GROUP BY b HAVING count(*) > 1",
    "WITH q AS MATERIALIZED (SELECT a, LLM_MAP('{{ a }}') AS m FROM t) SELECT x.a, y.m FROM q x JOIN q y USING (m)",
    "SELECT a FROM t ORDER BY LLM_RANK('best {{ a }}') DESC LIMIT 2",
    "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT LLM_MAP('{{ x + 1 }}')::INT FROM r WHERE x < 3) FROM r",
    "SELECT CASE WHEN b = 'x' THEN LLM_MAP('{{ a }}') ELSE (SELECT max(b) FROM t u WHERE u.a = t.a) END FROM t",
    "SELECT LLM_MAP('{{ a, b }}') AS m FROM t EXCEPT SELECT LLM_MAP('{{ a }}') FROM t",
]


def test_a_plan_under_other_column_ids_is_the_same_nodes() -> None:
    rng = Random(1)
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as con:
        con.execute("CREATE TABLE t (a VARCHAR, b VARCHAR)")
        for query in QUERIES:
            plan = con.session.compile(query)
            assert isinstance(plan, Optimized)
            interner = Interner()
            first = interner.add(plan.dag.nodes)
            count = len(interner.nodes)
            ids = list(range(1, 500))
            rng.shuffle(ids)
            renaming = Renaming(lambda own, ids=ids: ColumnId(ids[own]))  # type: ignore[misc]
            nodes = [
                replace(node, op=renaming.rewritten(node.op), columns=tuple(map(renaming.output, node.columns)))
                for node in plan.dag.nodes
            ]
            again = interner.add(nodes, 1)
            assert len(interner.nodes) == count, query
            top, known = again[plan.dag.root]
            assert top == first[plan.dag.root][0]
            for own, there in first[plan.dag.root][1].items():
                assert known[ColumnId(ids[own])] == there

"""What calls, prompts, options and places become in the plan."""

from __future__ import annotations

from typing import Any

import pytest

from halo_sql.ir.logical import BoundStatement, CteScan, Filter, Fragment, Limit, LlmFilter, LlmMap, Project, Sink, Sort
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole
from halo_sql.ir.walk import walk


def calls(statement: BoundStatement) -> list[LlmCall]:
    found: list[LlmCall] = []
    for node in walk(statement.plan):
        found += node.calls if isinstance(node, LlmMap) else [node.call] if isinstance(node, LlmFilter) else []
    return found


def only_call(statement: BoundStatement) -> LlmCall:
    (call,) = calls(statement)
    return call


def kinds(statement: BoundStatement) -> list[str]:
    return [type(node).__name__ for node in walk(statement.plan)]


def expr_text(statement: BoundStatement, column: Any) -> str:
    """The text that computes a column, with column ids as names."""
    for node in walk(statement.plan):
        for output, expr in node.exprs if isinstance(node, Project) else ():
            if output.id == column and expr.as_column() is None:
                return str(expr.text(lambda id_: f"#{id_}"))
    return f"#{column}"


def test_a_text_column_is_a_hole_as_it_is(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('Say {{ body }}!') FROM t")
    call = only_call(statement)
    assert call.prompt.user[0] == "Say "
    assert isinstance(call.prompt.user[1], Hole)
    assert call.prompt.user[2] == "!"
    assert expr_text(statement, call.prompt.user[1].column) == f"#{call.prompt.user[1].column}"
    assert kinds(statement) == ["Project", "LlmMap", "Fragment"]


def test_other_holes_are_cast(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('{{ id + 1 }}') FROM t")
    (hole,) = only_call(statement).prompt.user
    assert isinstance(hole, Hole)
    assert expr_text(statement, hole.column) == "CAST(#1 + 1 AS VARCHAR)"


@pytest.mark.parametrize(
    ("hole", "names"),
    [
        ("{{ id, body }}", ["id", "body"]),
        ("{{ id AS number, t.body }}", ["number", "body"]),
        ('{{ id, "body" }}', ["id", "body"]),
        ("{{ id, upper(body) }}", ["id", "upper(body)"]),
        ("{{ * }}", ["id", "body", "a", "s", "l", "d"]),
    ],
)
def test_object_holes(bound: Any, hole: str, names: list[str]) -> None:
    (found,) = only_call(bound(f"SELECT LLM_MAP('{hole}') FROM t")).prompt.user
    assert isinstance(found, ObjectHole)
    assert [name for name, _ in found.fields] == names


def test_doubled_braces_are_text(bound: Any) -> None:
    assert only_call(bound("SELECT LLM_MAP('{{{{ body }}') FROM t")).prompt.user == ("{{ body }}",)


def test_a_prompt_object(bound: Any) -> None:
    call = only_call(bound("SELECT LLM_MAP(good) FROM t"))
    assert call.prompt.user[0] == "Say "
    assert call.prompt.system == "Be brief."
    assert only_call(bound("SELECT LLM_MAP(good, system => 'Other') FROM t")).prompt.system == "Other"


def test_any_expression_is_a_prompt(bound: Any) -> None:
    (hole,) = only_call(bound("SELECT LLM_MAP('a' || body) FROM t")).prompt.user
    assert isinstance(hole, Hole)


def test_options(bound: Any) -> None:
    call = only_call(
        bound(
            "SELECT LLM_MAP('x {{ body }}', model => echo, system := 'S', returns => 'STRUCT(a INT, b VARCHAR[])', "
            "temperature => 1 / 2, top_p => 0.9, max_tokens => 7, seed => 3, stop => ['.', '!'], on_error => 'NULL', "
            "cache => false, priority => -2, examples => [{'input': 'i', 'output': 'o'}]) FROM t"
        )
    )
    assert (call.model, call.returns.text, call.on_error, call.cache, call.priority) == (
        "echo",
        "STRUCT(a INTEGER, b VARCHAR[])",
        "null",
        False,
        -2,
    )
    sampling = call.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed) == (0.5, 0.9, 7, 3)
    assert sampling.stop == (".", "!")
    assert call.prompt.system == "S\n\nInput: i\nOutput: o"


def test_on_error_struct_has_value_and_error(bound: Any) -> None:
    (column,) = bound("SELECT LLM_MAP('x', returns => 'INTEGER', on_error => 'struct') AS m FROM t").columns
    assert [name for name, _ in column.type.fields] == ["value", "error"]
    (column,) = bound("SELECT LLM_MAP('x', returns => 'INTEGER', on_error => 'struct').value AS m FROM t").columns
    assert column.type.text == "INTEGER"


def test_a_whole_condition_is_a_filter(bound: Any) -> None:
    statement = bound("SELECT id FROM t WHERE id > 1 AND LLM_FILTER('{{ body }}') AND a > 2")
    assert kinds(statement) == ["Project", "Filter", "LlmFilter", "Filter", "Fragment"]
    part = bound("SELECT id FROM t WHERE NOT LLM_FILTER('{{ body }}')")
    assert kinds(part) == ["Project", "Filter", "LlmMap", "Fragment"]


def test_sort_and_limit_are_nodes(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('{{ body }}') AS m FROM t ORDER BY id DESC NULLS LAST LIMIT 3 OFFSET 1")
    assert statement.ordered
    nodes = list(walk(statement.plan))
    assert [type(node) for node in nodes] == [Project, Limit, Sort, LlmMap, Fragment]
    assert (nodes[1].count, nodes[1].offset) == (3, 1)
    assert nodes[2].keys[0].modifiers == "DESC NULLS LAST"
    assert not bound("SELECT LLM_MAP('{{ body }}') FROM t").ordered


GUARDS = {
    "CASE WHEN id > 1 THEN LLM_MAP('{{ body }}') END": "((#1 > 1) IS TRUE)",
    "CASE id WHEN 1 THEN LLM_MAP('{{ body }}') END": "(((#1) = (1)) IS TRUE)",
    "coalesce(body, LLM_MAP('{{ a }}'))": "((#2) IS NULL)",
    "if(id > 1, 'x', LLM_MAP('{{ body }}'))": "((#1 > 1) IS NOT TRUE)",
    "id > 1 AND LLM_FILTER('{{ body }}')": "((#1 > 1) IS NOT FALSE)",
    "id > 1 OR LLM_FILTER('{{ body }}')": "((#1 > 1) IS NOT TRUE)",
}


@pytest.mark.parametrize(("item", "guard"), GUARDS.items())
def test_lazy_places_are_guarded(bound: Any, item: str, guard: str) -> None:
    statement = bound(f"SELECT {item} FROM t")
    call = only_call(statement)
    assert call.guard is not None
    assert expr_text(statement, call.guard) == guard


def test_a_hole_that_can_fail_is_computed_where_the_call_is_reached(bound: Any) -> None:
    statement = bound("SELECT CASE WHEN id > 1 THEN LLM_MAP('{{ body::INTEGER }}') END FROM t")
    (hole,) = only_call(statement).prompt.user
    assert isinstance(hole, Hole)
    assert expr_text(statement, hole.column) == ("CAST(CASE WHEN ((#1 > 1) IS TRUE) THEN (#2::INTEGER) END AS VARCHAR)")


def test_equal_calls_are_one(bound: Any) -> None:
    assert len(calls(bound("SELECT LLM_MAP('{{ body }}') a, upper(LLM_MAP('{{ body }}')) b FROM t"))) == 1
    sampled = "LLM_MAP('{{ body }}', temperature => 1)"
    assert len(calls(bound(f"SELECT {sampled} a, {sampled} b FROM t"))) == 2


def test_nested_calls_are_layers(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('b {{ LLM_MAP(''a {{ body }}'') }}') FROM t")
    assert kinds(statement) == ["Project", "LlmMap", "LlmMap", "Fragment"]


def test_an_alias_with_a_call_is_lifted_for_its_reader(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('{{ body }}') AS k, id FROM t WHERE k = 'x' AND id > 1")
    assert len(calls(statement)) == 1
    filters = [node for node in walk(statement.plan) if isinstance(node, Filter)]
    assert len(filters) == 2


def test_a_column_comes_before_an_alias(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('{{ body }}') AS body FROM t WHERE body = 'x'")
    nodes = kinds(statement)
    assert nodes.index("LlmMap") < nodes.index("Filter"), "the filter reads the column, below the call"


def test_a_cte_read_twice_is_one_computation(bound: Any) -> None:
    statement = bound("WITH c AS (SELECT LLM_MAP('{{ body }}') m FROM t) SELECT x.m FROM c x, c y")
    scans = [node for node in walk(statement.plan) if isinstance(node, CteScan)]
    assert len({scan.cte for scan in scans}) == 1
    assert len({id(scan.input) for scan in scans}) == 1


@pytest.mark.parametrize(
    ("sql", "kind", "prefix", "suffix"),
    [
        ("CREATE TABLE n AS SELECT LLM_MAP('x') m FROM t", "ctas", "CREATE TABLE n AS ", ""),
        ("CREATE OR REPLACE TEMP TABLE t AS (SELECT LLM_MAP('x') m)", "ctas", "CREATE OR REPLACE TEMP TABLE t AS ", ""),
        ("INSERT INTO u(x) SELECT LLM_MAP('x') FROM t", "insert", "INSERT INTO u(x) ", ""),
        ("INSERT INTO u VALUES (1, LLM_MAP('x'))", "insert", "INSERT INTO u ", ""),
        ("COPY (SELECT LLM_MAP('x') m) TO 'x.csv'", "copy", "COPY (", ") TO 'x.csv'"),
    ],
)
def test_sinks(bound: Any, sql: str, kind: str, prefix: str, suffix: str) -> None:
    statement = bound(sql)
    sink = statement.plan
    assert isinstance(sink, Sink)
    assert (sink.kind, sink.prefix, sink.suffix) == (kind, prefix, suffix)
    assert [column.name for column in statement.columns] == ["Count"]


def test_a_prompt_without_holes_over_a_table_is_warned_of(bound: Any) -> None:
    (warning,) = bound("SELECT LLM_MAP('x') FROM t").warnings
    assert "no hole" in warning
    assert not bound("SELECT array_distance(LLM_EMBED(body), LLM_EMBED('a question')) FROM t").warnings
    assert not bound("SELECT LLM_MAP('x')").warnings


def test_parameters_are_part_of_the_plan(bound: Any) -> None:
    statement = bound("SELECT LLM_MAP('{{ body }}') FROM t WHERE id = $n", {"n": 42})
    (condition,) = [node for node in walk(statement.plan) if isinstance(node, Filter)]
    assert condition.predicate.text(lambda id_: f"#{id_}") == "#1 = 42"


def test_names_of_ours_never_meet_the_users(bound: Any) -> None:
    statement = bound('SELECT DISTINCT c5, c2, LLM_MAP(\'{{ "A b" }}\') AS c1 FROM "Q t" ORDER BY c5')
    assert [column.name for column in statement.columns] == ["c5", "c2", "c1"]
    (tail,) = [node for node in walk(statement.plan) if isinstance(node, Fragment) and node.inputs]
    assert any("__halo_c" in part for part in tail.parts if isinstance(part, str))

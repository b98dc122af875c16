"""Plans as text, JSON, graphs: on a DAG and a logical plan built by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from halo_sql import explain
from halo_sql.errors import ProgrammingError
from halo_sql.explain import render_logical
from halo_sql.ir.cascade import score_call
from halo_sql.ir.estimate import Cost, Estimate
from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.logical import (
    CteScan,
    Distinct,
    Filter,
    Fragment,
    InputRef,
    Limit,
    LlmFilter,
    LlmMap,
    Project,
    Sink,
    Sort,
    SortKey,
)
from halo_sql.ir.physical import (
    Deferral,
    DuckFragmentExec,
    Input,
    LimitExec,
    LlmFilterCascadeExec,
    LlmFilterExec,
    LlmMapExec,
    MaterializeExec,
    PhysicalDag,
    PhysicalNode,
    PrefixClusterExec,
    RestoreOrderExec,
    SelectExec,
    SettleExec,
    SinkExec,
)
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole, Prompt, Sampling
from halo_sql.ir.types import BIGINT, BOOLEAN, VARCHAR
from halo_sql.metrics import TOTAL_KEYS, NodeMetrics, Profile

ID = Column(ColumnId(1), "id", BIGINT)
BODY = Column(ColumnId(2), "body", VARCHAR)
SUMMARY = Column(ColumnId(3), "LLM_MAP('Summarise: {{ body }}')", VARCHAR)
PLACE = Column(ColumnId(4), "place", BIGINT)
SHOWN = Column(ColumnId(5), "s", VARCHAR)
SCAN = Fragment(("SELECT id,\n  body FROM t",), (ID, BODY), label="Scan t")
MAP = LlmCall(
    SUMMARY.id,
    "map",
    Prompt(("Summarise: ", Hole(BODY.id), " ", ObjectHole((("k", ID.id),))), system="Be brief."),
    "smol",
    sampling=Sampling(max_tokens=20),
    on_error="null",
    label=SUMMARY.name,
)
KEEP = LlmCall(ColumnId(9), "filter", Prompt(("Is it good? ", Hole(BODY.id))), "smol", returns=BOOLEAN)


def dag() -> PhysicalDag:
    llm = Estimate(10, 8, 400, 100, 160, Cost(gpu_s=1.5))
    nodes = (
        PhysicalNode(0, DuckFragmentExec(SCAN), (), (ID, BODY), Estimate(20)),
        PhysicalNode(1, LlmFilterExec(KEEP, distinct=True), (0,), (ID, BODY), llm),
        PhysicalNode(2, MaterializeExec(), (1,), (ID, BODY), Estimate(10)),
        PhysicalNode(3, PrefixClusterExec((BODY.id,), PLACE), (2,), (ID, BODY, PLACE), Estimate(10)),
        PhysicalNode(4, LlmMapExec((MAP,), worker="smol@cpu"), (3,), (ID, BODY, PLACE, SUMMARY), llm),
        PhysicalNode(5, RestoreOrderExec(PLACE.id), (4,), (ID, BODY, SUMMARY), Estimate(10)),
        PhysicalNode(6, LimitExec(5, 1), (5,), (ID, BODY, SUMMARY), Estimate(5)),
        PhysicalNode(7, SelectExec(((ID, ID.id), (SHOWN, SUMMARY.id))), (6,), (ID, SHOWN), Estimate(5)),
        PhysicalNode(
            8,
            DuckFragmentExec(
                Filter(Input(0, (ID, BODY)), SqlExpr((ColumnRef(ID.id), " > 3"), BOOLEAN)), streaming=True
            ),
            (2,),
            (ID, BODY),
            Estimate(3),
        ),
        PhysicalNode(9, SinkExec("CREATE TABLE u AS ", "", (("id", ID.id),), "ctas"), (7, 8), (ID,), Estimate(1)),
    )
    return PhysicalDag(nodes, 9, ("rule limit reached",), (("Summarise: ", 8.0),))


def test_text_is_exactly_this() -> None:
    assert explain.render_text(dag()) == (
        "Sink  kind=ctas · sql=CREATE TABLE u AS … · ~1 rows\n"
        "├─ Select  id#1, s#5 = llm#3 · ~5 rows\n"
        "│  └─ Limit  5 offset 1 · ~5 rows\n"
        "│     └─ RestoreOrder  by=place#4 · ~10 rows\n"
        '│        └─ LlmMap  llm#3 = LLM_MAP(smol, "Summarise: {body#2} {k: id#1}", system="Be brief.", '
        "max_tokens=20, on_error=null) · worker=smol@cpu · ~10 rows · ~8 calls · ~400 prompt tok (~100 cached) · "
        "~160 output tok\n"
        "│           └─ PrefixCluster  by=body#2 · position=place#4 · ~10 rows\n"
        "│              └─ #2 Materialize  ~10 rows\n"
        '│                 └─ LlmFilter  LLM_FILTER(smol, "Is it good? {body#2}") · distinct · ~10 rows · ~8 calls · '
        "~400 prompt tok (~100 cached) · ~160 output tok\n"
        "│                    └─ DuckFragment  Scan t · sql=SELECT id, body FROM t · ~20 rows\n"
        "└─ DuckFragment  streaming · sql=SELECT c1, c2 FROM #2 WHERE (c1 > 3) · ~3 rows\n"
        "   └─ → #2 Materialize\n"
        "\n"
        "Total: ~16 calls · ~800 prompt tok (~200 cached) · ~320 output tok · ~3.0 s of engine time\n"
        'Shared prefix: "Summarise: " (11 characters) × ~8 calls\n'
        "Note: rule limit reached"
    )


def test_a_cascade_says_that_it_is_approximate_and_what_it_did() -> None:
    call = replace(KEEP, quality=0.9, proxy="tiny")
    expected = Estimate(10, 30, 400, 100, 160)
    nodes = (
        PhysicalNode(0, DuckFragmentExec(SCAN), (), (ID, BODY), Estimate(20)),
        PhysicalNode(1, LlmFilterCascadeExec(call, score_call(call), draws=216), (0,), (ID, BODY), expected),
    )
    plan = PhysicalDag(nodes, 1)
    head = 'LlmFilterCascade  LLM_FILTER(smol, "Is it good? {body#2}") · approximate: quality >= 0.9, proxy=tiny · '
    assert explain.render_text(plan).startswith(head + "sample=~216 · ~10 rows · ~30 calls")
    did = NodeMetrics(rows=7, llm_calls=25, details={"sampled": 4, "accepts from": 0.8125})
    ran = Profile("SELECT 1", plan, {0: NodeMetrics(), 1: did}, status="done")
    assert " · sampled 4, accepts from 0.8125 · self 0.000 s" in explain.render_text(plan, ran)
    shown = explain.to_json(plan, ran)["plan"]
    assert shown["details"] == {"sampled": 4, "accepts from": 0.8125}
    assert "details" not in shown["children"][0]


def test_failures_that_wait_name_what_they_wait_for() -> None:
    column = Column(ColumnId(11), "failed", BIGINT)
    late = SqlExpr((ColumnRef(BODY.id), " = 'a'"), BOOLEAN)
    named = LlmCall(ColumnId(10), "filter", Prompt((Hole(BODY.id),)), "smol", label="LLM_FILTER('{{ body }}')")
    deferral = Deferral(column, (KEEP, named), (late,))
    nodes = (
        PhysicalNode(0, DuckFragmentExec(SCAN), (), (ID, BODY), Estimate(20)),
        PhysicalNode(1, LlmFilterExec(named, failed=deferral), (0,), (ID, BODY, column), Estimate(10)),
        PhysicalNode(2, SettleExec((deferral,), (named,)), (1,), (ID, BODY), Estimate(10)),
    )
    assert explain.render_text(PhysicalDag(nodes, 2)).startswith(
        "Settle  failures of LLM_FILTER('{{ body }}') · ~10 rows\n"
        '└─ LlmFilter  LLM_FILTER(smol, "{body#2}") · '
        "failures wait for LLM_FILTER, LLM_FILTER('{{ body }}'), body#2 = 'a' · ~10 rows · "
    )


def profile() -> Profile:
    nodes = {node.id: NodeMetrics(rows=7, self_s=0.5, wait_s=0.25) for node in dag().nodes}
    nodes[4] = NodeMetrics(
        rows=7, self_s=0.01, wait_s=2.0, llm_calls=4, llm_calls_coalesced=2, llm_calls_from_store=1,
        prompt_tok=1234, prompt_tok_cached=1000, output_tok=99, retries=3,
    )  # fmt: skip
    return Profile("SELECT 1", dag(), nodes, 0.02, 2.5, "failed", {"smol": "SmolLM2 on cpu"})


def test_analyzed_text_compares_and_counts() -> None:
    text = explain.render_text(dag(), profile())
    line = next(line for line in text.splitlines() if "LlmMap" in line)
    assert (
        "rows ~10/7 · ~8/4 calls + 2 coalesced + 1 from store · ~400/1,234 prompt tok (1,000 cached) · "
        "~160/99 output tok · 3 retries · self 0.010 s · wait 2.000 s · "
        "q-error 1.43 rows, 1.6 llm calls, 3.86 prompt tok, 1.29 output tok"
    ) in line
    assert "Total: ~16/4 calls + 2 coalesced + 1 from store" in text
    assert "2.500 s (planning 0.020 s)" in text
    assert "Status: failed" in text
    assert "Engine smol: SmolLM2 on cpu" in text


def test_json_has_the_documented_keys() -> None:
    found = explain.to_json(dag(), profile())
    assert found["query"] == "SELECT 1"
    totals = found["totals"]
    for key in (*TOTAL_KEYS, "elapsed_s"):
        assert key in totals
    assert totals["llm_calls"] == 4
    node = found["plan"]["children"][0]["children"][0]["children"][0]["children"][0]
    assert node["operator_name"] == "LlmMap"
    assert node["id"] == 4
    assert node["rows_estimated"] == 10
    assert node["rows"] == 7
    assert node["self_s"] == 0.01
    assert node["llm_calls_from_store"] == 1
    assert "Summarise" in node["extra_info"]["what"]
    assert json.loads(json.dumps(found)) == found


def test_json_without_a_run_has_estimates_only() -> None:
    found = explain.to_json(dag(), query="SELECT 2")
    assert found["query"] == "SELECT 2"
    assert found["totals"]["llm_calls_estimated"] == 16
    assert "llm_calls" not in found["totals"]
    assert "rows" not in found["plan"]
    again = found["plan"]["children"][1]["children"][0]
    assert again == {"id": 2, "operator_name": "Materialize", "extra_info": {}, "shared": True, "children": []}


@pytest.mark.parametrize("format_name", explain.FORMATS)
def test_every_format_names_every_operator(format_name: str) -> None:
    text = explain.render(dag(), profile(), format_name, "SELECT 1")
    for name in ("Sink", "Select", "LlmMap", "LlmFilter", "DuckFragment", "Materialize"):
        assert name in text


def test_graphs_have_every_edge_once() -> None:
    for format_name, arrow in (("mermaid", "-->"), ("graphviz", "->")):
        text = explain.render(dag(), None, format_name)
        edges = sorted(line.strip().rstrip(";") for line in text.splitlines() if f" {arrow} " in line)
        wanted = [(0, 1), (1, 2), (2, 3), (2, 8), (3, 4), (4, 5), (5, 6), (6, 7), (7, 9), (8, 9)]
        assert edges == sorted(f"n{a} {arrow} n{b}" for a, b in wanted)


def test_html_stands_alone_and_escapes() -> None:
    page = explain.render(dag(), None, "html", "SELECT '<script>'")
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert "<script" not in page


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ProgrammingError, match='Did you mean "json"'):
        explain.render(dag(), None, "jsn")


def test_logical_plan_is_exactly_this() -> None:
    mapped = LlmMap(SCAN, (MAP,))
    first = CteScan(mapped, 0, "c", (Column(ColumnId(11), "id", BIGINT), Column(ColumnId(12), "body", VARCHAR)))
    second = CteScan(mapped, 0, "c", (Column(ColumnId(21), "id", BIGINT), Column(ColumnId(22), "body", VARCHAR)))
    joined = Fragment(
        (
            "SELECT * FROM ",
            InputRef(0, (("id", ColumnId(11)),)),
            " a JOIN ",
            InputRef(1, (("id", ColumnId(21)),)),
            " b",
        ),
        (Column(ColumnId(31), "id", BIGINT),),
        (first, second),
        label="Join",
    )
    kept = LlmFilter(joined, LlmCall(ColumnId(32), "filter", Prompt((Hole(ColumnId(31)),)), "echo", BOOLEAN), True)
    ref = ColumnRef(ColumnId(31))
    shown = Project(
        Limit(
            Sort(Distinct(Filter(kept, SqlExpr((ref, " > 1"), BOOLEAN))), (SortKey(SqlExpr((ref,), BIGINT), "DESC"),)),
            3,
        ),
        ((Column(ColumnId(40), "n", BIGINT), SqlExpr((ref, " + 1"), BIGINT)),),
    )
    sink = Sink(shown, "INSERT INTO u ", "", (("n", ColumnId(40)),), "insert")
    assert render_logical(sink) == (
        "Sink insert INSERT INTO u …\n"
        "└─ Project n#40 = id#31 + 1\n"
        "   └─ Limit 3\n"
        "      └─ Sort id#31 DESC\n"
        "         └─ Distinct\n"
        "            └─ Filter id#31 > 1\n"
        '               └─ LlmFilter distinct LLM_FILTER(echo, "{id#31}")\n'
        "                  └─ Fragment [id#31] SELECT * FROM <0> a JOIN <1> b\n"
        "                     ├─ CteScan c cte=0 [id#11, body#12]\n"
        '                     │  └─ LlmMap llm#3 = LLM_MAP(smol, "Summarise: {body#2} {k: id#1}", system="Be brief.", '
        "max_tokens=20, on_error=null)\n"
        "                     │     └─ Fragment [id#1, body#2] SELECT id, body FROM t\n"
        "                     └─ → CteScan c cte=0 [id#21, body#22]"
    )


def test_label_of_llm_nodes() -> None:
    assert [explain.llm_label(node) for node in dag().nodes if explain.llm_label(node)] == ["LLM_FILTER", MAP.label]

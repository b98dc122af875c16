"""Our own statements: nodes, values, errors."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from halo_sql.catalog.objects import ModelDef, PromptDef
from halo_sql.engines.registry import ENGINES as RUNNABLE
from halo_sql.errors import CatalogError, Error, NotSupportedError, ParserError, Span
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.statements.nodes import (
    ENGINES,
    Analyze,
    Calibrate,
    CreateModel,
    CreatePrompt,
    Describe,
    Drop,
    DropStatistics,
    Explain,
    ResetSetting,
    SetSetting,
    Show,
    Statement,
)
from halo_sql.grammar.statements.parse import parse_statement
from halo_sql.grammar.statements.redact import redact
from halo_sql.ir.expr import literal, quote


def plain(node: Statement) -> dict[str, object]:
    """The fields without spans, and without those that have their default value."""
    found = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if "span" not in field.name and value != field.default:
            found[field.name] = value
    return found


M = "CREATE MODEL m FROM 'x'"
MODELS = [
    (M, ModelDef("m", "x", "vllm")),
    ("create model M from 'x' ;", ModelDef("M", "x", "vllm")),
    ('CREATE MODEL "My ""M"" x" FROM \'x\'', ModelDef('My "M" x', "x", "vllm")),
    ("CREATE TEMP MODEL m FROM 'x'", ModelDef("m", "x", "vllm", temp=True)),
    ("CREATE MODEL m FROM 'bundled:smollm2'", ModelDef("m", "bundled:smollm2", "vllm")),
    ("CREATE MODEL m FROM '/models/it''s'", ModelDef("m", "/models/it's", "vllm")),
    ("CREATE MODEL m FROM 'https://h/v1'", ModelDef("m", "https://h/v1", "openai")),
    ("CREATE MODEL m FROM 'HTTP://h/v1'", ModelDef("m", "HTTP://h/v1", "openai")),
    ("CREATE MODEL m FROM 'echo'", ModelDef("m", "echo", "echo")),
    ("CREATE MODEL m FROM 'x' USING Replay", ModelDef("m", "x", "replay")),
    ("CREATE MODEL model FROM 'x'", ModelDef("model", "x", "vllm")),
    ("CREATE MODEL m FROM $$x$$ -- why", ModelDef("m", "x", "vllm")),
    ("CREATE MODEL m FROM E'a\\'\\n\\x41'", ModelDef("m", "a'\nA", "vllm")),
]
OPTIONS = [
    ("a = 'x'", {"a": "x"}),
    ("A = 1, b = 2.5, c = -3, d = 1e3, e = .5, f = 1_000", {"a": 1, "b": 2.5, "c": -3, "d": 1e3, "e": 0.5, "f": 1000}),
    ("a = true, b = FALSE, c = null", {"a": True, "b": False, "c": None}),
    ('dtype = float32, x = "Q w"', {"dtype": "float32", "x": "Q w"}),
    ("a = [], b = [1, 'x', [true]]", {"a": [], "b": [1, "x", [True]]}),
    ("a = {}, b = {'k': 1, z: {y: null}}", {"a": {}, "b": {"k": 1, "z": {"y": None}}}),
    ("model = 'Qwen', from_x = 1, \"with\" = 2", {"model": "Qwen", "from_x": 1, "with": 2}),
    ("api_key_env = 'KEY', max_tokens = 5, secret = s", {"api_key_env": "KEY", "max_tokens": 5, "secret": "s"}),
]


@pytest.mark.parametrize(("sql", "model"), MODELS)
def test_create_model(sql: str, model: ModelDef) -> None:
    node = parse_statement(sql)
    assert isinstance(node, CreateModel)
    assert node.definition() == model
    assert (node.or_replace, node.if_not_exists) == (False, False)


@pytest.mark.parametrize(("options", "values"), OPTIONS)
def test_options(options: str, values: dict[str, object]) -> None:
    sql = f"{M} USING openai WITH ({options})"
    node = parse_statement(sql)
    assert isinstance(node, CreateModel)
    assert node.definition().options == values
    for option in node.options:
        assert sql[option.span.start : option.span.end].strip('"').lower() == option.key
        assert sql[option.value_span.start : option.value_span.end] in options


@pytest.mark.parametrize("kind", ["MODEL m FROM 'x'", "PROMPT m AS 'x'"])
def test_flags(kind: str) -> None:
    what, rest = kind.split(" ", 1)
    for text, flags in (
        ("CREATE {} {}", (False, False, False)),
        ("CREATE OR REPLACE {} {}", (True, False, False)),
        ("CREATE {} IF NOT EXISTS {}", (False, True, False)),
        ("CREATE TEMPORARY {} {}", (False, False, True)),
        ("create or replace temp {} {}", (True, False, True)),
    ):
        node = parse_statement(text.format(what, rest))
        assert isinstance(node, CreateModel | CreatePrompt)
        assert (node.or_replace, node.if_not_exists, node.temp) == flags


PROMPTS = [
    ("CREATE PROMPT p AS 'Hi {{ a }}'", PromptDef("p", "Hi {{ a }}")),
    ("CREATE PROMPT p AS $$It's; {{ a }}$$", PromptDef("p", "It's; {{ a }}")),
    ("CREATE PROMPT p AS $t$a $$ b$t$ WITH (system = 'S')", PromptDef("p", "a $$ b", "S")),
    ("CREATE TEMP PROMPT prompt AS ''", PromptDef("prompt", "", temp=True)),
    ("CREATE PROMPT p AS 'é\U0001f600' WITH (SYSTEM = $$ü$$)", PromptDef("p", "é\U0001f600", "ü")),
]


@pytest.mark.parametrize(("sql", "prompt"), PROMPTS)
def test_create_prompt(sql: str, prompt: PromptDef) -> None:
    node = parse_statement(sql)
    assert isinstance(node, CreatePrompt)
    assert node.definition() == prompt
    assert sql[node.name_span.start : node.name_span.end] == prompt.name
    assert sql[node.text_span.start] in "'$"


OTHERS: list[tuple[str, type[Statement], dict[str, object]]] = [
    ("DROP MODEL m", Drop, {"kind": "model", "name": "m"}),
    ('drop prompt if exists "P q";', Drop, {"kind": "prompt", "name": "P q", "if_exists": True}),
    ("SHOW MODELS", Show, {"kind": "model"}),
    ("show prompts", Show, {"kind": "prompt"}),
    ("DESCRIBE MODEL m", Describe, {"kind": "model", "name": "m"}),
    ("desc prompt model", Describe, {"kind": "prompt", "name": "model"}),
    ("calibrate model M;", Calibrate, {"name": "M"}),
    ('CALIBRATE MODEL "my model"', Calibrate, {"name": "my model"}),
    ("SET halo_store = 'off'", SetSetting, {"name": "halo_store", "value": "off"}),
    ("SET HALO_Store TO off", SetSetting, {"name": "halo_store", "value": "off"}),
    ('SET "halo_store" = on', SetSetting, {"name": "halo_store", "value": "on"}),
    ("SET SESSION halo_x = -1", SetSetting, {"name": "halo_x", "value": -1, "scope": "session"}),
    ("SET GLOBAL halo_x = 1.5", SetSetting, {"name": "halo_x", "value": 1.5, "scope": "global"}),
    ("SET LOCAL halo_x = true", SetSetting, {"name": "halo_x", "value": True, "scope": "local"}),
    ("SET halo_x = ['a', b]", SetSetting, {"name": "halo_x", "value": "a,b"}),
    ("SET halo_x = null", SetSetting, {"name": "halo_x", "value": None}),
    ("PRAGMA halo_x = 4;", SetSetting, {"name": "halo_x", "value": 4}),
    ("SET halo_x = DEFAULT", ResetSetting, {"name": "halo_x"}),
    ("RESET halo_x", ResetSetting, {"name": "halo_x"}),
    ("RESET GLOBAL halo_x", ResetSetting, {"name": "halo_x", "scope": "global"}),
    ("ANALYZE SELECT 1", Analyze, {"query": "SELECT 1", "start": 8}),
    ("ANALYZE (SAMPLE 5) FROM t;", Analyze, {"query": "FROM t", "start": 19, "sample_rows": 5}),
    ("drop statistics", DropStatistics, {}),
    ("EXPLAIN SELECT 1", Explain, {"statement": "SELECT 1", "start": 8}),
    ("EXPLAIN (SELECT 1)", Explain, {"statement": "(SELECT 1)", "start": 8}),
    ("EXPLAIN ANALYZE SELECT 1;", Explain, {"statement": "SELECT 1", "start": 16, "analyze": True}),
    ("EXPLAIN (ANALYZE) x", Explain, {"statement": "x", "start": 18, "analyze": True}),
    ("EXPLAIN (analyze false) x", Explain, {"statement": "x", "start": 24}),
    ("EXPLAIN (FORMAT json) x", Explain, {"statement": "x", "start": 22, "format": "json"}),
    ("EXPLAIN (FORMAT 'HTML') x", Explain, {"statement": "x", "start": 24, "format": "html"}),
    ("EXPLAIN (MEMO, rules on, COSTS 0) x", Explain, {"statement": "x", "start": 34, "sections": ("memo", "rules")}),
    ("EXPLAIN (LOGICAL, PHYSICAL) x", Explain, {"statement": "x", "start": 28, "sections": ("logical", "physical")}),
    (
        "EXPLAIN /* a */ (FORMAT mermaid) -- b\n SELECT /* c */ LLM_MAP('(x)')",
        Explain,
        {"statement": "SELECT /* c */ LLM_MAP('(x)')", "start": 39, "format": "mermaid"},
    ),
]


@pytest.mark.parametrize(("sql", "cls", "fields"), OTHERS)
def test_other_statements(sql: str, cls: type[Statement], fields: dict[str, object]) -> None:
    node = parse_statement(sql)
    assert type(node) is cls
    assert plain(node) == fields


# statement, what carets stand under, words of the error
ERRORS = [
    ("CREATE MODEL m FORM 'x'", "FORM", 'Did you mean "FROM"'),
    ("CREATE MODEL m FROM 'x' USNG openai", "USNG", "Expected USING, WITH or the end of the statement. Did you mean"),
    ("CREATE MODEL m FROM 'x' USING opnai", "opnai", 'Did you mean "openai"'),
    ("CREATE MODEL m FROM 'x' USING", "", "Expected an engine (vllm, openai"),
    ("CREATE MODEL m FROM 'x' USING 'vllm'", "'vllm'", "Names take double quotes or none"),
    ('CREATE MODEL m FROM "x"', '"x"', "Texts take single quotes"),
    ("CREATE MODEL m FROM x", "x", "Expected the source in single quotes"),
    ("CREATE MODEL m FROM ''", "''", "cannot be empty"),
    ("CREATE MODEL m FROM 'x", "'", "unterminated"),
    ("CREATE MODEL m FROM $$x", "$", "unterminated"),
    ("CREATE MODEL m FROM x'00'", "x'00'", "not a text"),
    ("CREATE MODEL \"\" FROM 'x'", '""', "cannot be empty"),
    ("CREATE MODEL FROM 'x'", "FROM", "a name"),
    ("CREATE MODEL 'm' FROM 'x'", "'m'", "Names take double quotes or none"),
    ("CREATE MODEL main.m FROM 'x'", ".", "Expected FROM"),
    ("CREATE MODEL m", "", "at the end of the statement"),
    ("CREATE MODEL", "", "a name"),
    ("CREATE OR MODEL m FROM 'x'", "MODEL", "REPLACE"),
    ("CREATE OR REPLACE MODEL IF NOT EXISTS m FROM 'x'", "IF NOT EXISTS", "exclude each other"),
    (M + " WITH", "", '"("'),
    (M + " WITH ()", ")", "an option's name"),
    (M + " WITH (a)", ")", '"="'),
    (M + " WITH (a = )", ")", "a value"),
    (M + " WITH (a = 1", "", '","'),
    (M + " WITH (a = 1 b = 2)", "b", '","'),
    (M + " WITH (a = 1, A = 2)", "A", "given twice"),
    (M + " WITH (a = -'x')", "'x'", "a value"),
    (M + " WITH (a = 1) x", "x", "the end of the statement"),
    (M + " WITH (a = .)", ".", "not a number"),
    (M + " WITH (a = " + "9" * 5_000 + ")", "9" * 5_000, "too many digits"),
    ("CREATE PROMPT p FROM 'x'", "FROM", "Expected AS"),
    ("CREATE PROMPT p AS 'x' WITH (sistem = 'y')", "sistem", '"system"'),
    ("CREATE PROMPT p AS 'x' WITH (system = 1)", "1", "takes a text"),
    ("DROP MODEL", "", "a name"),
    ("DROP MODEL m CASCADES", "CASCADES", 'Did you mean "CASCADE"'),
    ("SHOW MODEL m", "MODEL", 'Did you mean "MODELS"'),
    ("SHOW MODELS x", "x", "the end of the statement"),
    ("SET halo_x", "", "TO"),
    ("SET halo_x = 1 + 1", "+", "the end of the statement"),
    ("SET halo_x = {'a': 1}", "{'a': 1}", "cannot be a map"),
    ("PRAGMA halo_x", "", '"="'),
    ("EXPLAIN (FORMAT jsn) x", "jsn", 'Did you mean "json"'),
    ("EXPLAIN (FORMAT) x", "FORMAT", "needs a value"),
    ("EXPLAIN (MEM) x", "MEM", 'Did you mean "memo"'),
    ("EXPLAIN (MEMO maybe) x", "maybe", "true or false"),
    ("EXPLAIN (MEMO)", "", "the statement to explain"),
    ("", "", "no statement of HaloSQL's"),
]


@pytest.mark.parametrize(("sql", "place", "words"), ERRORS)
def test_errors(sql: str, place: str, words: str) -> None:
    with pytest.raises(ParserError) as caught:
        parse_statement(sql)
    span = caught.value.span
    assert span is not None
    assert sql[span.start : span.end] == place
    assert place or span == Span(len(sql), len(sql))
    assert words in str(caught.value)
    assert "^" in str(caught.value)
    assert not re.search(r"RPAR|COMMA|\$END", str(caught.value))


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN CREATE MODEL m FROM 'x'",
        "EXPLAIN (MEMO) SET halo_store = off",
        "EXPLAIN EXPLAIN SELECT LLM_MAP('x')",
        "EXPLAIN BEGIN BATCH",
        "EXPLAIN CREATE SECRET s (TYPE llm, API_KEY 'hunter2')",
    ],
)
def test_statements_without_a_plan(sql: str) -> None:
    with pytest.raises(NotSupportedError) as caught:
        parse_statement(sql)
    assert caught.value.remedy
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        M + " WITH (api_key = 'hunter2')",
        M + " WITH (api_key = hunter2)",
        M + " WITH (api_key = $$hunter2$$, b = 1)",
        M + " WITH (a = 1, hf_token = 'hunter2')",
        M + " WITH (password = 'hunter2')",
        M + " WITH (secret = 'hunter2')",
        M + " WITH (api_key 'hunter2')",
        M + " WITH (api_key = 'hunter2', api_key = 'hunter2')",
        M + " WITH (api_key = ['hunter2', 'hunter2'])",
        M + " WITH (headers = {'Authorization': 'hunter2'}, x y)",
        M + " USNG openai WITH (api_key = sk-hunter2-x)",
        "CREATE MODEL m FORM 'x' WITH (\"api_key\" = 'hunter2')",
        M + " WITH (api_key = 'hunter2",
    ],
)
def test_secrets_are_refused_and_never_shown(sql: str) -> None:
    with pytest.raises(Error) as caught:
        parse_statement(sql)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.sql)


def test_a_literal_secret_names_its_remedy() -> None:
    with pytest.raises(CatalogError, match="api_key_env = 'NAME'"):
        parse_statement(M + " WITH (api_key = 'x')")


def test_redact_keeps_everything_else() -> None:
    sql = "CREATE MODEL m FROM 'x' WITH (api_key = 'abc', max_tokens = 5, api_key_env = 'K')"
    assert redact(sql) == sql.replace("'abc'", "*****")


def test_every_engine_that_runs_can_be_named() -> None:
    assert set(RUNNABLE) <= set(ENGINES)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
VALUES = st.recursive(
    st.one_of(st.integers(-(10**30), 10**30), st.booleans(), st.none(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def written(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).replace("None", "NULL")
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, list):
        return "[" + ", ".join(written(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {written(member)}" for key, member in value.items()) + "}"
    return str(value)


@given(NAMES, TEXTS.filter(bool), st.dictionaries(st.sampled_from(["a", "b", "c_d"]), VALUES, min_size=1))
def test_create_model_round_trip(name: str, source: str, options: dict[str, object]) -> None:
    body = ", ".join(f"{key} = {written(value)}" for key, value in options.items())
    sql = f"CREATE MODEL {quote(name)} FROM {literal(source)} USING echo WITH ({body})"
    assert classify(sql) is Kind.HALO_DDL
    node = parse_statement(sql)
    assert isinstance(node, CreateModel)
    assert node.definition() == ModelDef(name, source, "echo", options)


@example("p", "a backslash at the end \\", None)
@example("p", "a backslash at the end \\", None)
@given(NAMES, TEXTS, st.none() | TEXTS)
def test_create_prompt_round_trip(name: str, text: str, system: str | None) -> None:
    tail = "" if system is None else f" WITH (system = {literal(system)})"
    node = parse_statement(f"CREATE PROMPT {quote(name)} AS {literal(text)}{tail}")
    assert isinstance(node, CreatePrompt)
    assert node.definition() == PromptDef(name, text, system)


@given(st.sampled_from([sql for sql, *_ in MODELS + PROMPTS + OTHERS]), st.data())
def test_a_damaged_statement_gives_an_error_of_ours_or_a_node(sql: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sql)))
    damaged = sql[:at] + data.draw(st.text(max_size=3)) + sql[at + data.draw(st.integers(0, 3)) :]
    try:
        shown = repr(parse_statement(damaged))
    except Error as problem:
        shown = str(problem)
    assert shown

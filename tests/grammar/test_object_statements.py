"""CREATE TOOL, AGENT and SECRET, ALTER, COMMENT ON, DROP: nodes, definitions, spans, errors of the grammar."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.catalog.objects import AgentDef, Parameter, ToolDef
from halo_sql.catalog.script import statements
from halo_sql.errors import CatalogError, Error, ParserError
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.statements.nodes import (
    Alter,
    BatchMark,
    CreateAgent,
    CreateSecret,
    CreateTool,
    Describe,
    Drop,
    DropSecret,
    Show,
    Statement,
)
from halo_sql.grammar.statements.parse import parse_statement
from halo_sql.grammar.statements.redact import redact

A = (Parameter("a", "INTEGER"),)
TOOLS = [
    (
        "CREATE TOOL t() RETURNS INTEGER AS SQL 'SELECT 1'",
        ToolDef("t", "sql", "SELECT 1", (), "INTEGER", volatility="stable"),
    ),
    (
        "CREATE TOOL t(a INTEGER) RETURNS VARCHAR AS PYTHON 'm:f'",
        ToolDef("t", "python", "m:f", A, "VARCHAR", volatility="stable"),
    ),
    (
        'create temp tool T(a INTEGER) returns table (x integer, "y z" varchar[]) as sql $$ SELECT $a, [] $$',
        ToolDef(
            "T",
            "sql",
            " SELECT $a, [] ",
            A,
            "",
            (("x", "integer"), ("y z", "varchar[]")),
            volatility="stable",
            temp=True,
        ),
    ),
    (
        "CREATE TOOL t(a INTEGER) RETURNS JSON STABLE COMMENT 'it''s' "
        "AS HTTP POST 'https://h/{{a}}' WITH (timeout_s = 2)",
        ToolDef("t", "http", "https://h/{{a}}", A, "JSON", (), "POST", "", "stable", {"timeout_s": 2}, comment="it's"),
    ),
    (
        "CREATE TOOL t(a INTEGER) RETURNS VARCHAR IMMUTABLE AS MCP 'npx server' 'search'",
        ToolDef("t", "mcp", "npx server", A, "VARCHAR", remote="search", volatility="immutable"),
    ),
    (
        "CREATE TOOL table_of(comment VARCHAR, volatile INTEGER) RETURNS VARCHAR AS SQL 'SELECT 1'",
        ToolDef(
            "table_of",
            "sql",
            "SELECT 1",
            (Parameter("comment", "VARCHAR"), Parameter("volatile", "INTEGER")),
            "VARCHAR",
            volatility="stable",
        ),
    ),
]


@pytest.mark.parametrize(("sql", "tool"), TOOLS)
def test_create_tool(sql: str, tool: ToolDef) -> None:
    node = parse_statement(sql)
    assert isinstance(node, CreateTool)
    assert node.definition() == tool
    assert sql[node.body_span.start : node.body_span.end].strip("'$") == tool.body.replace("'", "''")


TYPES = [
    "INTEGER",
    "double precision",
    "DECIMAL(10, 2)",
    "VARCHAR[]",
    "INTEGER[3][]",
    'STRUCT(a VARCHAR, "b c" DOUBLE[], d STRUCT(e INTEGER))',
    "MAP(VARCHAR, STRUCT(x INTEGER)[])[]",
    "UNION(num INTEGER, str VARCHAR)",
    "ENUM('x', 'it''s')",
    "TIMESTAMP WITH TIME ZONE",
    "main.mood",
    '"My Type"',
]
DEFAULTS = [
    None,
    "1",
    "1 + f(2, 3)",
    "'a, b)'",
    "[1, 2]",
    "{'x': 1}",
    "(SELECT 1)",
    "NULL::INTEGER",
    "CASE WHEN a THEN 1 END",
]


@pytest.mark.parametrize("type_text", TYPES)
@pytest.mark.parametrize("default", DEFAULTS)
def test_types_and_defaults_are_kept_as_written(type_text: str, default: str | None) -> None:
    tail = "" if default is None else f" DEFAULT {default}"
    sql = f"CREATE TOOL t(a {type_text}{tail}, b {type_text}) RETURNS {type_text} STABLE AS SQL 'x'"
    node = parse_statement(sql)
    assert isinstance(node, CreateTool)
    assert [(item.name, item.type, item.default) for item in node.parameters] == [
        ("a", type_text, default),
        ("b", type_text, None),
    ]
    assert node.returns == type_text
    for item in node.parameters:
        assert sql[item.type_span.start : item.type_span.end] == item.type
        assert sql[item.default_span.start : item.default_span.end] == (item.default or item.type)
    agent = parse_statement(f"CREATE AGENT g(a {type_text}{tail}) RETURNS {type_text} WITH (max_steps = 1)")
    assert isinstance(agent, CreateAgent)
    assert (agent.parameters[0].type, agent.parameters[0].default, agent.returns) == (type_text, default, type_text)


def test_create_agent() -> None:
    node = parse_statement("CREATE AGENT g WITH (model = m, tools = [t1, \"T 2\"], max_steps = 8, system = 'x')")
    assert isinstance(node, CreateAgent)
    made = node.definition()
    assert made == AgentDef("g", options={"model": "m", "tools": ["t1", "T 2"], "max_steps": 8, "system": "x"})
    assert (made.model, made.tools, made.returns) == ("m", ("t1", "T 2"), "VARCHAR")


def test_create_secret() -> None:
    node = parse_statement(
        "CREATE OR REPLACE PERSISTENT SECRET s (TYPE llm, API_KEY 'hunter2', BASE_URL 'https://h/v1')"
    )
    assert isinstance(node, CreateSecret)
    assert (node.name, node.api_key, node.api_key_env, node.base_url) == ("s", "hunter2", None, "https://h/v1")
    assert (node.persistent, node.or_replace, node.if_not_exists) == (True, True, False)
    assert "hunter2" not in repr(node)
    named = parse_statement("CREATE SECRET IF NOT EXISTS s (type 'LLM', provider config, api_key_env = 'KEY')")
    assert isinstance(named, CreateSecret)
    assert (named.api_key, named.api_key_env, named.if_not_exists) == (None, "KEY", True)


OTHERS: list[tuple[str, type[Statement], dict[str, object]]] = [
    ("DROP TOOL t", Drop, {"kind": "tool", "name": "t", "cascade": False}),
    ("DROP AGENT IF EXISTS a RESTRICT", Drop, {"kind": "agent", "if_exists": True, "cascade": False}),
    ("DROP MODEL m CASCADE", Drop, {"kind": "model", "cascade": True}),
    ("DROP SECRET s", DropSecret, {"name": "s", "scope": "", "if_exists": False}),
    ("DROP TEMP SECRET IF EXISTS s", DropSecret, {"scope": "temporary", "if_exists": True}),
    ("DROP PERSISTENT SECRET s", DropSecret, {"scope": "persistent"}),
    ("ALTER MODEL m RENAME TO n", Alter, {"kind": "model", "action": "rename", "text": "n"}),
    ("ALTER TOOL IF EXISTS t SET COMMENT 'x'", Alter, {"action": "set_comment", "text": "x", "if_exists": True}),
    ("ALTER TOOL t SET COMMENT NULL", Alter, {"action": "set_comment", "text": None}),
    ("ALTER PROMPT p SET TEXT $$x$$", Alter, {"action": "set_text", "text": "x"}),
    ("ALTER PROMPT p AS 'x'", Alter, {"action": "set_text", "text": "x"}),
    ("COMMENT ON AGENT a IS 'x'", Alter, {"kind": "agent", "action": "set_comment", "text": "x"}),
    ("COMMENT ON MODEL m IS NULL", Alter, {"kind": "model", "action": "set_comment", "text": None}),
    ("SHOW TOOLS", Show, {"kind": "tool"}),
    ("SHOW SECRETS", Show, {"kind": "secret"}),
    ("DESCRIBE SECRET s", Describe, {"kind": "secret", "name": "s"}),
    ('DESC AGENT "A"', Describe, {"kind": "agent", "name": "A"}),
    ("BEGIN BATCH", BatchMark, {"begins": True}),
    ("end batch;", BatchMark, {"begins": False}),
]


@pytest.mark.parametrize(("sql", "cls", "fields"), OTHERS)
def test_nodes(sql: str, cls: type[Statement], fields: dict[str, object]) -> None:
    node = parse_statement(sql)
    assert type(node) is cls
    assert {name: getattr(node, name) for name in fields} == fields


def test_alter_options() -> None:
    node = parse_statement("ALTER MODEL m SET (a = 1, b = [x, 'y'])")
    assert isinstance(node, Alter)
    assert [(item.key, item.value) for item in node.options] == [("a", 1), ("b", ["x", "y"])]
    node = parse_statement('ALTER MODEL m RESET (a, "B")')
    assert isinstance(node, Alter)
    assert [key for key, _ in node.keys] == ["a", "b"]


# statement, what carets stand under, words of the error
ERRORS = [
    ("CREATE TOOL t RETURNS INTEGER AS SQL 'x'", "RETURNS", '"("'),
    ("CREATE TOOL t(a, b INTEGER) RETURNS INTEGER AS SQL 'x'", ",", "Expected a type"),
    ("CREATE TOOL t(a INTEGER DEFAULT) RETURNS INTEGER AS SQL 'x'", ")", "Expected an expression"),
    ("CREATE TOOL t(a INTEGER,) RETURNS INTEGER AS SQL 'x'", ")", "a name"),
    ("CREATE TOOL t() AS SQL 'x'", "AS", "RETURNS"),
    ("CREATE TOOL t() RETURNS AS SQL 'x'", "AS", "TABLE or a type"),
    ("CREATE TOOL t() RETURNS TABLE () AS SQL 'x'", ")", "a name"),
    ("CREATE TOOL t() RETURNS INTEGER AS SQ 'x'", "SQ", 'Did you mean "SQL"'),
    ("CREATE TOOL t() RETURNS INTEGER AS SQL x", "x", "the query in single quotes"),
    ("CREATE TOOL t() RETURNS INTEGER AS SQL ' '", "' '", "cannot be empty"),
    ("CREATE TOOL t() RETURNS INTEGER AS HTTP 'https://h'", "'https://h'", "GET or POST"),
    ("CREATE TOOL t() RETURNS INTEGER AS HTTP PUT 'https://h'", "PUT", "GET or POST"),
    ("CREATE TOOL t() RETURNS INTEGER COMMENT AS SQL 'x'", "AS", "a value"),
    ("CREATE TOOL db.t() RETURNS INTEGER AS SQL 'x'", ".", "A name has no qualifier"),
    ("CREATE AGENT g RETURNS", "", "a type"),
    ("CREATE SECRET s", "", '"("'),
    ("CREATE SECRET (TYPE llm, API_KEY 'hunter2')", "(", "a name"),
    ("CREATE SECRET s (TYPE llm)", "s", "holds no key"),
    ("CREATE SECRET s (TYPE llm, API_KEY 'hunter2', API_KEY_ENV 'x')", "API_KEY_ENV", "exclude each other"),
    ("CREATE SECRET s (TYPE llm, APIKEY 'hunter2')", "APIKEY", 'Did you mean "api_key"'),
    ("CREATE SECRET s (TYPE llm, API_KEY hunter2)", "API_KEY", "takes a text"),
    ("CREATE SECRET s (TYPE llm, API_KEY '')", "API_KEY", "takes a text"),
    ("CREATE SECRET s (TYPE llm, API_KEY 'hunter2', api_key 'hunter2')", "api_key", "given twice"),
    ("CREATE SECRET s (TYPE llm, PROVIDER vault, API_KEY 'hunter2')", "PROVIDER", "no such provider"),
    ("CREATE OR REPLACE SECRET IF NOT EXISTS s (TYPE llm, API_KEY 'hunter2')", "IF NOT EXISTS", "exclude each other"),
    ("ALTER MODEL m", "", "RENAME"),
    ("ALTER MODEL m RENAM TO n", "RENAM", 'Did you mean "RENAME"'),
    ("ALTER MODEL m SET (a = 1, a = 2)", "a", "given twice"),
    ("ALTER MODEL m RESET ()", ")", "an option's name"),
    ("ALTER PROMPT p SET TEXT x", "x", "the template in single quotes"),
    ("COMMENT ON MODEL m 'x'", "'x'", "IS"),
    ("COMMENT ON MODEL m IS x", "x", "NULL or a value"),
    ("DROP TOOL a, b", ",", "the end of the statement"),
    ("DESCRIBE TOOL", "", "a name"),
    ("SHOW TOOLS x", "x", "the end of the statement"),
]


@pytest.mark.parametrize(("sql", "place", "words"), ERRORS)
def test_errors(sql: str, place: str, words: str) -> None:
    with pytest.raises(ParserError) as caught:
        parse_statement(sql)
    span = caught.value.span
    assert span is not None
    assert sql[span.start : span.end] == place
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.sql)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER MODEL m SET (api_key = 'hunter2')",
        "CREATE TOOL t() RETURNS VARCHAR AS HTTP GET 'https://h' WITH (token = 'hunter2')",
        "CREATE AGENT g WITH (password = 'hunter2')",
        "CREATE TOOL t() RETURNS VARCHAR AS MCP 'x' WITH (secret = 'hunter2')",
    ],
)
def test_secrets_in_options_are_refused_and_not_shown(sql: str) -> None:
    with pytest.raises(CatalogError, match="in clear") as caught:
        parse_statement(sql)
    assert "hunter2" not in str(caught.value)


def test_redact_knows_statements_of_a_script() -> None:
    script = "SELECT api_key FROM t; CREATE SECRET s (TYPE llm, API_KEY hunter2, BASE_URL 'u'); SELECT key 'kept'"
    assert redact(script) == script.replace("hunter2", "*******").replace("'kept'", "******")
    assert redact("CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'hunter2')") == (
        "CREATE SECRET s (TYPE s3, KEY_ID ***, SECRET *********)"
    )


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
OPTIONS = st.dictionaries(st.sampled_from(["timeout_s", "from", "a b", "x1"]), VALUES, max_size=3)
PARAMETERS = st.lists(st.builds(Parameter, NAMES, st.sampled_from(TYPES), st.sampled_from(DEFAULTS)), max_size=3).map(
    tuple
)
COMMENTS = st.none() | TEXTS


@given(NAMES, TEXTS.filter(str.strip), PARAMETERS, OPTIONS, st.sampled_from(["sql", "http", "python", "mcp"]), COMMENTS)
def test_a_tools_script_makes_it_again(
    name: str,
    body: str,
    parameters: tuple[Parameter, ...],
    options: dict[str, object],
    kind: str,
    comment: str | None,
) -> None:
    tool = ToolDef(
        name,
        kind,
        body,
        parameters,
        "VARCHAR",
        method="GET" if kind == "http" else "",
        remote=name if kind == "mcp" else "",
        options=options,
        comment=comment,
    )
    table = dataclasses.replace(tool, returns="", columns=(("a", "INTEGER"), (name, "DECIMAL(4,1)[]")))
    for made in (tool, table):
        assert again(statements(made)) == made


@given(NAMES, PARAMETERS, st.lists(NAMES, max_size=2), NAMES, COMMENTS)
def test_an_agents_script_makes_it_again(
    name: str, parameters: tuple[Parameter, ...], tools: list[str], model: str, comment: str | None
) -> None:
    made = AgentDef(
        name, parameters, "STRUCT(a VARCHAR)", {"tools": tools, "model": model, "system": name}, comment=comment
    )
    assert again(statements(made)) == made


def again(texts: list[str]) -> object:
    """What the statements make."""
    assert all(classify(text) is Kind.HALO_DDL for text in texts)
    node = parse_statement(texts[0])
    assert isinstance(node, CreateTool | CreateAgent)
    made = node.definition()
    for text in texts[1:]:
        alter = parse_statement(text)
        assert isinstance(alter, Alter)
        assert alter.name == node.name
        made = dataclasses.replace(made, comment=alter.text)
    return made


@given(st.sampled_from([sql for sql, *_ in TOOLS + OTHERS]), st.data())
def test_a_damaged_statement_gives_an_error_of_ours_or_a_node(sql: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sql)))
    damaged = sql[:at] + data.draw(st.text(max_size=3)) + sql[at + data.draw(st.integers(0, 3)) :]
    try:
        shown = repr(parse_statement(damaged))
    except Error as problem:
        shown = str(problem)
    assert shown

"""HaloSQL's own statements, executed: CREATE, ALTER, DROP, SHOW, DESCRIBE of objects and secrets; CALIBRATE; SET
and RESET."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

from halo_sql.alter import altered
from halo_sql.catalog.listing import describe, show
from halo_sql.catalog.objects import Snapshot, ToolDef
from halo_sql.catalog.store import Catalog
from halo_sql.config import Settings, find
from halo_sql.duck import Duck
from halo_sql.engines.registry import check_model, with_secret
from halo_sql.engines.secret_store import COLUMNS, Secret, SecretStore, rows
from halo_sql.engines.speed import Speed
from halo_sql.engines.speeds import COLUMNS as SPEED_COLUMNS
from halo_sql.engines.speeds import row as speed_row
from halo_sql.errors import CatalogError, Error, ProgrammingError, SettingError, Span, did_you_mean
from halo_sql.grammar.object_calls import value_type
from halo_sql.grammar.operators_table import OPERATORS
from halo_sql.grammar.source import read_literal
from halo_sql.grammar.statements.check_agent import check_agent
from halo_sql.grammar.statements.check_tool import check_tool
from halo_sql.grammar.statements.nodes import (
    Alter,
    Calibrate,
    Create,
    CreateAgent,
    CreateModel,
    CreatePrompt,
    CreateSecret,
    CreateTool,
    Describe,
    Drop,
    DropSecret,
    DropStatistics,
    ImportTools,
    ResetSetting,
    SetSetting,
    Show,
    Statement,
)
from halo_sql.grammar.statements.parse import parse_statement
from halo_sql.grammar.statements.redact import redact
from halo_sql.grammar.template import parse_template
from halo_sql.importing import import_tools
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.types import SqlType
from halo_sql.result import BatchResult, Result
from halo_sql.tool_names import ToolNames

_ARROW = {
    "VARCHAR": "string",
    "INTEGER": "int32",
    "BOOLEAN": "bool_",
    "BIGINT": "int64",
    "DOUBLE": "float64",
}


_NO_FUNCTION = re.compile(r'Function with name "?([^"\n]+?)"? does not exist')


class Session(Protocol):
    """What statements read and change of a session."""

    duck: Duck
    settings: Settings

    tool_names: ToolNames

    def served_tools(self, server: str, options: Mapping[str, object]) -> Sequence[ToolDef]:
        """The tools of an MCP server."""
        ...

    def calibrate(self, name: str) -> Speed:
        """Measure a model."""
        ...

    @property
    def catalog(self) -> Catalog:
        """The catalog as the connection sees it."""
        ...

    @property
    def secrets(self) -> SecretStore:
        """The secrets."""
        ...

    def forget(self) -> None:
        """Delete what was learnt from finished calls."""
        ...


def run(statement: Statement, session: Session, sql: str, params: object = None) -> Result:
    """Run a statement (``sql`` is its text); SHOW, DESCRIBE and CALIBRATE give rows, the others none.

    Errors point into ``sql``, secrets hidden. ProgrammingError for parameters: none of these statements has any.
    """
    if params:
        raise ProgrammingError(
            "the statement takes no parameters", kind="Invalid Input Error", remedy="Write the values into its text."
        )
    try:
        return _run(statement, session, sql)
    except Error as problem:
        problem.sql = None
        raise problem.locate(redact(sql), getattr(statement, "name_span", None)) from None


def _run(statement: Statement, session: Session, sql: str) -> Result:
    catalog = session.catalog
    match statement:
        case CreateModel() | CreatePrompt() | CreateTool() | CreateAgent():
            _create(statement, session, sql)
            session.tool_names.changed()
        case ImportTools():
            import_tools(statement, catalog, session.served_tools)
            session.tool_names.changed()
        case CreateSecret():
            _create_secret(statement, session)
        case DropSecret():
            session.secrets.drop(statement.name, statement.scope, if_exists=statement.if_exists)
        case Drop():
            catalog.drop(statement.kind, statement.name, if_exists=statement.if_exists, cascade=statement.cascade)
            session.tool_names.changed()
        case Alter():
            snapshot = catalog.snapshot()

            def change(definition: Any) -> Any:
                changed = altered(definition, statement, sql, snapshot)
                _check_secret(changed, session.secrets, None)
                return changed

            catalog.alter(statement.kind, statement.name, change, if_exists=statement.if_exists)
            session.tool_names.changed()
        case Show(kind="secret"):
            return text_result([(name, "VARCHAR") for name in COLUMNS], rows(session.secrets))
        case Show():
            return text_result(*show(catalog, statement.kind))
        case Describe(kind="secret"):
            secret = session.secrets.get(statement.name)
            pairs = list(zip(COLUMNS, secret.shown(), strict=True))
            return text_result([("property", "VARCHAR"), ("value", "VARCHAR")], pairs)
        case Describe():
            return text_result(*describe(catalog, statement.kind, statement.name))
        case DropStatistics():
            session.forget()
        case Calibrate():
            return text_result(SPEED_COLUMNS[:-1], [speed_row(session.calibrate(statement.name))[:-1]])
        case SetSetting():
            _set(statement, session.settings)
        case ResetSetting():
            session.settings.reset(statement.name, statement.scope)
        case _:
            raise AssertionError(type(statement).__name__)
    return text_result([("Count", "BIGINT")], [], rowcount=0)


def _set(statement: SetSetting, settings: Settings) -> None:
    setting = find(statement.name)
    try:
        if setting.name == "halo_disabled_rules":
            _check_rules(str(statement.value or ""))
        settings.set(statement.name, statement.value, statement.scope)
    except SettingError as problem:
        problem.span = statement.value_span
        raise


def _check_rules(text: str) -> None:
    from halo_sql.optimizer.optimize import BESIDE
    from halo_sql.optimizer.rules import RULES

    known = [*(rule.name for rule in RULES), *BESIDE]
    for name in filter(None, (word.strip() for word in text.split(","))):
        if name not in known:
            raise SettingError(f'there is no optimizer rule "{name}"', remedy=did_you_mean(name, known))


def _create(statement: Create, session: Session, sql: str) -> None:
    """Check a definition, then add it. One that IF NOT EXISTS keeps is not looked at further."""
    kind = type(statement).__name__.removeprefix("Create").lower()
    snapshot: Snapshot = session.catalog.snapshot()
    if not (statement.if_not_exists and _exists(snapshot, kind, statement)):
        if isinstance(statement, CreateTool):
            check_tool(statement, session.duck)
            if statement.kind == "http":
                _check_http(statement, session)
        elif isinstance(statement, CreateAgent):
            check_agent(statement, sql, session.duck, snapshot)
        elif isinstance(statement, CreatePrompt):
            _check_prompt(statement, sql)
        else:
            check_model(statement.definition())
        spans = {option.key: option.value_span for option in getattr(statement, "options", ())}
        _check_secret(statement.definition(), session.secrets, spans.get("secret"))
    session.catalog.create(
        statement.definition(), or_replace=statement.or_replace, if_not_exists=statement.if_not_exists
    )


def _check_http(statement: CreateTool, session: Session) -> None:
    """What only the runner reads: templates of headers and bodies, the result's path, the URL to the letter."""
    from halo_sql.tools.http import HttpRunner
    from halo_sql.tools.protocol import BoundTool, Surroundings

    tool = statement.definition()
    parameters = tuple((item.name, session.duck.sql_type(item.type)) for item in tool.parameters)
    bound = BoundTool(tool, parameters, value_type(tool, session.duck.sql_type))
    try:
        HttpRunner(bound, Surroundings(lambda name, url: ""))
    except CatalogError as problem:
        problem.span = problem.span or statement.body_span
        raise


def _check_prompt(statement: CreatePrompt, sql: str) -> None:
    try:
        parse_template(statement.text)
    except Error as problem:
        if problem.span is not None:
            start = statement.text_span.start
            offsets = read_literal(sql[start : statement.text_span.end]).offsets
            top = len(offsets) - 1
            left, right = offsets[min(problem.span.start, top)], offsets[min(problem.span.end, top)]
            problem.span = Span(start + left, start + max(right, left + 1))
        raise


def _exists(snapshot: Snapshot, kind: str, statement: Create) -> bool:
    found = snapshot.of(kind).get(statement.name.lower())
    return found is not None and found.temp == statement.temp


def _check_secret(definition: Any, secrets: SecretStore, span: Span | None) -> None:
    """The SECRET a definition names exists, and is for its server."""
    name = getattr(definition, "options", {}).get("secret")
    if name is None:
        return
    try:
        if getattr(definition, "engine", "") == "openai":
            check_model(with_secret(definition, secrets))
        else:
            secrets.get(str(name))
    except Error as problem:
        problem.span = problem.span or span
        raise


def _create_secret(statement: CreateSecret, session: Session) -> None:
    if session.duck.rows("SELECT 1 FROM duckdb_secrets() WHERE lower(name) = lower(?)", [statement.name]):
        raise CatalogError(f'DuckDB has a secret "{statement.name}"', remedy="Choose another name, or drop that first.")
    if statement.base_url and not statement.base_url.lower().startswith(("http://", "https://")):
        raise CatalogError(
            "BASE_URL does not begin with http:// or https://",
            span=statement.base_url_span,
            remedy="Give the base URL of the server, like 'https://api.example.org/v1'.",
        )
    if not all(
        text.isascii() and text.isprintable() for text in (statement.api_key or "", statement.api_key_env or "")
    ):
        raise CatalogError("a key is printable ASCII", remedy="Copy it again, without line ends and blanks around it.")
    secret = Secret(statement.name, statement.api_key, statement.api_key_env, statement.base_url, statement.persistent)
    session.secrets.create(secret, or_replace=statement.or_replace, if_not_exists=statement.if_not_exists)


def drops_own_secret(sql: str, secrets: SecretStore) -> bool:
    """Whether a DROP SECRET names one of TYPE llm; all others are DuckDB's to drop, or to complain about."""
    try:
        statement = parse_statement(sql)
    except Error:
        return False
    return isinstance(statement, DropSecret) and secrets.has(statement.name)


def misspelled(problem: Error, agents: Container[str]) -> Error | None:
    """What to say instead of "there is no such function" when an operator nearly has the name, or an agent (lower-case
    names) has it; None for DuckDB's own words."""
    found = _NO_FUNCTION.search(problem.message)
    if found is None or not (found[1].lower().startswith("llm_") or found[1].lower() in agents):
        return None
    first = problem.message.partition("\n")[0]
    remedy = did_you_mean(found[1], list(OPERATORS))
    if found[1].lower() in agents:
        remedy = f"It is the name of the agent AGENT({found[1]}, …)."
    elif found[1].upper() in OPERATORS:  # s.llm_map()
        remedy = f"An operator is not called as a method: write {found[1].upper()}(…)."
    return CatalogError(first, sql=problem.sql, span=problem.span, remedy=remedy)


def text_result(columns: Sequence[tuple[str, str]], rows: Sequence[tuple[Any, ...]], rowcount: int = -1) -> Result:
    """Rows of Python values as a result."""
    import pyarrow

    named = tuple(
        Column(ColumnId(index), name, SqlType(kind, kind.lower())) for index, (name, kind) in enumerate(columns)
    )
    arrays = [
        pyarrow.array([row[index] for row in rows], type=getattr(pyarrow, _ARROW[kind])())
        for index, (_, kind) in enumerate(columns)
    ]
    batch = pyarrow.RecordBatch.from_arrays(arrays, names=[f"c{index}" for index in range(len(columns))])
    return BatchResult(named, [batch] if rows else [], rowcount=rowcount)

"""CREATE AGENT, checked when it is made: arguments, the type, model and tools. Nothing is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halo_sql.catalog.objects import Snapshot
from halo_sql.duck import Duck
from halo_sql.duck_tokens import tokenize
from halo_sql.errors import BinderError, CatalogError, Span, did_you_mean
from halo_sql.grammar.skeleton import identifier
from halo_sql.grammar.statements.check_arguments import check_arguments, check_type
from halo_sql.grammar.statements.check_options import AGENT_OPTIONS, check_options, check_template
from halo_sql.grammar.statements.lexemes import string_value
from halo_sql.grammar.statements.nodes import CreateAgent, Option
from halo_sql.ir.types import json_schema


def check_agent(node: CreateAgent, sql: str, duck: Duck, snapshot: Snapshot) -> None:
    """Raises BinderError or CatalogError with a position in the statement ``sql`` and the remedy."""
    check_arguments(duck, node.parameters)
    for item in node.parameters:
        if item.name.lower() == "task":
            raise BinderError(
                'an agent\'s argument cannot be called "task"',
                span=item.name_span,
                remedy="The task is given anyway: AGENT(name, task, argument => …).",
            )
    sql_type = check_type(duck, node.returns, node.returns_span)
    try:
        json_schema(sql_type)
    except ValueError as problem:
        raise BinderError(
            f"a model cannot be held to the type {problem}", span=node.returns_span, remedy="Use another type."
        ) from None
    arguments = [item.name for item in node.parameters]
    check_agent_options(node.name, node.temp, node.options, arguments, sql, snapshot)


def check_agent_options(
    agent: str,
    temp: bool,
    options: Sequence[Option],
    arguments: Sequence[str],
    sql: str,
    snapshot: Snapshot,
    before: Mapping[str, object] | None = None,
) -> None:
    """An agent's options: ranges, holes, and that the objects it names exist and live as long as it does.

    ``before``: those it has already, when some are changed."""
    check_options("an agent", options, AGENT_OPTIONS)
    for option in options:
        if option.key == "system":
            check_template(str(option.value), [*arguments, "task"], option.value_span)
        elif option.key == "model":
            _check_use(agent, temp, "model", str(option.value), option.value_span, snapshot)
        elif option.key in ("tools", "egress"):
            assert isinstance(option.value, list)  # check_options
            seen: set[str] = set()
            for name in map(str, option.value):
                place = _place(sql, option.value_span, name)
                if name.lower() in seen:
                    raise CatalogError(f'tool "{name}" is there twice', span=place, remedy="Name it once.")
                seen.add(name.lower())
                if name.lower() == agent.lower() and name.lower() not in snapshot.tools:
                    raise CatalogError(
                        f'agent "{agent}" would call itself', span=place, remedy="A cycle of agents never ends."
                    )
                kind = "agent" if name.lower() in snapshot.agents and name.lower() not in snapshot.tools else "tool"
                _check_use(agent, temp, kind, name, place, snapshot)
    _check_egress(options, sql, before or {})


def _check_egress(options: Sequence[Option], sql: str, before: Mapping[str, object]) -> None:
    """What may act on tainted values must be one of its tools."""
    given = {option.key: option.value for option in options}
    tools = given.get("tools", before.get("tools", []))
    known = [str(name) for name in tools] if isinstance(tools, list) else []
    for option in options:
        if option.key != "egress" or not isinstance(option.value, list):
            continue
        for name in map(str, option.value):
            if name.lower() not in {tool.lower() for tool in known}:
                raise CatalogError(
                    f'egress names "{name}", which is none of the tools',
                    span=_place(sql, option.value_span, name),
                    remedy=did_you_mean(name, known) or "Give it to the agent first: tools = [" + name + "].",
                )


def _check_use(agent: str, temp: bool, kind: str, name: str, span: Span, snapshot: Snapshot) -> None:
    known = snapshot.of(kind)
    found = known.get(name.lower())
    if found is None:
        near = did_you_mean(name, [item.name for item in known.values()])
        raise CatalogError(
            f'{kind} "{name}" does not exist', span=span, remedy=near or f"CREATE {kind.upper()} {name} … first."
        )
    if found.temp and not temp:
        raise CatalogError(
            f'agent "{agent}" would outlive {kind} "{name}", which is temporary',
            span=span,
            remedy="Use CREATE TEMP AGENT.",
        )


def _place(sql: str, span: Span, name: str) -> Span:
    """Where a name stands in a list of names."""
    for token in tokenize(sql):
        if span.start <= token.start < span.end:
            written = string_value(token) if token.kind == "string_const" else identifier(token.text)
            if written.lower() == name.lower():
                return Span(token.start, token.end)
    return span

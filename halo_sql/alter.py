"""ALTER and COMMENT ON: the next version of a definition, checked as a CREATE would check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from halo_sql.catalog.objects import AgentDef, Definition, ModelDef, PromptDef, Snapshot, ToolDef, kind_of
from halo_sql.engines.registry import check_model
from halo_sql.errors import CatalogError, Error, Span, did_you_mean
from halo_sql.grammar.statements.check_agent import check_agent_options
from halo_sql.grammar.statements.check_tool import check_tool_options
from halo_sql.grammar.statements.nodes import Alter
from halo_sql.grammar.template import parse_template


def altered(definition: Definition, statement: Alter, sql: str, snapshot: Snapshot) -> Definition:
    """The changed definition; CatalogError with a position in the statement ``sql`` for what cannot be."""
    if statement.action == "rename":
        assert statement.text is not None  # the grammar has a name
        if isinstance(definition, ModelDef) and definition.engine == "python" and ":" not in definition.source:
            return replace(definition, name=statement.text, source=statement.text)
        return replace(definition, name=statement.text)
    if statement.action == "set_comment":
        return replace(definition, comment=statement.text)
    if statement.action == "set_text":
        return _with_text(definition, statement)
    if isinstance(definition, PromptDef):
        return _with_system(definition, statement)
    options = _options(definition.options, statement, f'{kind_of(definition)} "{definition.name}"')
    changed = replace(definition, options=options)
    names = [item.name for item in getattr(changed, "parameters", ())]
    if isinstance(changed, ToolDef):
        check_tool_options(statement.options, changed.kind, changed.method, names)
    elif isinstance(changed, AgentDef):
        before = definition.options if isinstance(definition, AgentDef) else {}
        check_agent_options(changed.name, changed.temp, statement.options, names, sql, snapshot, before)
    else:
        check_model(changed)
    return changed


def _options(given: Mapping[str, object], statement: Alter, what: str) -> dict[str, object]:
    kept = dict(given)
    for key, span in statement.keys:
        if key not in kept:
            raise CatalogError(
                f'{what} has no option "{key}" set',
                span=span,
                remedy=did_you_mean(key, list(kept)) or "None of its options is set.",
            )
        del kept[key]
    return kept | {option.key: option.value for option in statement.options}


def _with_text(definition: Definition, statement: Alter) -> PromptDef:
    if not isinstance(definition, PromptDef):
        what = kind_of(definition).upper()
        raise CatalogError(
            f"a {what} has no text to set", span=statement.text_span, remedy=f"Use CREATE OR REPLACE {what}."
        )
    text = statement.text or ""
    try:
        parse_template(text)
    except Error as problem:
        problem.span = statement.text_span
        raise
    return replace(definition, text=text)


def _with_system(definition: PromptDef, statement: Alter) -> PromptDef:
    system: str | None = definition.system
    keys: list[tuple[str, Span]] = [*statement.keys, *((option.key, option.span) for option in statement.options)]
    for key, span in keys:
        if key != "system":
            raise CatalogError(f'a prompt has no option "{key}"', span=span, remedy='The only option is "system".')
        system = None
    for option in statement.options:
        if not isinstance(option.value, str) or not option.literal:
            raise CatalogError("system takes a text", span=option.value_span, remedy="Put it in single quotes.")
        system = option.value
    return replace(definition, system=system)

"""Objects as the statements that make them again, in an order in which they can run."""

from __future__ import annotations

import re

from halo_sql.catalog.listing import argument, returns
from halo_sql.catalog.objects import (
    BUILT_IN_MODELS,
    KINDS,
    AgentDef,
    Definition,
    ModelDef,
    Parameter,
    PromptDef,
    Snapshot,
    ToolDef,
    kind_of,
)
from halo_sql.ir.expr import literal, quote

_PLAIN_KEY = re.compile(r"[a-z_][a-z0-9_]*")
_RESERVED = frozenset({"as", "create", "from", "not", "to", "using", "with", "or", "desc", "describe", "show"})


def script(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """(kind, name, statement) for every persistent object: models, prompts and tools before the agents that use them.

    Secrets are no part of it: ``secret = name`` needs one of that name where the script runs.
    """
    rows = []
    for kind in KINDS:
        for _, definition in sorted(snapshot.of(kind).items()):
            if not definition.temp and BUILT_IN_MODELS.get(definition.name) is not definition:
                rows += [(kind, definition.name, statement) for statement in statements(definition)]
    return rows


def statements(definition: Definition) -> list[str]:
    """The CREATE of an object (without ``;``), and its COMMENT ON when it has a comment."""
    kind, name = kind_of(definition).upper(), quote(definition.name)
    head = f"CREATE {'TEMP ' * definition.temp}{kind} {name}"
    if isinstance(definition, ModelDef):
        text = f"{head} FROM {literal(definition.source)} USING {definition.engine}{_options(definition)}"
    elif isinstance(definition, PromptDef):
        system = "" if definition.system is None else f" WITH (system = {literal(definition.system)})"
        text = f"{head} AS {literal(definition.text)}{system}"
    elif isinstance(definition, ToolDef):
        body = " ".join(filter(None, [definition.kind.upper(), definition.method, literal(definition.body)]))
        remote = f" {literal(definition.remote)}" if definition.remote else ""
        text = (
            f"{head}({_parameters(definition.parameters)}) RETURNS {returns(definition)} "
            f"{definition.volatility.upper()} AS {body}{remote}{_options(definition)}"
        )
    else:
        given = f"({_parameters(definition.parameters)})" if definition.parameters else ""
        text = f"{head}{given} RETURNS {definition.returns}{_options(definition)}"
    if definition.comment is None:
        return [text]
    return [text, f"COMMENT ON {kind} {name} IS {literal(definition.comment)}"]


def _parameters(parameters: tuple[Parameter, ...]) -> str:
    return ", ".join(f"{quote(item.name)} {argument(item)}" for item in parameters)


def _options(definition: ModelDef | ToolDef | AgentDef) -> str:
    if not definition.options and not isinstance(definition, AgentDef):
        return ""
    items = []
    for key, value in definition.options.items():
        named = key == "secret" or (isinstance(definition, AgentDef) and key in ("model", "tools"))
        plain = _PLAIN_KEY.fullmatch(key) and key not in _RESERVED
        items.append(f"{key if plain else quote(key)} = {_value(value, named)}")
    # an agent's WITH is not optional
    return f" WITH ({', '.join(items) or 'max_steps = 8'})"


def _value(value: object, named: bool = False) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quote(value) if named else literal(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item, named) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(str(key))}: {_value(item)}" for key, item in value.items()) + "}"
    return repr(value)

"""Syntax nodes of HaloSQL's own statements: frozen, with character spans into the statement's text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halo_sql.catalog.objects import ModelDef, PromptDef
from halo_sql.errors import Span

#: Engines a MODEL may name, in the order in which errors list them.
ENGINES = ("vllm", "openai", "ray", "python", "echo", "replay")

OptionValue = str | int | float | bool | list["OptionValue"] | dict[str, "OptionValue"] | None


@dataclass(frozen=True, slots=True)
class Option:
    """``key = value`` in WITH (…).

    key      lower case
    value    an unquoted word is its text, except true, false and null
    literal  False when the value is an unquoted word (the name of something)
    span     of the key
    """

    key: str
    value: OptionValue
    literal: bool
    span: Span
    value_span: Span


@dataclass(frozen=True, slots=True)
class CreateModel:
    """CREATE [OR REPLACE] [TEMP] MODEL [IF NOT EXISTS] name FROM 'source' [USING engine] [WITH (…)]

    engine  as given, lower case; otherwise what the source says (``default_engine``)
    """

    name: str
    name_span: Span
    source: str
    source_span: Span
    engine: str
    options: tuple[Option, ...] = ()
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False

    def definition(self) -> ModelDef:
        """The catalog object this creates; the catalog gives it its version."""
        return ModelDef(self.name, self.source, self.engine, option_values(self.options), temp=self.temp)


@dataclass(frozen=True, slots=True)
class CreatePrompt:
    """CREATE [OR REPLACE] [TEMP] PROMPT [IF NOT EXISTS] name AS 'template' [WITH (system = '…')]

    text_span  of the template with its quotes
    """

    name: str
    name_span: Span
    text: str
    text_span: Span
    system: str | None = None
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False

    def definition(self) -> PromptDef:
        """The catalog object this creates; the catalog gives it its version."""
        return PromptDef(self.name, self.text, self.system, temp=self.temp)


@dataclass(frozen=True, slots=True)
class Drop:
    """DROP MODEL | PROMPT [IF EXISTS] name; kind is 'model' | 'prompt'."""

    kind: str
    name: str
    name_span: Span
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class Show:
    """SHOW MODELS | PROMPTS; kind is 'model' | 'prompt'."""

    kind: str


@dataclass(frozen=True, slots=True)
class Describe:
    """DESCRIBE MODEL | PROMPT name; kind is 'model' | 'prompt'."""

    kind: str
    name: str
    name_span: Span


@dataclass(frozen=True, slots=True)
class SetSetting:
    """SET [SESSION | GLOBAL | LOCAL] halo_x = value, PRAGMA halo_x = value.

    name   lower case
    value  a list arrives as its items joined by commas
    scope  '' | 'session' | 'global' | 'local'
    """

    name: str
    name_span: Span
    value: str | int | float | bool | None
    value_span: Span
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ResetSetting:
    """RESET [scope] halo_x, SET halo_x = DEFAULT."""

    name: str
    name_span: Span
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Explain:
    """EXPLAIN [ANALYZE] [(option [value], …)] statement.

    format     'text' | 'json' | 'html' | 'mermaid' | 'graphviz'
    sections   of 'logical', 'physical', 'memo', 'rules', 'costs', those asked for, in the order given
    statement  the explained statement's text
    start      where it begins in the EXPLAIN's text (characters)
    """

    statement: str
    start: int
    analyze: bool = False
    format: str = "text"
    sections: tuple[str, ...] = ()


Statement = CreateModel | CreatePrompt | Drop | Show | Describe | SetSetting | ResetSetting | Explain


def option_values(options: tuple[Option, ...]) -> Mapping[str, object]:
    """Key -> value."""
    return {option.key: option.value for option in options}


def default_engine(source: str) -> str:
    """The engine of a model whose statement names none."""
    lowered = source.lower()
    if lowered.startswith(("http://", "https://")):
        return "openai"
    return "echo" if lowered == "echo" else "vllm"

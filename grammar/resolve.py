"""A call's options against the catalog and the settings: everything about it but its prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from halo_sql.catalog.objects import ModelDef, Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.engines.kinds import embedding_dimensions, model_kind, refusal
from halo_sql.engines.protocol import EMBEDDING, TEXT
from halo_sql.engines.ranking import GRADE_SYSTEM, LETTERS
from halo_sql.errors import BinderError, Error, Span, did_you_mean
from halo_sql.grammar.arguments import Arguments
from halo_sql.grammar.fields import extract_instructions
from halo_sql.grammar.labels import Label, classify_instructions
from halo_sql.ir.expr import quote
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import BOOLEAN, DOUBLE, FLOAT, VARCHAR, VARCHAR_LIST, SqlType, check_schema

ANSWER_TOKENS = 256
SHOWN_TYPE = 100  # characters of it in an error
RANK_TOKENS = 16  # a number up to 100, and what a server may put around it: {"answer": 100}
FILTER_TOKENS = 8  # enough for "yes" or "no" and an end token in any vocabulary
_FORM_TOKENS = 16  # what a server may put around a choice: {"answer": "…"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a call asks for, apart from its prompt; the fields mean what they mean in ``LlmCall``."""

    model: ModelDef
    system: str | None
    returns: SqlType
    sampling: Sampling
    on_error: str
    cache: bool
    priority: int
    labels: tuple[str, ...] = ()
    fan_in: int = 0
    method: str = ""
    quality: float = 0.0
    proxy: str = ""
    fuse: bool = False
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Resolver:
    """What calls are resolved against."""

    duck: Duck
    snapshot: Snapshot
    settings: Settings

    def resolve(self, kind: str, arguments: Arguments, system: str | None) -> Resolved:
        """``system`` is that of a PROMPT object; BinderError that points to the option that is wrong."""
        labels: tuple[Label, ...] = arguments.get("labels", ())
        model = self._model(kind, arguments)
        returns = self._vector(model, arguments) if kind == "embed" else self._returns(kind, arguments)
        fuse = arguments.get("fuse", False) and not arguments.get("examples", ())  # examples show one answer
        instructions = _instructions(kind, arguments, labels, returns)
        return Resolved(
            model,
            _system(kind, arguments, system, instructions),
            returns,
            Sampling(
                arguments.get("temperature", 0.0),
                arguments.get("top_p", 1.0),
                arguments.get("max_tokens", _max_tokens(kind, labels, returns)),
                arguments.get("seed"),
                arguments.get("stop", ()),
            ),
            self._on_error(kind, arguments),
            arguments.get("cache", True),
            arguments.get("priority", 0),
            tuple(label.text for label in labels),
            self._fan_in(kind, arguments),
            arguments.get("method", ""),
            arguments.get("quality", 0.0),
            self._proxy(arguments, model),
            fuse,
            instructions if fuse else "",
        )

    def _proxy(self, arguments: Arguments, model: ModelDef) -> str:
        """The name of the model that may decide in part; '' when none is given."""
        if "quality" in arguments.options and arguments.get("temperature", 0.0) and arguments.get("seed") is None:
            raise BinderError(
                "quality compares answers with those of the model, and at this temperature they change",
                span=arguments.span("quality"),
                remedy="Give the call a seed, or leave temperature out.",
            )
        if "proxy" not in arguments.options:
            return ""
        if "quality" not in arguments.options:
            raise BinderError(
                "proxy says who may decide in part, but not how well",
                span=arguments.span("proxy"),
                remedy="Give quality => 0.9, too: the precision and recall that are wanted.",
            )
        proxy = self._named(arguments, "proxy")
        problem = refusal(model_kind(proxy), f'model "{proxy.name}"', TEXT)
        if problem is not None:
            raise BinderError(problem.message, span=arguments.span("proxy"), remedy=problem.remedy)
        if proxy.name.lower() == model.name.lower():
            raise BinderError(
                f'proxy "{proxy.name}" is the model itself, which saves nothing',
                span=arguments.span("proxy"),
                remedy="Name a cheaper model.",
            )
        return proxy.name

    @staticmethod
    def _fan_in(kind: str, arguments: Arguments) -> int:
        fan_in: int = arguments.get("fan_in", 0)
        if kind == "rank" and fan_in > len(LETTERS):
            raise BinderError(
                f"a comparison takes at most {len(LETTERS)} rows, not {fan_in}",
                span=arguments.span("fan_in"),
                remedy=f"Use a fan_in from 2 to {len(LETTERS)}.",
            )
        return fan_in

    def _returns(self, kind: str, arguments: Arguments) -> SqlType:
        if kind == "filter":
            return BOOLEAN
        if kind == "classify":
            return VARCHAR_LIST if arguments.get("multi", False) else VARCHAR
        if kind in ("score", "rank"):
            return DOUBLE
        if "returns" not in arguments.options:
            return VARCHAR
        text, span = arguments.options["returns"]
        returns = self._type(text, span)
        if kind == "extract" and returns.kind != "struct":
            raise BinderError(
                f"LLM_EXTRACT returns a STRUCT, not {returns.text}",
                span=span,
                remedy=f"Write STRUCT(value {returns.text}), or use LLM_MAP with returns => {_quoted(returns.text)}.",
            )
        return returns

    def _on_error(self, kind: str, arguments: Arguments) -> str:
        chosen: str = arguments.get("on_error") or self.settings.text("halo_on_error")
        if kind in ("filter", "rank") and chosen == "struct":
            if "on_error" not in arguments.options:
                return "null"
            what, other = ("LLM_FILTER", "BOOLEAN") if kind == "filter" else ("LLM_RANK", "DOUBLE")
            raise BinderError(
                f"on_error => 'struct' does not fit {what}, which returns {other}",
                span=arguments.span("on_error"),
                remedy=f"Use 'fail' or 'null', or LLM_MAP with returns => '{other}'.",
            )
        if kind == "rank" and chosen == "null" and arguments.get("method") == "tournament":
            raise BinderError(
                "a comparison that fails has no row of its own: method => 'tournament' needs on_error => 'fail'",
                span=arguments.span("on_error") or arguments.span("method"),
                remedy="Use method => 'score', where a row that fails is NULL.",
            )
        return chosen

    def _type(self, text: str, span: Span) -> SqlType:
        try:
            sql_type = self.duck.sql_type(text, fresh=True)
        except (Error, RecursionError) as problem:
            reason = problem.message if isinstance(problem, Error) else "it is nested too deep"
            shown = repr(text if len(text) <= SHOWN_TYPE else text[:SHOWN_TYPE] + "…")
            if "can not be converted to a DuckDB Type" in reason:
                reason = ""  # DuckDB repeats the text and lists types
            raise BinderError(
                f"returns: {shown} is not a type{': ' if reason else ''}{reason}",
                span=span,
                remedy="Write a DuckDB type, like 'INTEGER', 'DOUBLE[]' or 'STRUCT(a VARCHAR, b DATE)'.",
            ) from None
        try:
            check_schema(sql_type)
        except ValueError as problem:
            reason, _, remedy = str(problem).partition("\n")
            raise BinderError(f"returns: {reason}", span=span, remedy=remedy or "Use another type.") from None
        return sql_type

    def _model(self, kind: str, arguments: Arguments) -> ModelDef:
        model = self._named(arguments) if "model" in arguments.options else self._default(kind)
        problem = refusal(model_kind(model), f'model "{model.name}"', EMBEDDING if kind == "embed" else TEXT)
        if problem is not None:
            raise BinderError(problem.message, span=arguments.span("model"), remedy=problem.remedy)
        return model

    def _named(self, arguments: Arguments, option: str = "model") -> ModelDef:
        name, span = arguments.options[option]
        found = self.snapshot.models.get(name.lower())
        if found is None:
            raise BinderError(
                f'model "{name}" does not exist',
                span=span,
                remedy=did_you_mean(name, list(self.snapshot.models)) + f" Or CREATE MODEL {quote(name)} FROM '…'.",
            )
        return found

    def _default(self, kind: str) -> ModelDef:
        setting = "halo_default_embedding_model" if kind == "embed" else "halo_default_model"
        name = self.settings.text(setting)
        found = self.snapshot.models.get(name.lower())
        if found is None:
            raise BinderError(
                f'the default {"embedding " if kind == "embed" else ""}model "{name}" does not exist',
                remedy=f"SET {setting} = '…', or name one with model => …. "
                + did_you_mean(name, list(self.snapshot.models)),
            )
        return found

    @staticmethod
    def _vector(model: ModelDef, arguments: Arguments) -> SqlType:
        size = embedding_dimensions(model)
        if size is None:
            raise BinderError(
                f'the length of the vectors of model "{model.name}" is not known',
                span=arguments.span("model"),
                remedy=f"CREATE OR REPLACE MODEL {quote(model.name)} … WITH (kind = 'embedding', dimensions = …).",
            )
        return SqlType(f"FLOAT[{size}]", "array", (("", FLOAT),), size=size)


def _instructions(kind: str, arguments: Arguments, labels: tuple[Label, ...], returns: SqlType) -> str:
    """What the operator says of the answer."""
    if kind == "classify":
        return classify_instructions(labels, arguments.get("multi", False))
    return extract_instructions(returns) if kind == "extract" else ""


def _system(kind: str, arguments: Arguments, system: str | None, instructions: str) -> str | None:
    """The user's words first, then what the operator says of the answer, then the examples."""
    parts: list[str] = []
    given: str | None = arguments.get("system", system)
    if given is not None:
        parts.append(given)
    parts += [instructions] if instructions else []
    examples = arguments.get("examples", ())
    if examples and not any(parts):
        parts = ["Answer as in the examples."]
    parts += [f"Input: {shown}\nOutput: {wanted}" for shown, wanted in examples]
    if kind == "rank":
        parts.append(GRADE_SYSTEM)  # last, where compare_system looks for it
    return "\n\n".join(parts) if parts else None


def _max_tokens(kind: str, labels: tuple[Label, ...], returns: SqlType) -> int:
    """Room for the longest answer: a token is at least a byte of it."""
    if kind == "filter":
        return FILTER_TOKENS
    if kind == "rank":
        return RANK_TOKENS
    if kind in ("score", "embed"):
        return int(kind == "score")
    if kind != "classify":
        return ANSWER_TOKENS
    sizes = [len(json.dumps(label.text)) for label in labels]
    whole = sum(size + 2 for size in sizes) if returns is VARCHAR_LIST else max(sizes)
    return _FORM_TOKENS + whole


def _quoted(text: Any) -> str:
    return "'" + str(text).replace("'", "''") + "'"

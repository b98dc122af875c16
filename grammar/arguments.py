"""The arguments of a call: the prompt's place in the text, and options as checked constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Error, Span, did_you_mean
from halo_sql.grammar.labels import LabelError
from halo_sql.grammar.options import OPTIONS, Option
from halo_sql.grammar.signatures import SIGNATURES, Signature
from halo_sql.grammar.skeleton import Range, identifier, starts_query
from halo_sql.grammar.source import Source, read_literal

#: Options whose values may be bare names.
_NAMES = frozenset({"model", "proxy"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """What stands between a call's brackets.

    prompt   token range of the first argument
    options  name -> (checked value, where it stands in the statement)
    """

    prompt: Range
    options: Mapping[str, tuple[Any, Span]]

    def get(self, name: str, default: Any = None) -> Any:
        """An option's value."""
        return self.options[name][0] if name in self.options else default

    def span(self, name: str) -> Span | None:
        """Where an option's value stands; None when it is not given."""
        return self.options[name][1] if name in self.options else None


def read_arguments(
    duck: Duck,
    source: Source,
    signature: Signature,
    first: int,
    closing: int,
    pieces: Sequence[Range] | None = None,
) -> Arguments:
    """The arguments of the call whose name is token ``first``; BinderError that points to the one that is wrong.

    ``pieces``: the prompt and the options, where more stands between the brackets.
    """
    if pieces is None:
        pieces = [] if closing == first + 2 else source.lexed.split(first + 2, closing)
    lexed, operator = source.lexed, source.lexed.word(first)
    prompt: Range | None = None
    options: dict[str, tuple[Any, Span]] = {}
    positional = 0
    for start, end in pieces:
        if start == end:
            raise BinderError(
                f"{operator}: an argument is missing",
                span=source.origin(lexed.span(start, start + 1)),
                remedy="Remove the comma.",
            )
        named = lexed.text(start + 1) in ("=>", ":=")
        where = source.origin(lexed.span(start, start + 1 if named else end))
        if named:
            name = identifier(lexed.text(start)).lower()
            start += 2
        elif positional < len(signature.parameters):
            name = signature.parameters[positional]
            positional += 1
        else:
            raise _too_many(operator, signature, where)
        if name == signature.parameters[0]:
            if prompt is not None:
                raise _too_many(operator, signature, where)
            prompt = (start, end)
            continue
        if name in options:
            raise BinderError(f'option "{name}" is given twice', span=where, remedy="Remove one of them.")
        options[name] = _option(duck, source, operator, signature, name, where, (start, end))
    if prompt is None:
        article = "an" if signature.parameters[0][0] in "aeiou" else "a"
        raise BinderError(
            f"{operator} needs {article} {signature.parameters[0]}", remedy=f"For example {signature.example}."
        )
    for name, words in signature.needs.items():
        if name not in options:
            raise BinderError(f"{operator} needs {words}", remedy=f"For example {signature.example}.")
    return Arguments(prompt, options)


def _too_many(operator: str, signature: Signature, where: Span) -> BinderError:
    return BinderError(
        f"{operator} takes {signature.takes}",
        span=where,
        remedy=f"Put further inputs into holes of the {signature.parameters[0]}, options as name => value.",
    )


def _option(
    duck: Duck, source: Source, operator: str, signature: Signature, name: str, where: Span, value: Range
) -> tuple[Any, Span]:
    lexed, (start, end) = source.lexed, value
    span = source.origin(lexed.span(start, end))
    if name in signature.refused:
        why, remedy = signature.refused[name]
        raise BinderError(
            why if why.startswith(operator) else f'{operator} takes no "{name}": {why}', span=where, remedy=remedy
        )
    if name not in signature.options:
        others = [other for other, taking in SIGNATURES.items() if name in taking.options]
        remedy = did_you_mean(name, [*signature.parameters[:1], *signature.options])
        if name in {other.parameters[0] for other in SIGNATURES.values()}:
            remedy = f'Its first argument is "{signature.parameters[0]}".'
        elif others:
            remedy = f"{', '.join(others)} {'takes' if len(others) == 1 else 'take'} it."
        raise BinderError(f'{operator} has no option "{name}"', span=where, remedy=remedy)
    option = OPTIONS[name]
    if start == end:
        raise BinderError(f'option "{name}" has no value', span=where, remedy=f"It takes {option.takes}.")
    written = lexed.slice(start, end)[:60]
    if any(lexed.text(index) == "(" and starts_query(lexed, index + 1) for index in range(start, end)):
        raise _not_constant(name, option, written, span)
    try:
        return option.check(_constant(duck, source, name, start, end)), span
    except (ValueError, TypeError, OverflowError) as problem:
        reason = f": {problem}" if isinstance(problem, LabelError) else ""
        raise BinderError(
            f'option "{name}" cannot be {written}{reason}', span=span, remedy=f"It takes {option.takes}."
        ) from None
    except Error:
        raise _not_constant(name, option, written, span) from None


def _not_constant(name: str, option: Option, written: str, span: Span) -> BinderError:
    return BinderError(
        f'option "{name}" must be a constant, not {written}',
        span=span,
        remedy=f"It takes {option.takes}. {option.hint}".rstrip(),
    )


def _constant(duck: Duck, source: Source, name: str, start: int, end: int) -> Any:
    lexed = source.lexed
    token = lexed.tokens[start]
    if end == start + 1:
        if token.kind == "string_const" and token.text[0] in "'$eE":
            return read_literal(token.text).value
        if name in _NAMES and lexed.word(start) not in ("", "NULL"):
            return token.text
        if name in _NAMES and token.text.startswith('"'):
            return identifier(token.text)
        if lexed.word(start) in ("TRUE", "FALSE"):
            return lexed.word(start) == "TRUE"
    from decimal import Decimal

    value = duck.rows("SELECT " + lexed.slice(start, end))[0][0]
    return float(value) if isinstance(value, Decimal) else value

"""LLM_REDUCE's arguments: the inputs of a group with DISTINCT, ORDER BY, FILTER and OVER, as DuckDB's ``list``.

``LLM_REDUCE(prompt, a [, b …] [ORDER BY …] [, option => …]) [FILTER (WHERE …)] [OVER …]``. DISTINCT stands in
front of the first input, or of all arguments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from halo_sql.errors import BinderError
from halo_sql.grammar.blanking import orders
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.source import Source
from halo_sql.ir.expr import literal

ListText = tuple[str | Range, ...]  # SQL pieces and token ranges of the source, in the order of the source


@dataclass(frozen=True, slots=True)
class GroupInputs:
    """What stands beside prompt and options in a call of LLM_REDUCE.

    arguments  token ranges of the prompt and the options
    text       the list of the group's inputs, a VARCHAR[] without NULLs
    distinct   whether DISTINCT is given
    shown      the call as DuckDB would write it
    end        token behind the call and its clauses
    """

    arguments: tuple[Range, ...]
    text: ListText
    distinct: bool
    shown: str
    end: int


def read_group_inputs(source: Source, first: int, closing: int) -> GroupInputs:
    """Take the call at token ``first`` apart; BinderError that points to what is wrong."""
    lexed = source.lexed
    pieces = [] if closing == first + 2 else lexed.split(first + 2, closing)
    distinct = False
    if pieces and lexed.word(pieces[0][0]) == "DISTINCT" and pieces[0][1] - pieces[0][0] > 1:
        distinct, pieces[0] = True, (pieces[0][0] + 1, pieces[0][1])
    arguments: list[Range] = []
    inputs: list[Range] = []
    order: Range | None = None
    has_prompt = False
    for start, end in pieces:
        if start == end:
            raise BinderError(
                "LLM_REDUCE: an argument is missing",
                span=source.origin(lexed.span(start, start + 1)),
                remedy="Remove the comma.",
            )
        stop = next((at for at in lexed.level(start, end) if orders(lexed, at)), end)
        if _is_option(lexed, start):
            has_prompt = has_prompt or identifier(lexed.text(start)).lower() == "prompt"
            arguments.append((start, stop))
        elif order is not None and order[1] == start - 1:
            order = (order[0], end)  # ORDER BY a, b
        elif order is not None:
            raise _misplaced(source, (start, end), "an input behind ORDER BY", "Put the inputs in front of it.")
        elif not has_prompt:
            has_prompt = True
            arguments.append((start, stop))
        else:
            if lexed.word(start) == "DISTINCT" and not inputs and stop - start > 1:
                distinct, start = True, start + 1
            inputs.append((start, stop))
        if stop < end:
            if order is not None:
                raise _misplaced(source, (stop, stop + 2), "ORDER BY twice", "Put all keys behind one ORDER BY.")
            order = (stop + 2, end)
    condition, window, behind = _clauses(source, closing)
    if not inputs:
        raise BinderError(
            "LLM_REDUCE needs an input behind its prompt",
            span=source.origin(lexed.span(first, closing + 1)),
            remedy="For example LLM_REDUCE('Summarise', body ORDER BY id).",
        )
    for start, end in inputs:
        if lexed.text(end - 1) == "*" or lexed.word(start) == "COLUMNS":
            raise _misplaced(source, (start, end), "a star as an input", "Name the columns.")
    text = _list_text(lexed, inputs, distinct, order, condition, window)
    shown = _shown(lexed, first, arguments, inputs, distinct, order)
    shown += lexed.sql[lexed.span(closing, closing + 1).end : lexed.span(first, behind).end]
    return GroupInputs(tuple(arguments), text, distinct, shown, behind)


def _misplaced(source: Source, part: Range, what: str, remedy: str) -> BinderError:
    return BinderError(f"LLM_REDUCE does not take {what}", span=source.origin(source.lexed.span(*part)), remedy=remedy)


def _is_option(lexed: Lexed, start: int) -> bool:
    return lexed.text(start + 1) in ("=>", ":=")


def _clauses(source: Source, closing: int) -> tuple[Range | None, Range | None, int]:
    """FILTER's condition, the range of OVER and what follows it, and the token behind both."""
    lexed = source.lexed
    condition, window, at = None, None, closing + 1
    if lexed.word(at) == "FILTER" and lexed.text(at + 1) == "(":
        end = lexed.partner[at + 1]
        condition = (at + 2 + (lexed.word(at + 2) == "WHERE"), end)
        at = end + 1
    if lexed.word(at) == "OVER":
        end = lexed.partner[at + 1] + 1 if lexed.text(at + 1) == "(" else at + 2
        window, at = (at, end), end
    return condition, window, at


def _list_text(
    lexed: Lexed,
    inputs: list[Range],
    distinct: bool,
    order: Range | None,
    condition: Range | None,
    window: Range | None,
) -> ListText:
    """``list_filter(list(CAST(a AS VARCHAR) ORDER BY …) FILTER (…), …)``. With DISTINCT the values are compared as they
    are, and cast afterwards: DuckDB wants the ORDER BY keys of a DISTINCT aggregate among its arguments."""
    parts: list[str | Range] = []
    after = ""
    if len(inputs) == 1 and distinct:
        parts += ["list_filter(CAST(list(DISTINCT ", inputs[0]]
        after = " AS VARCHAR[])"
    elif len(inputs) == 1:
        parts += ["list_filter(list(CAST((", inputs[0], "\n) AS VARCHAR)"]
    else:
        parts.append("list_filter(list(DISTINCT " if distinct else "list_filter(list(")
        parts.append("nullif(concat(")
        empty = "{"
        for position, part in enumerate(inputs):
            name = f"{', ' if position else '{'}{json.dumps(_name(lexed, part), ensure_ascii=False)}: "
            parts += [f"{', ' if position else ''}{literal(name)}, coalesce(CAST(to_json(", part]
            parts.append("\n) AS VARCHAR), 'null')")
            empty += f"{', ' if position else ''}{json.dumps(_name(lexed, part), ensure_ascii=False)}: null"
        parts.append(f", '}}'), {literal(empty + '}')})")
    if order is not None:
        parts += [" ORDER BY ", order]
    parts.append("\n)")
    if condition is not None:
        parts += [" FILTER (WHERE ", condition, "\n)"]
    if window is not None:
        parts += [" ", window]
    parts.append(f"{after}, lambda halo_item: halo_item IS NOT NULL)")
    return tuple(parts)


def _name(lexed: Lexed, part: Range) -> str:
    """The name of an input in the JSON object of several: the last word of a column, else its text."""
    first, end = part
    if end - first == 1 or lexed.text(end - 2) == ".":
        return identifier(lexed.text(end - 1))
    return lexed.slice(first, end)


def _shown(
    lexed: Lexed, first: int, arguments: list[Range], inputs: list[Range], distinct: bool, order: Range | None
) -> str:
    """The call with DISTINCT and ORDER BY where DuckDB has them (it names columns by it)."""
    options = [lexed.slice(*part) for part in arguments[1:]]
    given = ", ".join([lexed.slice(*arguments[0]), *(lexed.slice(*part) for part in inputs), *options])
    ordered = f" ORDER BY {lexed.slice(*order)}" if order is not None else ""
    return f"{lexed.text(first)}({'DISTINCT ' if distinct else ''}{given}{ordered})"

"""What of a grouped SELECT block is computed with the groups: its keys, and the parts of expressions that stand for
one value of a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halo_sql.errors import NotSupportedError
from halo_sql.grammar.block import Block, row_calls
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.expressions import aggregates, own_tokens
from halo_sql.grammar.grouped import is_window, reads_columns
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range, identifier

_SETS = frozenset({"CUBE", "ROLLUP", "SETS", "GROUPING"})
_GROUPING = frozenset({"grouping", "grouping_id"})
_TAIL = ("SELECT", "HAVING", "WINDOW", "QUALIFY", "ORDER")

Word = tuple[object, int, int]  # (what the tokens say, first token, token behind)


@dataclass(frozen=True, slots=True)
class Keys:
    """The group keys of a block.

    exprs   their token ranges, aliases and positions resolved, each once
    clause  what stands behind GROUP BY, as text pieces and token ranges; empty: all rows are one group
    """

    exprs: tuple[Range, ...]
    clause: tuple[str | Range, ...]


def group_keys(block: Block) -> Keys:
    """NotSupportedError for a star among the items of GROUP BY ALL."""
    lexed, clause = block.binding.lexed, block.select.clauses.get("GROUP")
    if clause is None:
        return Keys((), ())
    if lexed.word(clause[0]) == "ALL" and clause[1] - clause[0] == 1:
        return _all_keys(block)
    exprs: list[Range] = []
    parts: list[str | Range] = []
    at = clause[0]
    for first, end in _leaves(lexed, clause):
        written = _meant(block, (first, end))
        exprs.append(_bare(lexed, written or (first, end)))
        if written is not None:
            parts += [_between(lexed, at, first), "(", written, ")"]
        else:
            parts += [_between(lexed, at, first), (first, end)]
        at = end
    parts.append(_between(lexed, at, clause[1]))
    return Keys(_once(block, exprs), tuple(part for part in parts if part != ""))


def _between(lexed: Lexed, first: int, end: int) -> str:
    return f" {lexed.slice(first, end)} " if first < end else ""


def _leaves(lexed: Lexed, part: Range) -> Iterator[Range]:
    """The expressions of a GROUP BY clause, those of grouping sets too, in order."""
    for first, end in lexed.items(*part):
        if first == end:
            continue
        opening = first
        while lexed.word(opening) in _SETS:
            opening += 1
        closing = lexed.partner.get(opening, -1)
        in_sets = opening > first or len(lexed.items(opening + 1, max(opening + 1, closing))) != 1
        if lexed.text(opening) == "(" and closing == end - 1 and (in_sets or closing == opening + 1):
            yield from _leaves(lexed, (opening + 1, closing))
        else:
            yield first, end


def _meant(block: Block, key: Range) -> Range | None:
    """The item that a position or an alias in GROUP BY stands for; None for an expression."""
    lexed, (first, end) = block.binding.lexed, key
    if end - first != 1:
        return None
    text = lexed.text(first)
    if text.isdigit() and 0 < int(text) <= len(block.items):
        return block.items[int(text) - 1].range
    name = identifier(text).lower()
    if any(column.name.lower() == name for column in block.hoister.scope.columns()):
        return None
    return next((item.range for item in block.items if item.alias.lower() == name), None)


def _all_keys(block: Block) -> Keys:
    lexed = block.binding.lexed
    exprs: list[Range] = []
    for item in block.items:
        if item.star is not None:
            raise NotSupportedError(
                "a star in GROUP BY ALL beside LLM_REDUCE is not available in this version",
                span=lexed.span(*item.range),
                remedy="Name the columns.",
            )
        holds_aggregate = any(True for _ in _aggregates(block, item.range))
        if not holds_aggregate and reads_columns(block, item.range):
            exprs.append(item.range)
    parts: list[str | Range] = []
    for part in exprs:
        parts += [", " if parts else "", "(", part, ")"]
    return Keys(_once(block, exprs), tuple(part for part in parts if part != ""))


def _once(block: Block, exprs: list[Range]) -> tuple[Range, ...]:
    found: dict[object, Range] = {}
    for part in exprs:
        found.setdefault(said(block, part), part)
    return tuple(found.values())


# --- expressions by what they say


def words(block: Block, part: Range) -> list[Word]:
    """The tokens of a range, column references by the column they mean, other words in one case."""
    lexed, scope = block.binding.lexed, block.hoister.scope
    span = lexed.span(*part)
    names = {parts[0].start: parts for parts in block.binding.source.syntax.columns_within(span.start, span.end)}
    found: list[Word] = []
    index = part[0]
    while index < part[1]:
        parts = names.get(lexed.tokens[index].start)
        column = scope.resolve(parts) if parts is not None else None
        if column is not None:
            end = index + 2 * column[1] - 1
            found.append((column[0].id, index, end))
            index = end
            continue
        token = lexed.tokens[index]
        found.append((token.text if token.kind == "string_const" else token.text.upper(), index, index + 1))
        index += 1
    return found


def said(block: Block, part: Range) -> tuple[object, ...]:
    """What an expression says, without brackets around all of it."""
    return tuple(what for what, _, _ in words(block, _bare(block.binding.lexed, part)))


def _bare(lexed: Lexed, part: Range) -> Range:
    """An expression without brackets around all of it."""
    first, end = part
    while lexed.text(first) == "(" and lexed.partner[first] == end - 1 and len(lexed.items(first + 1, end - 1)) == 1:
        first, end = first + 1, end - 1
    return first, end


# --- parts that stand for one value of a group


@dataclass(frozen=True, slots=True)
class GroupPart:
    """A token range of the block's tail that is computed with the groups.

    kind  'reduce' | 'key' (one of ``keys`` by ``place``) | 'aggregate' | 'call' (a call on the rows)
    """

    range: Range
    kind: str
    place: int = 0
    call: CallSite | None = None


def group_parts(block: Block, keys: Keys) -> list[GroupPart]:
    """The parts in the clauses behind GROUP BY and in SELECT, in order of position, none inside another."""
    patterns = sorted(
        ((said(block, part), place) for place, part in enumerate(keys.exprs)), key=lambda pattern: -len(pattern[0])
    )
    patterns = [(what, place) for what, place in patterns if len(what) > 1 or not isinstance(what[0], int)]
    ranges = [block.select.clauses[clause] for clause in _TAIL if clause in block.select.clauses]
    if block.select.distinct_on is not None:
        ranges.append(block.select.distinct_on)
    found: list[GroupPart] = []
    for part in sorted(ranges):
        found += _parts_of(block, part, patterns)
    return found


def _parts_of(block: Block, part: Range, patterns: list[tuple[tuple[object, ...], int]]) -> Iterator[GroupPart]:
    calls = {call.first: call for call in row_calls(block, part)}
    ends = dict(_aggregates(block, part))
    said_words = words(block, part)
    place_of = {first: place for place, (_, first, _) in enumerate(said_words)}
    behind = part[0]
    for index in own_tokens(block.binding.source, *part):
        if index < behind:
            continue
        match = _match(said_words, place_of.get(index), patterns)
        if match is not None:
            yield GroupPart((index, match[1]), "key", match[0])
            behind = match[1]
        elif index in calls:
            call = calls[index]
            yield GroupPart((index, call.end), "reduce" if call.kind == "reduce" else "call", call=call)
            behind = call.end
        elif index in ends:
            yield GroupPart((index, ends[index]), "aggregate")
            behind = ends[index]


def _match(
    said_words: list[Word], start: int | None, patterns: list[tuple[tuple[object, ...], int]]
) -> tuple[int, int] | None:
    """The key that is spelled from a word on, and the token behind it."""
    if start is None:
        return None
    for pattern, place in patterns:
        piece = said_words[start : start + len(pattern)]
        if tuple(what for what, _, _ in piece) == pattern:
            return place, piece[-1][2]
    return None


def _aggregates(block: Block, part: Range) -> Iterator[tuple[int, int]]:
    """First token and end of each aggregate of the block in a range, its FILTER and the like included; not windows."""
    lexed, known = block.binding.lexed, aggregates(block.binding.duck) | _GROUPING
    for index in own_tokens(block.binding.source, *part):
        name = lexed.text(index).strip('"').lower()
        if lexed.text(index + 1) != "(" or name not in known or lexed.text(index - 1) == ".":
            continue
        if is_window(lexed, index + 1):
            continue
        end = lexed.partner[index + 1] + 1
        while lexed.word(end) in ("FILTER", "WITHIN"):
            opening = end + 1 if lexed.word(end) == "FILTER" else end + 2
            end = lexed.partner[opening] + 1
        yield index, end

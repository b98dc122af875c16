"""What stands for a call in a block with aggregates: its column as it is, or one value of it for each group."""

from __future__ import annotations

from halo_sql.errors import NotSupportedError
from halo_sql.grammar.block import Block, resolve
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.expressions import aggregates, own_tokens
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range, identifier

_SETS = frozenset({"CUBE", "ROLLUP", "SETS"})


def call_text(block: Block, call: CallSite, name: str) -> str:
    """The text for a call whose answers are the column ``name`` of the ungrouped rows.

    Inside an aggregate and in a group key that is the column. Elsewhere in a grouped block the call reads group
    keys only (DuckDB has bound it so), hence any value of the group will do.
    """
    lexed = block.binding.lexed
    if not is_grouped(block) or _in_aggregate(block, call):
        return name
    keys = _keys(block)
    if keys is not None and _in_key(lexed, call, keys) and not _all_constant(block, keys):
        return name
    if keys is None or _all_constant(block, keys):
        raise NotSupportedError(
            "an LLM call beside aggregates without GROUP BY is not available in this version",
            span=call.origin(),
            remedy="Compute the aggregates in a sub-query in FROM, and call it on the result.",
        )
    first, end = block.select.clauses["GROUP"]
    if _sets(lexed, first, end) or (lexed.word(first) == "ALL" and not _reads_keys(block, call, keys)):
        raise NotSupportedError(
            "an LLM call on the keys of GROUP BY ALL or of grouping sets is not available in this version",
            span=call.origin(),
            remedy="Group in a sub-query in FROM, and call it on the result.",
        )
    return f"any_value({name})"


def is_grouped(block: Block) -> bool:
    """Whether the block gives a row per group."""
    clauses = block.select.clauses
    if "GROUP" in clauses or "HAVING" in clauses:
        return True
    parts = [clauses[clause] for clause in ("SELECT", "ORDER", "QUALIFY") if clause in clauses]
    return any(_has_aggregate(block, part) for part in parts)


def _has_aggregate(block: Block, part: Range) -> bool:
    """Whether an aggregate that is no window function stands in a range (also beside windows)."""
    lexed, known = block.binding.lexed, aggregates(block.binding.duck)
    return any(
        lexed.text(index + 1) == "("
        and lexed.text(index).strip('"').lower() in known
        and lexed.text(index - 1) != "."
        and not is_window(lexed, index + 1)
        for index in own_tokens(block.binding.source, part[0], part[1] - 1)
    )


def _in_aggregate(block: Block, call: CallSite) -> bool:
    """Whether the call is an argument, an order or a filter of an aggregate of the block."""
    lexed, known = block.binding.lexed, aggregates(block.binding.duck)
    opening = lexed.parent[call.first]
    while opening >= block.select.range[0]:
        if lexed.text(opening) == "(":
            function = opening
            if lexed.word(opening - 1) in ("FILTER", "GROUP") and lexed.text(opening - 2) == ")":
                function = lexed.partner[opening - 2]  # f(…) FILTER (WHERE …), f(…) WITHIN GROUP (…)
            elif lexed.word(opening - 1) == "GROUP" and lexed.word(opening - 2) == "WITHIN":
                function = lexed.partner[opening - 3]
            if lexed.text(function - 1).strip('"').lower() in known and not is_window(lexed, function):
                return True
        opening = lexed.parent[opening]
    return False


def is_window(lexed: Lexed, opening: int) -> bool:
    """Whether the function whose arguments open here is followed by OVER."""
    index = lexed.partner[opening] + 1
    while lexed.word(index) in ("FILTER", "WITHIN", "GROUP", "IGNORE", "RESPECT", "NULLS") or lexed.text(index) == "(":
        index = lexed.partner[index] + 1 if lexed.text(index) == "(" else index + 1
    return lexed.word(index) == "OVER"


def _sets(lexed: Lexed, first: int, end: int) -> bool:
    return any(
        lexed.word(index) in _SETS or lexed.slice(*piece) == "()"
        for piece in lexed.items(first, end)
        for index in range(*piece)
    )


def _keys(block: Block) -> list[Range] | None:
    """The token ranges of the group keys, aliases and positions resolved; None without GROUP BY."""
    lexed, clause = block.binding.lexed, block.select.clauses.get("GROUP")
    if clause is None:
        return None
    if lexed.word(clause[0]) == "ALL" and clause[1] - clause[0] == 1:
        return [item.range for item in block.items if not _has_aggregate(block, item.range)]
    keys: list[Range] = []
    stack = lexed.items(*clause)
    while stack:
        first, end = stack.pop()
        if end - first == 1:
            text = lexed.text(first)
            if text.isdigit() and 0 < int(text) <= len(block.items):
                keys.append(block.items[int(text) - 1].range)
                continue
            name = identifier(text).lower()
            is_column = any(column.name.lower() == name for column in block.hoister.scope.columns())
            if not is_column:
                keys += [item.range for item in block.items if item.alias.lower() == name]
        keys.append((first, end))
        opening = next((index for index in range(first, end) if lexed.text(index) == "("), None)
        if opening is not None and (opening == first or lexed.word(opening - 1) in _SETS):
            stack += lexed.items(opening + 1, lexed.partner[opening])
    return keys


def _all_constant(block: Block, keys: list[Range]) -> bool:
    """Whether this is a GROUP BY ALL over constants: DuckDB then has no key and gives a row for no rows, too."""
    first, _ = block.select.clauses["GROUP"]
    return block.binding.lexed.word(first) == "ALL" and not any(reads_columns(block, key) for key in keys)


def reads_columns(block: Block, key: Range) -> bool:
    """Whether an item reads a column of FROM, itself or in a hole; when in doubt it does."""
    source, span = block.binding.source, block.binding.lexed.span(*key)
    texts = [(source, span.start, span.end)]
    stack = list(block.binding.calls_in(*key))
    while stack:
        for hole in stack.pop().holes():
            if hole.star:
                return True
            for item in hole.fields:
                texts.append((item.source, 0, len(item.source.sql)))
                stack += item.calls
    found = [text.syntax.columns_in(start, end) for text, start, end in texts]
    return any(names is None or names for names in found)


def _reads_keys(block: Block, call: CallSite, keys: list[Range]) -> bool:
    """Whether all a call reads are columns that are keys themselves."""
    bare = {expr.as_column() for key in keys if (expr := resolve(block, key)) is not None}
    stack = [call]
    while stack:
        site = stack.pop()
        for hole in site.holes():
            for item in hole.fields:
                names = item.source.syntax.columns_in(0, len(item.source.sql))
                found = [block.hoister.scope.resolve(parts) for parts in names or ()]
                if hole.star or names is None or any(one is None or one[0].id not in bare for one in found):
                    return False
                stack += item.calls
    return True


def _in_key(lexed: Lexed, call: CallSite, keys: list[Range]) -> bool:
    """Whether the call stands in a key, or in an expression that is spelled like one."""
    for first, end in keys:
        if first <= call.first and call.end <= end:
            return True
        for at in range(first, end - (call.end - call.first) + 1):
            start = call.first - (at - first)
            if start >= 0 and _same(lexed, (first, end), (start, start + end - first)):
                return True
    return False


def _same(lexed: Lexed, left: Range, right: Range) -> bool:
    if right[1] > len(lexed.tokens):
        return False
    return all(
        lexed.text(one).upper() == lexed.text(two).upper() for one, two in zip(range(*left), range(*right), strict=True)
    )

"""ORDER BY LLM_RANK(…): a top-k of its own, where nothing else reads the rank."""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.grammar.block import Block, row_calls
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.skeleton import Range
from halo_sql.ir.logical import LlmTopK, LogicalPlan, Sort, SortKey

SortParts = Sequence[tuple[Range, str]]  # each key's token range and the words behind it


def ranked_first(block: Block, keys: SortParts) -> CallSite | None:
    """The LLM_RANK call that is the first key and nothing but a key, when it is to be a top-k: there is a LIMIT, or
    the user wants a tournament."""
    if not keys:
        return None
    first = keys[0][0]
    calls = {call.first: call for call in row_calls(block, first)}
    call = calls.get(first[0])
    if call is None or call.kind != "rank" or call.end != first[1]:
        return None
    if "LIMIT" not in block.select.clauses and call.method != "tournament":
        return None
    same = [other for other in row_calls(block, block.select.range) if other.text == call.text]
    return call if len(same) == 1 else None


def top_k(
    block: Block, call: CallSite, modifiers: str, rest: Sequence[SortKey], count: int | None, offset: int
) -> LogicalPlan:
    """The block's rows by their rank, equal ones by the other keys."""
    hoister = block.hoister
    descending, nulls_first = _direction(block, modifiers)
    lifted = hoister.node_call(call)
    plan: LogicalPlan = Sort(hoister.plan, tuple(rest)) if rest else hoister.plan
    return LlmTopK(plan, lifted, descending, nulls_first, count, offset, call.method)


def _direction(block: Block, modifiers: str) -> tuple[bool, bool]:
    """Whether the greatest come first, and whether NULLs do; unsaid, DuckDB's settings say it."""
    words = modifiers.upper().split()
    known = block.binding.duck.rows("SELECT current_setting('default_order'), current_setting('default_null_order')")
    order, nulls = (str(value).upper() for value in known[0])
    descending = "DESC" in words or ("ASC" not in words and order.startswith("DESC"))
    if "NULLS" in words:
        return descending, "FIRST" in words
    if nulls == "NULLS_FIRST_ON_ASC_LAST_ON_DESC":
        return descending, not descending
    if nulls == "NULLS_LAST_ON_ASC_FIRST_ON_DESC":
        return descending, descending
    return descending, "FIRST" in nulls

"""Names and types of many blocks by one question to DuckDB: the CTEs of a WITH, the arms of a UNION.

A row of each is asked for as a whole, and its STRUCT type tells. When DuckDB refuses the question nothing is learned:
the blocks are then described one by one, and the one that is wrong says so in the words of the user's own text.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.errors import Error, InterruptedQueryError
from halo_sql.grammar.binding import Binding, Columns, CteContext
from halo_sql.grammar.skeleton import Arm, Cte
from halo_sql.grammar.stubs import may_read_stubs
from halo_sql.ir.expr import quote

FEWEST, MOST = 3, 32  # blocks per question


def learn_ctes(binding: Binding, ctes: Sequence[Cte], context: CteContext) -> None:
    """What the next of these CTEs look like, when the first of them is not known yet."""
    if ctes[0].whole[0] in binding.tried or len(ctes) < FEWEST or context.recursive:
        return
    asked = ctes[:MOST]
    binding.tried.update(cte.whole[0] for cte in asked)
    texts = [_text(binding, *cte.whole) for cte in asked]
    found = _rows(binding, texts, [quote(cte.name) for cte in asked], context)
    for cte, columns in zip(asked, found, strict=False):
        binding.learn(cte, columns)


def learn_arms(binding: Binding, arms: Sequence[Arm], context: CteContext) -> None:
    """What the arms of a set operation look like that hold calls."""
    wanted = [arm for arm in arms if arm.kind in ("select", "values") and binding.tainted(*arm.range, context)]
    for start in range(0, len(wanted), MOST):
        asked = wanted[start : start + MOST]
        if len(asked) < FEWEST:
            return
        names = [f"__halo_arm{place}" for place in range(len(asked))]
        texts = [f"{name} AS ({_text(binding, *arm.range)}\n)" for name, arm in zip(names, asked, strict=True)]
        found = _rows(binding, texts, names, context)
        for arm, columns in zip(asked, found, strict=False):
            binding.learned[arm.range] = columns


def _text(binding: Binding, first: int, end: int) -> str:
    return "".join(piece.text for piece in binding.shadow(first, end))


def _rows(binding: Binding, texts: Sequence[str], names: Sequence[str], context: CteContext) -> list[Columns]:
    """Names and types of each named CTE of ``texts``; none when DuckDB does not tell."""
    if not all(may_read_stubs(text) for text in texts):
        return []
    front = binding.needed_by(" ".join(texts), context)
    if not all(may_read_stubs(text) for text in front):
        return []
    aliases = [f"__halo_row{place}" for place in range(len(names))]
    tables = ", ".join(f"{name} AS {alias}" for name, alias in zip(names, aliases, strict=True))
    try:
        found = binding.probe(f"WITH {', '.join([*front, *texts])} SELECT {', '.join(aliases)} FROM {tables}")
    except InterruptedQueryError:
        raise
    except Error:
        return []
    if any(kind.kind != "struct" for _, kind in found):
        return []
    return [list(kind.fields) for _, kind in found]

"""Names and types of many blocks by few questions to DuckDB: the CTEs of a WITH, the arms of a UNION, and the
sub-queries in FROM, innermost first, so that each is asked for over stubs of those within it.

Of CTEs and arms a row is asked for as a whole, and its STRUCT type tells. When DuckDB refuses a question nothing is
learned by it: the blocks are then described one by one, and the one that is wrong says so in the words of the user's
own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from halo_sql.errors import Error, InterruptedQueryError
from halo_sql.grammar.binding import Binding, Columns, CteContext
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.picks import picks_of
from halo_sql.grammar.skeleton import Arm, Cte, Query, Range, parse_query, parse_select, starts_query
from halo_sql.grammar.stubs import have_stub, may_read_stubs
from halo_sql.ir.expr import quote

FEWEST, MOST = 3, 8  # blocks per question: DuckDB takes four times as long for twice as many CTEs


def learn_ctes(binding: Binding, ctes: Sequence[Cte], context: CteContext) -> None:
    """What the next of these CTEs look like, when the first of them is not known yet."""
    if ctes[0].whole[0] in binding.tried or len(ctes) < FEWEST or context.recursive:
        return
    waiting: list[Cte] = []
    asked, derived = 0, list(context.ctes)

    def ask() -> None:
        texts = [_text(binding, *cte.whole) for cte in waiting]
        before = CteContext(tuple(derived), context.bound)
        found = _rows(binding, texts, [quote(cte.name) for cte in waiting], before)
        for cte, columns in zip(waiting, found, strict=False):
            binding.learn(cte, columns)
        derived.extend(waiting[: len(found)])
        waiting.clear()

    for place, cte in enumerate(ctes):
        if asked == MOST:
            break
        binding.tried.add(cte.whole[0])
        picks = None if cte.column_list else picks_of(binding, cte.body)
        if picks is not None and any(_is_named(other, picks.relation) for other in waiting):
            ask()
        before = CteContext((*context.ctes, *ctes[:place]))
        columns = None if picks is None else picks.over(_seen(binding, picks.relation, before))
        if columns is None:
            waiting.append(cte)
            asked += 1
        else:
            binding.learn(cte, columns)
            derived.append(cte)
    if waiting:
        ask()


def _is_named(cte: Cte, relation: Range | str) -> bool:
    return isinstance(relation, str) and cte.name.lower() == relation.lower()


def _seen(binding: Binding, relation: Range | str, context: CteContext) -> Columns:
    """The same, DuckDB is asked about a table."""
    if not isinstance(relation, str) or any(_is_named(cte, relation) for cte in context.ctes):
        return _known(binding, relation, context.ctes)
    try:
        return binding.probe(f"SELECT * FROM {quote(relation)}")
    except InterruptedQueryError:
        raise
    except Error:
        return []


def _known(binding: Binding, relation: Range | str, ctes: Sequence[Cte]) -> Columns:
    """What a relation looks like that a block reads; nothing when that is not known."""
    if not isinstance(relation, str):
        return binding.learned.get(relation, [])
    named = next((cte for cte in reversed(ctes) if _is_named(cte, relation)), None)
    return [] if named is None else list(binding.stubs.columns.get(named.whole[0], ()))


def learn_arms(binding: Binding, arms: Sequence[Arm], context: CteContext) -> None:
    """What the arms of a set operation look like that hold calls."""
    wanted = [arm for arm in arms if arm.kind in ("select", "values") and binding.tainted(*arm.range, context)]
    wanted = [arm for arm in wanted if not _is_picked(binding, arm, context)]
    for start in range(0, len(wanted), MOST):
        asked = wanted[start : start + MOST]
        if len(asked) < FEWEST:
            return
        names = [f"__halo_arm{place}" for place in range(len(asked))]
        texts = [f"{name} AS ({_text(binding, *arm.range)}\n)" for name, arm in zip(names, asked, strict=True)]
        found = _rows(binding, texts, names, context)
        for arm, columns in zip(asked, found, strict=False):
            binding.learned[arm.range] = columns


def union_of_picks(binding: Binding, query: Query, context: CteContext) -> Columns | None:
    """What a UNION ALL of blocks that pick columns and add calls looks like: columns of the same types one under the
    other, with the names of the first block's. None when it is anything else."""
    lexed = binding.lexed
    if len(query.arms) < FEWEST or query.ctes or query.tail[0] < query.tail[1]:
        return None
    for one, other in pairwise(query.arms):
        if [lexed.word(index) for index in range(one.range[1], other.range[0])] != ["UNION", "ALL"]:
            return None
    if not all(arm.kind == "select" and _is_picked(binding, arm, context) for arm in query.arms):
        return None
    found = [binding.learned[arm.range] for arm in query.arms]
    kinds = [kind for _, kind in found[0]]
    return found[0] if all([kind for _, kind in columns] == kinds for columns in found) else None


def _is_picked(binding: Binding, arm: Arm, context: CteContext) -> bool:
    """Whether an arm is known without a question; now it is."""
    if arm.range not in binding.learned:
        picks = picks_of(binding, arm.range)
        columns = None if picks is None else picks.over(_seen(binding, picks.relation, context))
        if columns is None:
            return False
        binding.learned[arm.range] = columns
    return True


def learn_subqueries(binding: Binding, part: Range, context: CteContext) -> None:
    """What the sub-queries with calls look like that stand in FROM of the query in ``part``, and in FROM of theirs.

    One that cannot be bound alone (it reads its neighbours) is not learned.
    """
    found: list[Range] = []
    waiting = [part]
    while waiting:
        inner = _subqueries(binding, waiting.pop(), context)
        found += inner
        waiting += inner
    for inner_part in reversed(found):
        picks = picks_of(binding, inner_part)
        known = None if picks is None else picks.over(_known(binding, picks.relation, context.ctes))
        if known is None:
            text = _text(binding, *inner_part)
            known = binding.over_stubs(text, context) if may_read_stubs(text) else None
        if known is not None and have_stub(known):
            binding.learned[inner_part] = known
            binding.blocks.add(*inner_part, known)


def _subqueries(binding: Binding, part: Range, context: CteContext) -> list[Range]:
    lexed, found = binding.lexed, []
    query = parse_query(lexed, *part)
    clauses = [
        parse_select(lexed, *arm.range).clauses.get("FROM", (0, 0))
        for arm in query.arms
        if arm.kind == "select" and not query.ctes
    ]
    for first, end in clauses:
        for index in lexed.level(first, end):
            inner = (index + 1, lexed.partner.get(index, index))
            if not _reads_from(lexed, index, first) or not starts_query(lexed, index + 1):
                continue
            if inner not in binding.learned and binding.tainted(*inner, context):
                found.append(inner)
    return found


def _reads_from(lexed: Lexed, index: int, first: int) -> bool:
    """Whether a bracket stands where a relation is read."""
    return lexed.text(index) == "(" and (
        index == first or lexed.word(index - 1) in ("JOIN", "LATERAL") or lexed.text(index - 1) == ","
    )


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

"""An LLM node over clustered rows, put back in order."""

from __future__ import annotations

from math import log2

from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.physical import RestoreOrderExec, SelectExec
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import BIGINT
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cardinality import Profile
from halo_sql.optimizer.cost import CHAR_S, OPERATOR_S, SORT_ROW_S, call_levels, requests_of, trie_tok, width_chars
from halo_sql.optimizer.memo import Group, Memo
from halo_sql.optimizer.nodes import calls_of
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Clustering, Form, Order, Properties
from halo_sql.optimizer.rules.implement.llm import estimate_of_rows


def restore_order(group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``rows of LLM(X) => RestoreOrderExec(LLM(clustered X))``, without the sort when no order is required.

    Safe: the rows are put back by the place they had before clustering. Offered when clustering can pay: more rows
    than the engine's window, leading hole values that repeat, and a KV cache too small for all prefixes at once (else
    streaming in window order shares as much). The costs decide.
    Not under a LIMIT::

        SELECT LLM_MAP('{{ doc }} {{ question }}') FROM t LIMIT 10
    """
    if required.form is not Form.ROWS or required.clustered is not None or required.row_goal is not None:
        return []
    own = memo.group(group)
    rows = own.profile.rows
    found: list[Alternative] = []
    for keys in _candidates(own, memo, ctx):
        position = Column(ctx.fresh(0), "position", BIGINT)
        below = Properties(Form.LLM, required.order, Clustering(keys, position))
        if required.order is Order.ANY:
            op: RestoreOrderExec | SelectExec = SelectExec(tuple((column, column.id) for column in own.columns))
            seconds = OPERATOR_S
        else:
            width = width_chars([column.id for column in own.columns], own.profile)
            op = RestoreOrderExec(position.id)
            seconds = rows * (SORT_ROW_S * log2(rows + 2) + 2 * width * CHAR_S)
        estimate = estimate_of_rows(memo, group, seconds)
        found.append(Alternative(op, (Requirement(group, below),), estimate, "restore_order"))
    return found


def _candidates(own: Group, memo: Memo, ctx: PlanContext) -> list[tuple[ColumnId, ...]]:
    """Different key lists that calls of the group's expressions would profit from."""
    found: dict[tuple[ColumnId, ...], None] = {}
    for expr in own.expressions:
        for call in calls_of(expr):
            keys = _keys(call, memo.group(expr.input).profile, ctx)
            if keys:
                found.setdefault(keys)
    return list(found)


def _keys(call: LlmCall, source: Profile, ctx: PlanContext) -> tuple[ColumnId, ...]:
    engine = ctx.options.engine(call.model)
    if engine.kv_capacity_tok == 0:
        return ()
    parts = call_levels(call, source, ctx.options)
    requests = requests_of(call, source, parts)
    if requests <= engine.window_requests:
        return ()
    if trie_tok(parts, source, requests, engine.block_tok) <= engine.kv_capacity_tok:
        return ()
    # as many leading holes as have values that repeat: twice on average at least
    keys: tuple[ColumnId, ...] = ()
    for part in parts[1:]:
        if part.distinct(source) * 2 > requests:
            break
        keys = part.columns
    return tuple(dict.fromkeys(keys))

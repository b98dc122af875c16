"""Clustered rows, by sorting them."""

from __future__ import annotations

from math import log2

from halo_sql.ir.physical import PrefixClusterExec
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.cost import CHAR_S, SORT_ROW_S, width_chars
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.properties import Form, Properties
from halo_sql.optimizer.rules.implement.llm import estimate_of_rows


def prefix_cluster(group: int, required: Properties, memo: Memo, ctx: PlanContext) -> list[Alternative]:
    """``clustered(k) rows of G => PrefixClusterExec[k](rows of G)``.

    Safe: the rows stay, their place is remembered in the position column. Not when a LIMIT above reads only the first
    rows (clustering reads them all), and not when a key is no column of G::

        SELECT LLM_MAP('{{ doc }} {{ question }}') FROM t LIMIT 10

    Ordering rows for prefix reuse: Liu et al., "Optimizing LLM Queries in Relational Data Analytics Workloads", 2024.
    """
    clustering = required.clustered
    if required.form is not Form.ROWS or clustering is None or required.row_goal is not None:
        return []
    own = memo.group(group)
    if not set(clustering.keys) <= {column.id for column in own.columns}:
        return []
    rows = own.profile.rows
    width = width_chars([column.id for column in own.columns], own.profile)
    seconds = rows * (SORT_ROW_S * log2(rows + 2) + 2 * width * CHAR_S)
    op = PrefixClusterExec(clustering.keys, clustering.position)
    estimate = estimate_of_rows(memo, group, seconds)
    return [Alternative(op, (Requirement(group, required.rows()),), estimate, "prefix_cluster")]

"""EXPLAIN with sections: the logical plan, the physical plan, the memo, the rules, the costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halo_sql import explain
from halo_sql.errors import ProgrammingError
from halo_sql.ir.logical import BoundStatement

if TYPE_CHECKING:
    from halo_sql.optimizer.optimize import Optimized


def render(bound: BoundStatement, optimized: Optimized, form: str, sections: Sequence[str], sql: str) -> str:
    """The sections asked for (none: the physical plan in ``form``), each under its name."""
    if not sections:
        return explain.render(optimized.dag, None, form, sql)
    if form != "text" and list(sections) != ["physical"]:
        raise ProgrammingError(
            f"EXPLAIN sections are text, not {form}", kind="Invalid Input Error", remedy="Leave FORMAT out."
        )
    parts = []
    for section in sections:
        body = {
            "logical": lambda: _logical(bound, optimized),
            "physical": lambda: explain.render(optimized.dag, None, form, sql),
            "memo": lambda: _memo(optimized),
            "rules": lambda: _rules(optimized),
            "costs": lambda: _costs(optimized),
        }[section]()
        parts.append(f"{section.upper()}\n{body}" if len(sections) > 1 else body)
    return "\n\n".join(parts)


def _logical(bound: BoundStatement, optimized: Optimized) -> str:
    return (
        f"As written:\n{explain.render_logical(bound.plan)}\n\nNormalized:\n{explain.render_logical(optimized.logical)}"
    )


def _rules(optimized: Optimized) -> str:
    rows = [
        f"{firing.name:<28} {firing.stage:<10} tried {firing.tried:>5}  fired {firing.fired:>4}  "
        f"{1000 * firing.seconds:8.3f} ms  {'; '.join(firing.where)}".rstrip()
        for firing in optimized.trace.rules
    ]
    return "\n".join(rows) or "no rule was tried"


def _memo(optimized: Optimized) -> str:
    found = [", ".join(f"{name} {value}" for name, value in optimized.trace.counters)]
    for group in optimized.trace.groups():
        found.append(f"G{group.id}  ~{group.rows:.0f} rows")
        found += [f"    {expression}" for expression in group.expressions]
        found += [f"    best {winner.properties}: {winner.plan}  cost {winner.cost:.6g}" for winner in group.winners]
    return "\n".join(line for line in found if line)


def _costs(optimized: Optimized) -> str:
    rows = [
        "node                       rows      calls  prompt tok   cached  output tok     gpu s     cpu s        usd"
    ]
    for node in optimized.dag.nodes:
        guess, cost = node.estimate, node.estimate.cost
        rows.append(
            f"#{node.id:<3} {type(node.op).__name__.removesuffix('Exec'):<18} {guess.rows:>8.0f} {guess.llm_calls:>10.0f} "
            f"{guess.prompt_tok:>11.0f} {guess.prompt_tok_cached:>8.0f} {guess.output_tok:>11.0f} "
            f"{cost.gpu_s:>9.4f} {cost.cpu_s:>9.4f} {cost.usd:>10.6f}"
        )
    return "\n".join(rows)

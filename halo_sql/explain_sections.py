"""EXPLAIN with sections: the logical plan, the physical plan, the memo, the rules, the costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halo_sql import explain, replay
from halo_sql.deep import deep
from halo_sql.errors import ProgrammingError
from halo_sql.ir.logical import BoundStatement

if TYPE_CHECKING:
    from halo_sql.metrics import Profile
    from halo_sql.optimizer.context import EngineProfile, ToolProfile
    from halo_sql.optimizer.optimize import Optimized


def render(
    bound: BoundStatement,
    optimized: Optimized,
    form: str,
    sections: Sequence[str],
    sql: str,
    profile: Profile | None = None,
) -> str:
    """The sections asked for (none: the physical plan in ``form``), each under its name; or a dump. With a profile the
    physical plan shows what its nodes did."""
    if not sections:
        return explain.render(optimized.dag, profile, form, sql)
    if list(sections) == ["dump"]:
        return deep(lambda: replay.dump(optimized, sql))
    check(form, sections)
    parts = []
    for section in sections:
        body = {
            "logical": lambda: _logical(bound, optimized),
            "physical": lambda: explain.render(optimized.dag, profile, form, sql),
            "memo": lambda: _memo(optimized),
            "rules": lambda: _rules(optimized),
            "costs": lambda: _costs(optimized),
        }[section]()
        parts.append(f"{section.upper()}\n{body}" if len(sections) > 1 else body)
    return "\n\n".join(parts)


def check(form: str, sections: Sequence[str]) -> None:
    """ProgrammingError for sections that cannot be shown in one text of this form."""
    if "dump" in sections:
        raise ProgrammingError(
            "EXPLAIN (DUMP) is one JSON text", kind="Invalid Input Error", remedy="Leave the other sections out."
        )
    if form != "text" and list(sections) != ["physical"]:
        raise ProgrammingError(
            f"EXPLAIN sections are text, not {form}", kind="Invalid Input Error", remedy="Leave FORMAT out."
        )


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
    columns = ("rows", "calls", "prompt tok", "cached", "output tok", "prefill s", "decode s", "gpu s", "cpu s", "usd")
    rows = ["node".ljust(22) + "".join(name.rjust(12) for name in columns)]
    for node in optimized.dag.nodes:
        guess, cost = node.estimate, node.estimate.cost
        counts = (guess.rows, guess.llm_calls, guess.prompt_tok, guess.prompt_tok_cached, guess.output_tok)
        name = f"#{node.id} {type(node.op).__name__.removesuffix('Exec')}"
        numbers = "".join(f"{count:>12,.0f}" for count in counts)
        seconds = "".join(f"{each_s:>12.4f}" for each_s in (cost.prefill_s, cost.decode_s, cost.gpu_s, cost.cpu_s))
        rows.append(f"{name:<22}{numbers}{seconds}{cost.usd:>12.6f}")
    rows += [f"#{swap.node} starts {swap.model} again: {swap.seconds:.1f} s" for swap in optimized.swaps]
    rows += [_speed(name, engine) for name, engine in optimized.engines.items()]
    return "\n".join([*rows, *(_tool(name, tool) for name, tool in optimized.tools.items())])


def _speed(name: str, engine: EngineProfile) -> str:
    """What the seconds of a model's calls were computed with."""
    step = f"step {engine.decode_step_s:.4g} s + {engine.decode_seq_s:.3g} s per sequence"
    if engine.kv_read_s:
        step += f" + {engine.kv_read_s:.3g} s per token read"
    terms = [f"prefill {engine.prefill_tok_per_s:,.0f} tok/s", step, f"request {engine.request_s:.3g} s"]
    batch = engine.batch_requests or engine.window_requests
    terms.append(f"batch {min(batch, engine.window_requests)}")
    if engine.kv_capacity_tok:
        terms.append(f"KV cache {engine.kv_capacity_tok:,} tok")
    if engine.load_s:
        terms.append(f"load {engine.load_s:.1f} s")
    if engine.usd_per_prompt_tok or engine.usd_per_output_tok:
        price = 1e6 * engine.usd_per_prompt_tok, 1e6 * engine.usd_per_output_tok
        terms.append(f"{price[0]:g} usd / {price[1]:g} usd per million tok in / out")
    return f"{name}: {', '.join(terms)}; {engine.calibrated or 'assumed'}"


def _tool(name: str, tool: ToolProfile) -> str:
    """What the seconds of a tool's calls were computed with."""
    terms = [f"call {tool.call_s:.3g} s (p90 {tool.p90_s:.3g} s)", f"{tool.concurrency} at once"]
    if tool.rate_per_s:
        terms.append(f"{tool.rate_per_s:g} per second")
    if tool.join_from:
        terms.append(f"join {tool.join_s:.3g} s + {tool.join_call_s:.3g} s per call")
    if tool.rows is not None:
        terms.append(f"{tool.rows:.3g} rows")
    return f"tool {name}: {', '.join(terms)}; {tool.source}"

"""One run of one system on one batch: its answers, its counters, and whether both are what the ledger says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import baselines
import pack
from adapters import Bench
from clients import Clients
from halo import Workload
from stub import HttpStub, VirtualStub

from halo_sql.clock import unix_s

HALO = "halosql"
SYSTEMS = (HALO, *baselines.STRATEGIES)
LESS = f"{HALO} - "  # before the rules that HaloSQL does without


def asks_once(system: str) -> bool:
    """Whether a system asks equal requests once."""
    return system.startswith(HALO) or system in baselines.MEMO


@dataclass
class Measured:
    """What a run did. Counters are of calls that were made; ``wrong`` says what differs from the ledger.

    bars  (lane, kind, seconds since the start, until): calls as they ran, for the Gantt picture
    """

    workload: str
    system: str
    queries: int
    wall_s: float
    planning_s: float
    counters: dict[str, int]
    http_peak: int
    cached_tok: int = 0
    engine_idle: float = 0.0
    answers_sha256: str = ""
    wrong: list[str] = field(default_factory=list)
    bars: list[tuple[str, str, float, float]] = field(default_factory=list)


def measure(
    bench: Bench,
    stub: HttpStub | VirtualStub,
    reference: pack.Reference,
    halo: Workload,
    system: str,
    count: int,
    limit: int,
) -> Measured:
    """Run it on empty caches with counters at zero."""
    bench.reset()
    stub.reset()
    planning_s = 0.0
    if system.startswith(HALO):
        bench.con.execute(f"SET halo_disabled_rules = '{system.removeprefix(HALO).removeprefix(' - ')}'")
        began, wall = bench.clock(), time.perf_counter()
        answers = halo.run(count)
        wall, ended = time.perf_counter() - wall, bench.clock()
        if bench.adapter.virtual:
            wall = ended - began
        tools = halo.tool_calls()
        planning_s = halo.profile()["totals"]["planning_s"]
        bars = _tool_bars(bench, began)
    else:
        queries = reference.trace.answers["user_query"][:count]
        answers, tools, bars, began, ended = bench.run(_baseline(bench, stub, reference, system, queries, limit))
        wall = ended - began
        bars = [(lane, kind, first - began, last - began) for lane, kind, first, last in bars]
    spec = pack.module("spec")
    tokens = pack.tokens_of_bundled()
    prompts = [spec.chatml(call.system, call.user) for call in bench.log]
    counters = {
        "llm": len(bench.log),
        **{kind: tools[kind] for kind in ("sql", "http", "python")},
        "prompt_tok": _counted(tokens, prompts),
        "output_tok": _counted(tokens, [call.result.text for call in bench.log]),
    }
    bars += [(call.model, "llm", call.began - began, call.ended - began) for call in bench.log]
    found = Measured(reference.name, system, count, wall, planning_s, counters, stub.stats()["max_inflight"], bars=bars)
    found.cached_tok = sum(call.result.prompt_tok_cached for call in bench.log)
    found.engine_idle = 1 - _covered([(call.began, call.ended) for call in bench.log], began, ended) / (ended - began)
    found.answers_sha256 = hashlib.sha256("\n".join(answers).encode()).hexdigest()
    _check(found, bench, reference, stub)
    return found


#: Digest of a text -> its tokens: all systems ask the same.
_known_tok: dict[bytes, int] = {}


def _counted(tokens: Any, texts: Sequence[str]) -> int:
    """Tokens of texts."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    new = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in _known_tok}
    for digest, packed in zip(new, tokens.pack(list(new.values())), strict=True):
        _known_tok[digest] = len(packed) // tokens.WIDTH
    return sum(map(_known_tok.__getitem__, digests))


async def _baseline(
    bench: Bench, stub: HttpStub | VirtualStub, reference: pack.Reference, system: str, queries: Any, limit: int
) -> Any:
    async with Clients(bench, reference, stub, limit) as clients:
        began = bench.clock()
        answers = await baselines.STRATEGIES[system](reference.workload, queries, clients)
        ended = bench.clock()
    tools = {kind: clients.issued[kind] for kind in ("sql", "http", "python")}
    return answers, tools, [(call.tool, call.kind, call.began, call.ended) for call in clients.log], began, ended


def _tool_bars(bench: Bench, began: float) -> list[tuple[str, str, float, float]]:
    """Calls of tools by HaloSQL's log of calls, which has the loop's clock as a time of day."""
    rows = bench.con.execute(
        "SELECT model, epoch(started), seconds FROM halo_calls() "
        "WHERE kind = 'tool' AND query = (SELECT max(query) FROM halo_calls())"
    ).fetchall()
    offset_s = bench.run(_time_of_day()) - bench.clock()
    bars = [(tool, started - offset_s - began, seconds) for tool, started, seconds in rows]
    return [(tool, "tool", first, first + seconds) for tool, first, seconds in bars]


async def _time_of_day() -> float:
    return unix_s()


def _covered(spans: list[tuple[float, float]], began: float, ended: float) -> float:
    """Seconds in which at least one span runs."""
    total, until = 0.0, began
    for first, last in sorted(spans):
        first, last = max(first, until), min(last, ended)
        if last > first:
            total, until = total + last - first, last
    return total


def _check(found: Measured, bench: Bench, reference: pack.Reference, stub: HttpStub | VirtualStub) -> None:
    """Against the ledger. With a model that answers otherwise than the stand-in, only what cannot depend on answers."""
    ledger, which = reference.figures(found.queries), "distinct" if asks_once(found.system) else "naive"
    wanted: dict[str, int] = {"llm": ledger["llm"][which]}
    if bench.adapter.exact:
        wanted |= {kind: ledger["tool"]["by_kind"].get(kind, {which: 0})[which] for kind in ("sql", "http", "python")}
        wanted |= {"prompt_tok": ledger["prompt_tokens"][which], "output_tok": ledger["output_tokens"][which]}
        if found.answers_sha256 != ledger["answers_sha256"]:
            found.wrong.append("answers differ")
        asked = {(call.model, pack.module("spec").chatml(call.system, call.user)) for call in bench.log}
        if asked != reference.prompts(found.queries):
            found.wrong.append("prompts differ")
    for name, number in wanted.items():
        fewer = not bench.adapter.exact and asks_once(found.system)  # a real model's answers may make prompts equal
        if found.counters[name] > number or (found.counters[name] < number and not fewer):
            found.wrong.append(f"{name} {found.counters[name]:,}, ledger {number:,}")
    limits = {node.max_tokens[reference.scale] for node in reference.workload.nodes if node.kind == "llm"}
    if {call.max_tokens for call in bench.log} != limits:
        found.wrong.append("max_tokens differ")
    served = stub.stats()["calls"]
    if served != found.counters["http"]:
        found.wrong.append(f"the stub served {served} requests, {found.counters['http']} were counted")


def same_answers(runs: Sequence[Measured]) -> bool:
    """Whether all systems gave the same answers, whatever the model."""
    return len({run.answers_sha256 for run in runs}) == 1

"""Seconds that no plan can beat: the bounds of the pack's README, "Physical lower bound", on emulated devices, too."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pack

from halo_sql.engines.profiles import Profile


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak rates of an engine; all 0 for one whose answers cost nothing.

    prefill_s     seconds per computed prompt token
    decode_s      seconds per output token at the best batch size
    first_s       seconds to the first token, alone
    token_s       seconds per output token, alone
    """

    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_s: float = 0.0
    token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Floor:
    """The terms in seconds; ``strict`` is the largest, ``good`` has prefill and decode one after the other (as emulated
    devices have them, where ``added``: then it is strict)."""

    prefill: float
    decode: float
    path: float
    sql: float
    added: bool = False

    @property
    def strict(self) -> float:
        return self.good if self.added else max(self.prefill, self.decode, self.path, self.sql)

    @property
    def good(self) -> float:
        return max(self.prefill + self.decode, self.path, self.sql)

    @property
    def by(self) -> str:
        """The name of the largest term."""
        terms = {"prefill": self.prefill, "decode": self.decode, "path": self.path, "sql": self.sql}
        if self.added:
            terms["work"] = self.prefill + self.decode
        return max(terms, key=lambda name: terms[name])


class Floors:
    """Bounds of one workload, with each distinct statement timed alone."""

    def __init__(self, reference: pack.Reference, time_scale: float, rates: Rates) -> None:
        self._reference, self._time_scale, self._rates = reference, time_scale, rates
        self._seconds = statement_seconds(reference)

    def of(self, count: int) -> Floor:
        """The bounds for the first ``count`` queries."""
        trace, rates = self._reference.trace, self._rates
        ledger = self._reference.figures(count)
        asked = {r for node in trace.workload.nodes if node.kind == "sql" for r in trace.requests[node.id][:count]}
        return Floor(
            ledger["prompt_tokens"]["trie_block16"] * rates.prefill_s,
            ledger["output_tokens"]["distinct"] * rates.decode_s,
            max(trace.workload.depth(lambda node: self._alone(node, query)) for query in range(count)),  # noqa: B023
            sum(self._seconds[request] for request in asked) / (os.cpu_count() or 1),
        )

    def _alone(self, node: Any, query: int) -> float:
        trace = self._reference.trace
        if node.kind == "http":
            return float(trace.latency[node.id][query]) * self._time_scale
        request = trace.requests[node.id][query]
        if node.kind == "sql":
            return self._seconds[request]
        if node.kind == "llm":
            words = len(trace.prompts[request][2].split())
            return self._rates.first_s + words * self._rates.token_s
        return 0.0


class EmulatedFloors:
    """Bounds of one workload on emulated devices, on each of which every model may work. SQL takes no virtual time.

    profiles  model class -> its profile; computing prompts, steps and reads of the KV cache add up. A step is shared by
              as many sequences as a batch may have, each distinct prompt's trie is computed once
    """

    def __init__(
        self, reference: pack.Reference, time_scale: float, profiles: Mapping[str, Profile], devices: int
    ) -> None:
        self._reference, self._time_scale, self._profiles, self._devices = reference, time_scale, profiles, devices
        tokens, trace = pack.tokens_of_bundled(), reference.trace
        requests = list(trace.prompts)
        self._width = tokens.WIDTH
        self._packed = dict(zip(requests, tokens.pack([trace.prompts[r][1] for r in requests]), strict=True))
        answers = tokens.pack([trace.prompts[r][2] for r in requests])
        self._answer_tok = dict(zip(requests, (len(each) // self._width for each in answers), strict=True))

    def of(self, count: int) -> Floor:
        """The bounds for the first ``count`` queries."""
        trace, ledger = self._reference.trace, pack.module("ledger")
        asked: dict[str, set[str]] = {}
        for node in trace.workload.nodes:
            if node.kind == "llm":
                asked.setdefault(node.model, set()).update(trace.requests[node.id][:count])
        prefill = decode = 0.0
        for model, requests in asked.items():
            profile = self._profiles[model]
            trie_tok = ledger.prefill_floor([self._packed[request] for request in requests], profile.block_tok)
            prefill += trie_tok / profile.prefill_tok_per_s
            decode += sum(map(self._answer_tok.__getitem__, requests)) * profile.decode_step_s / profile.max_num_seqs
            decode += profile.kv_read_s * sum(
                self._answer_tok[request] * (len(self._packed[request]) // self._width + self._answer_tok[request] / 2)
                for request in requests
            )
        path = max(trace.workload.depth(lambda node: self._alone(node, query)) for query in range(count))  # noqa: B023
        return Floor(prefill / self._devices, decode / self._devices, path, 0.0, added=True)

    def _alone(self, node: Any, query: int) -> float:
        trace = self._reference.trace
        if node.kind == "http":
            return float(trace.latency[node.id][query]) * self._time_scale
        if node.kind != "llm":
            return 0.0
        return self._answer_tok[trace.requests[node.id][query]] * self._profiles[node.model].decode_step_s


def statement_seconds(reference: pack.Reference) -> Mapping[str, float]:
    """Seconds of each distinct statement with its arguments, run alone on all cores."""
    import duckdb

    spec, trace = pack.module("spec"), reference.trace
    found: dict[str, float] = {}
    with duckdb.connect(str(pack.data()), read_only=True) as con:
        for node in trace.workload.nodes:
            if node.kind != "sql":
                continue
            rows = trace.workload.settings[reference.scale]["rows"]
            statement = spec.SQL_WRAPPER.format(sql=node.sql, rows=rows)
            for query, request in enumerate(trace.requests[node.id]):
                if request in found:
                    continue
                values = {name: trace.answers[name][query] for name in node.reads()}
                bound = spec.bind(trace.workload, node, values, reference.scale)
                began = time.perf_counter()
                con.execute(statement, bound).fetchone()
                found[request] = time.perf_counter() - began
    return found

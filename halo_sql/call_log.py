"""The latest LLM and tool calls of a connection, for ``halo_calls()``: who asked, and how it ended. Bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

from halo_sql.clock import unix_s
from halo_sql.errors import EngineError

KEPT_ROWS = 10_000
KEPT_BYTES = 32 << 20  # of prompts and answers


class CallRecord(NamedTuple):
    """One request, or one answer from the response store.

    query     number of the query in its connection
    node      number of the plan's node; -1 when unknown
    row       the row of the node that asked first
    kind      'llm' | 'tool'
    agent     the agent that made the call; None: the statement did
    step      of an agent's conversation: 1, 2, …
    model     the model, or the tool
    status    'done' | 'store' (answered by the response store) | 'failed'
    error     code of the error; with texts also its message
    started   UTC
    prompt, answer  only with ``halo_trace_text``
    worker    number of the model's worker that answered; None: it has but one, or none did
    """

    query: int
    node: int
    row: int
    kind: str
    agent: str | None
    step: int | None
    model: str
    prompt_hash: str
    prompt_tok: int
    output_tok: int
    status: str
    error: str | None
    started: datetime
    seconds: float
    prompt: str | None
    answer: str | None
    worker: int | None = None


class CallLog:
    """The latest records of a connection; appended to on the runtime's loop, read by anybody."""

    def __init__(self) -> None:
        self._records: deque[CallRecord] = deque()
        self._bytes = 0

    def records(self) -> list[CallRecord]:
        """Oldest first."""
        return list(self._records)

    def add(self, record: CallRecord) -> None:
        """Append one; the oldest leave when there are too many."""
        self._records.append(record)
        self._bytes += _size(record)
        while len(self._records) > KEPT_ROWS or (self._bytes > KEPT_BYTES and len(self._records) > 1):
            self._bytes -= _size(self._records.popleft())


def _size(record: CallRecord) -> int:
    return sum(len(text) for text in (record.prompt, record.answer, record.error) if text)


class RunLog:
    """What one run of a query writes.

    nodes    id of a node's counters -> the node's number
    texts    whether prompts, answers and messages are kept
    several  of a batch: id of a node's counters -> the query that it counts for, and the node's number
    """

    def __init__(
        self,
        log: CallLog,
        query: int,
        nodes: Mapping[int, int],
        texts: bool,
        several: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        self._log = log
        self._places = several or {counters: (query, node) for counters, node in nodes.items()}
        self._unknown = (query, -1)
        self._texts = texts

    def add(
        self,
        metrics: object,
        row: int,
        model: str,
        prompt: str,
        answer: str,
        status: str,
        error: EngineError | None = None,
        started_s: float = 0.0,
        prompt_tok: int = 0,
        output_tok: int = 0,
        kind: str = "llm",
        agent: str | None = None,
        step: int | None = None,
        worker: int | None = None,
    ) -> None:
        """One call; ``started_s`` (Unix time) 0: it was not sent."""
        now_s = unix_s()
        problem = None if error is None else f"{error.code}: {error.message}" if self._texts else error.code
        self._log.add(
            CallRecord(
                *self._places.get(id(metrics), self._unknown),
                row,
                kind,
                agent,
                step,
                model,
                blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
                prompt_tok,
                output_tok,
                status,
                problem,
                datetime.fromtimestamp(started_s or now_s, UTC).replace(tzinfo=None),
                round(now_s - started_s, 6) if started_s else 0.0,
                prompt if self._texts else None,
                answer if self._texts and error is None else None,
                worker,
            )
        )

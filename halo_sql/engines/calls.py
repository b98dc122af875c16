"""One request of a run with everybody who waits for its answer, and the answers kept for those still to come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from halo_sql.engines.keys import RequestKeys
from halo_sql.engines.protocol import ChannelSpec, GenRequest, GenResult, Outcome, Validate
from halo_sql.metrics import NodeMetrics

#: Error codes that the same request would meet again: they are answers, shared like any other.
FINAL_ERRORS = frozenset({"rejected", "context", "truncated", "invalid_output"})


class Asker(Protocol):
    """What a call knows of the channel that asked.

    keys          set when answers may come from the response store
    base_tok      estimated tokens of every prompt beside its user message
    output_tok    the most tokens an answer may take
    expected_tok  tokens of an answer as those before it have shown; as long as there are too few, the most
    """

    spec: ChannelSpec
    metrics: NodeMetrics
    validate: Validate
    keys: RequestKeys | None
    base_tok: int
    output_tok: int

    @property
    def expected_tok(self) -> float:
        """See above."""
        ...

    def emit(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """Hand outcomes to the operator."""
        ...

    def learn(self, user: str, result: GenResult) -> None:
        """One of its requests was answered."""
        ...

    def aborting(self, change: int) -> None:
        """More (or fewer) of its calls are being aborted by the engine."""
        ...


class Call:
    """A request from ``put`` to its answer. The first who asked owns it; ``others`` share its answer.

    table     the run's calls by user message to which it belongs; None when it is not to be shared
    key       its key in the response store, once looked up
    sent_s    when it was given to the engine (Unix time); 0: not
    tok, usd  reserved in the budget; 0 until weighed
    room_tok  where pieces are known: reserved in the window, beside what it shares
    pieces    of its prompt, as the model of the prefix cache knows them; once sent, ``warm`` of them were in it then
    outcome   set when finished; by ``judge``, the ``validate`` function that made it
    dropped   nobody waits any more
    """

    __slots__ = ("channel", "dropped", "finish", "judge", "key", "number", "others", "outcome", "pieces", "request",
                 "room_tok", "sent_s", "table", "text", "tok", "usd", "user", "warm")  # fmt: skip

    room_tok: int
    warm: int

    def __init__(self, channel: Asker, number: int, user: str, table: dict[str, Call] | None) -> None:
        self.channel = channel
        self.number = number
        self.user = user
        self.table = table
        self.others: list[tuple[Asker, int]] | None = None
        self.outcome: Outcome | None = None
        self.request: GenRequest | None = None
        self.key: bytes | None = None
        self.pieces: tuple[int, ...] | None = None
        self.tok = 0
        self.usd = 0.0
        self.sent_s = 0.0
        self.dropped = False

    def settle(self, text: str, finish: str, outcome: Outcome) -> None:
        """It is answered: ``outcome`` is what the owner makes of it."""
        self.text, self.finish, self.outcome, self.judge = text, finish, outcome, self.channel.validate

    def outcome_for(self, channel: Asker) -> Outcome:
        """What another channel makes of the answer."""
        assert self.outcome is not None
        if channel.validate is self.judge or self.finish == "error":
            return self.outcome
        problem = channel.validate(self.text, self.finish)
        return Outcome(self.text) if problem is None else Outcome(error=problem)

    def forget(self) -> None:
        """Take it out of the run's table: an equal prompt is asked again."""
        if self.table is not None and self.table.get(self.user) is self:
            del self.table[self.user]

    def without(self, channel: Asker) -> bool:
        """``channel`` waits no more; whether nobody else does either. Ownership goes to the next in line."""
        if self.others:
            self.others = [waiter for waiter in self.others if waiter[0] is not channel]
        if self.channel is not channel:
            return False
        if not self.others:
            return True
        self.channel, self.number = self.others.pop(0)
        return False


class AnswerMemory:
    """Finished calls of a run, the latest used ``limit_bytes`` of them; the others leave their table."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._calls: OrderedDict[Call, int] = OrderedDict()

    def add(self, call: Call) -> None:
        """Keep a call that has just been settled."""
        size = 600 + call.user.__sizeof__() + call.text.__sizeof__()  # 600: the call, its outcome, its places
        call.request = None
        self._calls[call] = size
        self._bytes = total = self._bytes + size
        if total > self._limit_bytes:
            self._shrink()

    def _shrink(self) -> None:
        """To a little under the limit, so that it is done for many at once."""
        while self._calls and self._bytes > 0.99 * self._limit_bytes:
            oldest, size = self._calls.popitem(last=False)
            self._bytes -= size
            oldest.forget()

    def touch(self, call: Call) -> None:
        """It was used again."""
        if call in self._calls:
            self._calls.move_to_end(call)

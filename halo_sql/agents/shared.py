"""Equal requests of an agent whose answers depend on nothing else: one conversation for all of them."""

from __future__ import annotations

from collections import OrderedDict

from halo_sql.agents.conversation import Conversation
from halo_sql.engines.protocol import Outcome

KEPT_BYTES = 16 << 20
#: Codes of errors that the same conversation would end with again.
FINAL_ERRORS = frozenset({"rejected", "context", "truncated", "invalid_output"})


class Shared:
    """Conversations under way by request, and how the latest ones ended (``kept_bytes`` of them).

    on  False: nothing is shared
    """

    def __init__(self, on: bool, kept_bytes: int = KEPT_BYTES) -> None:
        self._on = on
        self._kept_bytes = kept_bytes
        self._bytes = 0
        self._open: dict[str, Conversation] = {}
        self._ended: OrderedDict[str, Outcome] = OrderedDict()

    def under_way(self, request: str) -> Conversation | None:
        """The conversation about this request."""
        return self._open.get(request) if self._on else None

    def ended(self, request: str) -> Outcome | None:
        """How the one about this request ended."""
        return self._ended.get(request) if self._on else None

    def begin(self, conversation: Conversation) -> None:
        """Others may join it from now on."""
        if self._on:
            self._open[conversation.request] = conversation

    def end(self, conversation: Conversation, outcome: Outcome) -> None:
        """Nobody can join it any more; its outcome is kept, unless another try may end better."""
        if not self._on:
            return
        request = conversation.request
        self._open.pop(request, None)
        if outcome.error is not None and outcome.error.code not in FINAL_ERRORS:
            return
        self._ended[request] = outcome
        self._bytes += _size(request, outcome)
        while self._bytes > self._kept_bytes and self._ended:
            oldest, dropped = self._ended.popitem(last=False)
            self._bytes -= _size(oldest, dropped)


def _size(request: str, outcome: Outcome) -> int:
    return 300 + request.__sizeof__() + outcome.text.__sizeof__()

"""One LLM_REDUCE call of a running node: a request per group, or a tree of requests for a group too large for one.

A group that does not fit the model's context (or has more items than ``fan_in``) is cut into parts. The parts are
asked with the same instruction, side by side with those of all other groups; their answers are the items of the next
level, which is asked as soon as the last of them is there, until one request takes all that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from halo_sql.engines.protocol import Outcome
from halo_sql.errors import EngineError
from halo_sql.ir.physical import batch_name
from halo_sql.ir.prompt import ItemsHole, LlmCall
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking import Asking
from halo_sql.operators.items import ItemLists, Items
from halo_sql.operators.text_cast import TextCast

BYTES_PER_TOK = 4.0  # of text, before the first count


@dataclass(slots=True)
class _Group:
    """A group that is being folded.

    row      its number
    head     the instruction, up to the first item
    items    of the current level
    answers  of the current level's parts; None: not there
    waiting  parts that are not there
    """

    row: int
    head: str
    items: Items
    level: int = 0
    answers: list[str | None] = field(default_factory=list)
    waiting: int = 0
    failed: bool = False


class Folding(Asking):
    """``Asking`` for a call of kind 'reduce'; rows are groups."""

    def __init__(
        self, call: LlmCall, distinct: bool, metrics: NodeMetrics, notify: Callable[[], None], cast: TextCast
    ) -> None:
        super().__init__(call, distinct, metrics, notify, cast)
        hole = call.prompt.user[-1]
        assert isinstance(hole, ItemsHole)
        self._hole = hole
        self._lists: ItemLists | None = None
        self._first_admitted = 0
        self._bytes_per_tok = BYTES_PER_TOK
        self._numbers = count(-1, -1)  # of requests for parts; a group's last request has its row's number
        self._parts: dict[int, tuple[_Group, int]] = {}

    def admit(self, chunk: Any, first: int) -> list[tuple[int, str]]:
        """Take the next groups in: (row, instruction) of those that have items."""
        heads = self._renderer.prompts(chunk)
        lists = ItemLists(chunk.column(batch_name(self._hole.column)))
        asked = [head is not None and number > 0 for head, number in zip(heads, lists.counts, strict=True)]
        self._await(asked)
        self._lists, self._first_admitted = lists, first
        return [
            (row, head)
            for row, (head, number) in enumerate(zip(heads, lists.counts, strict=True), first)
            if head is not None and number
        ]

    def put(self, requests: Sequence[tuple[int, str]]) -> None:
        """Ask what ``admit`` gave: whole groups first, then the parts of those that are too large."""
        if not requests:
            return
        assert self.channel is not None
        assert self._lists is not None
        lists, separator = self._lists, self._hole.separator
        joined = lists.joined(separator)
        whole: list[tuple[int, str]] = []
        large: list[_Group] = []
        for row, head in requests:
            place = row - self._first_admitted
            text = joined[place] if joined is not None else None
            if text is None and not self._over_fan_in(lists.counts[place]):
                text = lists.items(place).join(0, lists.counts[place], separator)
            if text is not None and not self._over_fan_in(lists.counts[place]) and self._fits(head + text):
                whole.append((row, head + text))
            else:
                large.append(_Group(row, head, lists.items(place)))
        self._lists = None
        self._send(whole, large)

    def _over_fan_in(self, items: int) -> bool:
        return 0 < self.call.fan_in < items

    def _fits(self, message: str) -> bool:
        """Whether a request fits the context; a token is at least a byte, so short ones need no count."""
        channel = self.channel
        assert channel is not None
        room_tok = channel.room_tok
        if not room_tok:
            return True
        size = len(message) if message.isascii() else len(message.encode(errors="replace"))
        if size + self._template_tok() <= room_tok:
            return True
        tok = channel.count_tok(message)
        self._bytes_per_tok = max(1.0, size / max(1, tok))
        return tok <= room_tok

    def _template_tok(self) -> int:
        """Tokens around the user message, as bytes at most."""
        return 64 + len((self.call.prompt.system or "").encode())

    # --- levels

    def _send(self, whole: Sequence[tuple[int, str]], groups: Sequence[_Group]) -> None:
        """Put the last requests of some groups and the parts of the current level of others."""
        assert self.channel is not None
        requests = list(whole)
        finished: list[tuple[int, Outcome]] = []
        for group in groups:
            cuts = self._cuts(group)
            if isinstance(cuts, EngineError):
                self._metrics.errors += 1
                finished.append((group.row, Outcome(error=cuts)))
            elif len(cuts) == 1:
                requests.append((group.row, group.head + self._text(group, *cuts[0])))
            else:
                requests += self._level(group, cuts)
        if finished:
            super()._deliver(finished)
        if requests:
            self.channel.put(requests)

    def _text(self, group: _Group, first: int, end: int) -> str:
        return group.items.join(first, end, self._hole.separator)

    def _level(self, group: _Group, cuts: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
        """The requests of a level's parts; an answer of the level below that stands alone goes up as it is."""
        requests = []
        group.answers, group.waiting = [None] * len(cuts), 0
        for part, (first, end) in enumerate(cuts):
            text = self._text(group, first, end)
            if group.level and end - first == 1:
                group.answers[part] = text
                continue
            number = next(self._numbers)
            self._parts[number] = (group, part)
            group.waiting += 1
            requests.append((number, group.head + text))
        return requests

    def _next_level(self, group: _Group) -> None:
        group.items = Items.of([answer for answer in group.answers if answer is not None])
        group.level += 1
        group.answers = []

    def _cuts(self, group: _Group) -> list[tuple[int, int]] | EngineError:
        """The parts of the current level as ranges of its items: each as many as fit, from the first on."""
        cuts: list[tuple[int, int]] = []
        first = 0
        while first < group.items.count:
            end = self._end_of_part(group, first)
            if end == first:
                return self._too_long(group, first)
            cuts.append((first, end))
            first = end
        if group.level and len(cuts) > 1 and len(cuts) == group.items.count:
            return EngineError(
                "two partial answers do not fit the model's context together",
                code="context",
                remedy="Lower max_tokens, or use a model with a longer context.",
            )
        return cuts

    def _end_of_part(self, group: _Group, first: int) -> int:
        items, separator = group.items, self._hole.separator
        most = items.count if not self.call.fan_in else min(items.count, first + self.call.fan_in)
        assert self.channel is not None
        if not self.channel.room_tok:
            return most
        head_bytes = len(group.head.encode())
        while True:
            size = self.channel.room_tok * self._bytes_per_tok - head_bytes
            end = min(most, max(first + 1, items.last_within(first, size, separator)))
            if self._fits(group.head + self._text(group, first, end)):
                return end
            if end == first + 1:
                return first
            most = first + max(1, (end - first) * 9 // 10)  # and the count has said how much text a token is

    def _too_long(self, group: _Group, item: int) -> EngineError:
        what = f"item {item + 1} of the group" if not group.level else "a partial answer"
        assert self.channel is not None
        return EngineError(
            f"{what} and the instruction do not fit the model's context: {self.channel.room_tok} tokens beside "
            f"max_tokens {self.call.sampling.max_tokens}",
            code="context",
            remedy="Shorten the inputs, for example with left(…), or use a model with a longer context.",
        )

    # --- answers

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        finished: list[tuple[int, Outcome]] = []
        complete: list[_Group] = []
        for number, outcome in outcomes:
            if number >= 0:
                finished.append((number, outcome))
                continue
            group, part = self._parts.pop(number)
            if group.failed:
                continue
            if outcome.error is not None:
                group.failed = True
                finished.append((group.row, outcome))
                continue
            group.answers[part] = outcome.text
            group.waiting -= 1
            if not group.waiting:
                self._next_level(group)
                complete.append(group)
        if finished:
            super()._deliver(finished)
        if complete:
            self._send([], complete)

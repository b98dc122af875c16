"""How much may be in flight on one engine: tokens and requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from halo_sql.engines.protocol import Engine, Gauges, GenResult, Limit

LEARN = 0.05  # weight of a new result in the running averages
WIDEST = 4.0  # times the engine's own window that the room may grow to
LEARNT_FROM = 16  # results after which estimates of prompts are good enough
SHRINK, GROW = 0.75, 1.25  # what a preemption, and a report of an engine that has room, do to the room
FULL = 0.9  # share of the KV cache in use from which the room does not grow
RESERVE, RESERVE_SHARE = 4, 0.25  # requests that should wait in the engine, at least, and per running one
LOOK_S = 0.25  # between looks at an engine's reports while no result comes


class Window:
    """Room for requests in flight, in tokens (prompt plus the most the answer may take) and in number.

    start_tok       room at first
    limit_tok       room now
    limit_requests  requests now, between ``least_requests`` and those at first
    used_tok, used_requests  in flight; kept by the lane, as is
    shared_tok      where it knows which prefixes they share: tokens of these, which are in no ``used_tok``
    usual_tok       size of the request sent last
    capacity_tok    tokens the engine's KV cache holds; 0 when unknown
    least_requests  that the engine computes at once; 0 when unknown
    shares          ``used_tok`` counts shared prefixes once per request, so the room grows by the share of prompt
                    tokens that the engine took from its cache, up to ``capacity_tok``, and shrinks again with it

    Of an engine that reports (``Gauges``) it follows the reports: additive-increase/multiplicative-decrease control
    (D. Chiu and R. Jain, 1989) with factors both ways. It shrinks when requests were preempted, and to what the engine
    computes plus a reserve when more wait in it: there they can neither be put in order nor overtaken. It grows when
    the engine has little in reserve and room in its KV cache although calls wait: answers are shorter than they may be.
    Of one that finds out how many requests its server takes (``Limit``) it follows that number.
    """

    __slots__ = (
        "_cached_share",
        "_capacity_tok",
        "_chars_per_tok",
        "_learnt",
        "_least_requests",
        "_most_requests",
        "_most_tok",
        "_preempted",
        "_seen",
        "_shares",
        "_start_tok",
        "limit_requests",
        "limit_tok",
        "shared_tok",
        "used_requests",
        "used_tok",
        "usual_tok",
    )

    def __init__(
        self, start_tok: int, limit_requests: int, capacity_tok: int = 0, least_requests: int = 0, shares: bool = True
    ) -> None:
        self._start_tok = self.limit_tok = start_tok
        self._most_requests = self.limit_requests = max(1, limit_requests)
        self._least_requests = min(self._most_requests, least_requests or self._most_requests)
        self._most_tok = int(WIDEST * (capacity_tok or start_tok))
        self._capacity_tok = capacity_tok
        self._shares = shares
        self._chars_per_tok = 4.0
        self._cached_share = 0.0
        self._learnt = 0
        self._seen: Gauges | None = None
        self._preempted = 0
        self.usual_tok = 512
        self.used_tok = 0
        self.shared_tok = 0
        self.used_requests = 0

    @property
    def taken_tok(self) -> int:
        """Tokens in flight, what is shared once."""
        return self.used_tok + self.shared_tok

    @property
    def has_learnt(self) -> bool:
        """Whether ``estimate`` goes by enough prompts, where prefixes are counted once."""
        return self._learnt >= LEARNT_FROM

    def fits(self, tok: int) -> bool:
        """Whether a request of this size may be sent now; one that exceeds the whole window may go alone."""
        if self.used_requests >= self.limit_requests:
            return False
        return self.used_tok + self.shared_tok + tok <= self.limit_tok or self.used_requests == 0

    def fits_all(self, count: int, tok: int) -> bool:
        """Whether ``count`` requests of ``tok`` tokens together may be sent now, and fit the KV cache together."""
        limit_tok = min(self.limit_tok, self._capacity_tok) if self._capacity_tok else self.limit_tok
        return self.used_requests + count <= self.limit_requests and self.taken_tok + tok <= limit_tok

    def room(self) -> int:
        """About how many requests of the usual size may be sent now, at least one as long as one may."""
        free = self.limit_requests - self.used_requests
        return min(free, max(1, (self.limit_tok - self.taken_tok) // self.usual_tok))

    def estimate(self, chars: int) -> int:
        """Tokens of a text of this length, by what this engine's prompts have shown so far (at first 4 per token)."""
        return int(chars / self._chars_per_tok) + 1

    def on_result(self, chars: int, result: GenResult) -> None:
        """Learn from a finished request whose prompt had ``chars`` characters; engines that tell no counts teach
        nothing."""
        if result.prompt_tok <= 0:
            return
        self._chars_per_tok += LEARN * (max(0.25, chars / result.prompt_tok) - self._chars_per_tok)
        if not self._shares:
            self._learnt += 1
            return
        share = result.prompt_tok_cached / result.prompt_tok
        if share != self._cached_share:
            self._cached_share += LEARN * (share - self._cached_share)
            wide = self._start_tok * min(WIDEST, 1.0 / (1.0 - min(self._cached_share, 0.99)))
            if self._capacity_tok:
                wide = min(wide, max(self._start_tok, self._capacity_tok))
            self.limit_tok = int(wide)

    def follow(self, engine: Engine, backlog: int) -> None:
        """Follow what the engine tells, while ``backlog`` calls wait to be sent."""
        if (gauges := gauges_of(engine)) is not None:
            self.on_gauges(gauges, backlog)
        elif (limit := limit_of(engine)) is not None:
            self.limit_requests = min(self._most_requests, limit.requests + limit.again)

    def on_gauges(self, gauges: Gauges, backlog: int) -> None:
        """Follow an engine's report, while ``backlog`` calls wait to be sent; the same report again changes nothing."""
        if gauges is self._seen:
            return
        first = self._seen is None
        self._seen = gauges
        preempted, self._preempted = gauges.preempted - self._preempted, gauges.preempted
        held = gauges.running + gauges.waiting
        wanted = gauges.running + max(RESERVE, RESERVE_SHARE * gauges.running)
        if preempted > 0 and not first:
            self.limit_tok = max(self.usual_tok, int(SHRINK * min(self.limit_tok, self.taken_tok or self.limit_tok)))
            return
        if gauges.running and held > wanted:
            self.limit_requests = max(self._least_requests, min(self.limit_requests, int(wanted)))
            if gauges.running < self._least_requests:  # the KV cache is what they wait for
                self.limit_tok = max(self.usual_tok, min(self.limit_tok, int(self.taken_tok * wanted / held)))
            return
        if not backlog or gauges.waiting > 0.5 * (wanted - gauges.running):
            return
        if self.used_requests >= 0.8 * self.limit_requests:
            self.limit_requests = min(self._most_requests, int(GROW * self.limit_requests) + 1)
        if gauges.kv_used < FULL and self.taken_tok + 2 * self.usual_tok > 0.8 * self.limit_tok:
            self.limit_tok = min(self._most_tok, int(GROW * self.limit_tok) + 1)


class Watch:
    """Looks at an engine that reports while calls wait and no result comes: long answers that leave room are no reason
    to wait for the first of them."""

    def __init__(self, engine: Engine, look: Callable[[], None]) -> None:
        self._engine = engine
        self._look = look
        self._timer: asyncio.TimerHandle | None = None

    def on(self, waits: bool) -> None:
        """Whether calls wait for requests that are in flight."""
        if not waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif waits and self._timer is None and gauges_of(self._engine) is not None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._due)

    def _due(self) -> None:
        self._timer = None
        self._look()


def gauges_of(engine: Engine) -> Gauges | None:
    """What the engine tells of its scheduler; a pool's handle stands for the engine that it has now."""
    gauges = getattr(getattr(engine, "engine", engine), "gauges", None)
    found: Gauges | None = None if gauges is None else gauges()
    return found


def limit_of(engine: Engine) -> Limit | None:
    """How many requests the engine sends at once, where it finds that out; of a pool's handle as above."""
    limit = getattr(getattr(engine, "engine", engine), "limit", None)
    found: Limit | None = None if limit is None else limit()
    return found

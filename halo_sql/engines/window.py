"""How much may be in flight on one engine: tokens and requests."""

from __future__ import annotations

from halo_sql.engines.protocol import GenResult

LEARN = 0.05  # weight of a new result in the running averages
WIDEST = 4.0  # times the engine's own window that sharing may widen it to


class Window:
    """Room for requests in flight, in tokens (prompt plus the most the answer may take) and in number.

    limit_tok       room now; starts as ``start_tok`` and follows the feedback of ``on_result``
    limit_requests  fixed
    used_tok, used_requests  in flight; kept by the lane
    usual_tok       size of the request sent last
    capacity_tok    tokens the engine's KV cache holds, never exceeded by widening; 0 when unknown

    A prefix that requests in flight share lies in the KV cache once, so the room grows by the share of prompt
    tokens that the engine took from its cache, and shrinks again with it. It is never under ``start_tok``.
    """

    __slots__ = ("_cached_share", "_capacity_tok", "_chars_per_tok", "_start_tok", "limit_requests", "limit_tok",
                 "used_requests", "used_tok", "usual_tok")  # fmt: skip

    def __init__(self, start_tok: int, limit_requests: int, capacity_tok: int = 0) -> None:
        self._start_tok = self.limit_tok = start_tok
        self.limit_requests = max(1, limit_requests)
        self._capacity_tok = capacity_tok
        self._chars_per_tok = 4.0
        self._cached_share = 0.0
        self.usual_tok = 512
        self.used_tok = 0
        self.used_requests = 0

    def fits(self, tok: int) -> bool:
        """Whether a request of this size may be sent now; one that exceeds the whole window may go alone."""
        if self.used_requests >= self.limit_requests:
            return False
        return self.used_tok + tok <= self.limit_tok or self.used_requests == 0

    def fits_all(self, count: int, tok: int) -> bool:
        """Whether ``count`` requests of ``tok`` tokens together may be sent now."""
        return self.used_requests + count <= self.limit_requests and self.used_tok + tok <= self.limit_tok

    def room(self) -> int:
        """About how many requests of the usual size may be sent now, at least one as long as one may."""
        free = self.limit_requests - self.used_requests
        return min(free, max(1, (self.limit_tok - self.used_tok) // self.usual_tok))

    def estimate(self, chars: int) -> int:
        """Tokens of a text of this length, by what this engine's prompts have shown so far (at first 4 per token)."""
        return int(chars / self._chars_per_tok) + 1

    def on_result(self, chars: int, result: GenResult) -> None:
        """Learn from a finished request whose prompt had ``chars`` characters; engines that tell no counts teach
        nothing."""
        if result.prompt_tok <= 0:
            return
        self._chars_per_tok += LEARN * (max(0.25, chars / result.prompt_tok) - self._chars_per_tok)
        share = result.prompt_tok_cached / result.prompt_tok
        if share != self._cached_share:
            self._cached_share += LEARN * (share - self._cached_share)
            wide = self._start_tok * min(WIDEST, 1.0 / (1.0 - min(self._cached_share, 0.99)))
            if self._capacity_tok:
                wide = min(wide, max(self._start_tok, self._capacity_tok))
            self.limit_tok = int(wide)

"""What one statement may use: calls, tokens, seconds, money. Reserved before a request is sent, settled after."""

from __future__ import annotations

from dataclasses import dataclass

from halo_sql.clock import clock_s
from halo_sql.errors import EngineError


@dataclass(frozen=True, slots=True)
class Price:
    """What a hosted model costs, in USD per million tokens."""

    prompt_usd: float = 0.0
    output_usd: float = 0.0

    def usd(self, prompt_tok: int, output_tok: int) -> float:
        """The price of one call."""
        return (prompt_tok * self.prompt_usd + output_tok * self.output_usd) / 1e6


FREE = Price()


class Budget:
    """The limits of one statement, or of a batch (0: none), and what is left of them.

    Calls are counted when they are sent and never given back. Tokens and money are reserved at their upper bound
    and settled to what was used, so what others have reserved may come free again: then there is reason to wait.
    """

    def __init__(self, max_calls: int = 0, max_tokens: int = 0, max_seconds: float = 0.0, max_usd: float = 0.0) -> None:
        self.limit(max_calls, max_tokens, max_seconds, max_usd)
        self.calls = 0
        self.tokens = 0
        self.usd = 0.0
        self._reserved_tok = 0
        self._reserved_usd = 0.0
        self._began = clock_s()

    def limit(self, max_calls: int, max_tokens: int, max_seconds: float, max_usd: float) -> None:
        """Set the limits; what has been used stays used."""
        self.max_calls, self.max_tokens, self.max_seconds, self.max_usd = max_calls, max_tokens, max_seconds, max_usd
        self.limited = bool(max_calls or max_tokens or max_seconds or max_usd)

    def left_s(self) -> float:
        """Seconds until the time limit; only with one."""
        return self._began + self.max_seconds - clock_s()

    def reserve(self, tok: int, usd: float = 0.0) -> bool:
        """Claim one call of at most ``tok`` tokens and ``usd``. False: wait until others have settled.

        Raises EngineError('budget') with the setting to raise when it will never fit.
        """
        if self.max_calls and self.calls >= self.max_calls:
            raise exhausted("halo_max_calls", f"{self.max_calls:,} LLM calls", 2 * self.max_calls)
        if self.max_seconds and self.left_s() <= 0:
            raise self.out_of_time()
        if self.max_tokens:
            if self.tokens + tok > self.max_tokens:
                raise exhausted("halo_max_tokens", f"{self.max_tokens:,} tokens", 2 * self.max_tokens)
            if self.tokens + self._reserved_tok + tok > self.max_tokens:
                return False
        if self.max_usd:
            if self.usd + usd > self.max_usd:
                raise exhausted("halo_max_usd", f"{self.max_usd:g} USD", 2 * self.max_usd)
            if self.usd + self._reserved_usd + usd > self.max_usd:
                return False
        self.calls += 1
        self._reserved_tok += tok
        self._reserved_usd += usd
        return True

    def settle(self, reserved_tok: int, tok: int, reserved_usd: float = 0.0, usd: float = 0.0) -> None:
        """A claimed call is over: it used ``tok`` tokens and ``usd``."""
        self._reserved_tok -= reserved_tok
        self._reserved_usd = self._reserved_usd - reserved_usd if self._reserved_tok else 0.0  # no rounding remains
        self.tokens += tok
        self.usd += usd

    def out_of_time(self) -> EngineError:
        """The error of a statement whose seconds are over."""
        return exhausted("halo_max_seconds", f"{self.max_seconds:g} seconds", 2 * self.max_seconds)


def exhausted(setting: str, limit: str, larger: float) -> EngineError:
    """The error of a request that its statement's limit does not allow."""
    return EngineError(
        f"the statement's limit of {limit} is reached",
        code="budget",
        remedy=f"SET {setting} = {larger:.15g} (0: no limit) and run it again.",
    )

"""Tokens of prompts' static parts by the tokenizers of models that have run, counted when a plan is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.static_tok import StaticTok, static_texts

#: (system message, user message up to its first hole, with empty holes) -> tokens; None: unknown.
Count = Callable[[str | None, str, str], StaticTok | None]
Key = tuple[str, str | None, str, str]  # model, then as of Count


def static_key(call: LlmCall) -> Key:
    """Under which the tokens of a call are kept: equal for calls that differ in their columns only."""
    return (call.model, call.prompt.system, *static_texts(call.prompt))


class StaticTokens(Mapping[Key, StaticTok]):
    """Tokens by ``static_key``, counted when they are first asked for, each once.

    As a mapping it holds what has been asked for and is known, so that a written context gives the same plan."""

    def __init__(self, counters: Mapping[str, Count]) -> None:
        self._counters = counters
        self._asked: dict[Key, StaticTok | None] = {}

    def __getitem__(self, key: Key) -> StaticTok:
        try:
            found = self._asked[key]
        except KeyError:
            count = self._counters.get(key[0])
            found = self._asked[key] = None if count is None else count(*key[1:])
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[Key]:
        return (key for key, found in self._asked.items() if found is not None)

    def __len__(self) -> int:
        return sum(found is not None for found in self._asked.values())

    def __bool__(self) -> bool:
        """Whether it can know anything."""
        return bool(self._counters)

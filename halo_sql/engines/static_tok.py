"""Tokens of prompts that are the same in all rows, counted by an engine's tokenizer where that is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from halo_sql.engines.protocol import Engine, GenRequest
from halo_sql.errors import EngineError
from halo_sql.ir.static_tok import StaticTok

#: What a hole may begin with: which tokens before it stay as they are is seen from these.
VALUES = ("a", "7", " ")
_KEPT = 1024


class StaticCounter:
    """Counts by the tokenizer of one engine and remembers; from any thread. It starts nothing and waits for nothing."""

    def __init__(self, engine: Engine) -> None:
        self._prompt_ids: Callable[[Sequence[GenRequest]], list[list[int]] | None] | None
        self._prompt_ids = getattr(engine, "prompt_ids", None)
        self._known: dict[tuple[str | None, str, str], StaticTok] = {}

    def __call__(self, system: str | None, head: str, whole: str) -> StaticTok | None:
        """``head``: the user message up to the first hole; ``whole``: with empty holes. None: the engine has no
        tokenizer at hand, or refuses such prompts."""
        if self._prompt_ids is None:
            return None
        key = (system, head, whole)
        found = self._known.get(key)
        if found is None:
            try:
                prompts = self._prompt_ids([GenRequest(0, text, system) for text in _texts(head, whole)])
            except EngineError:  # the start says what is wrong
                return None
            if not prompts or not all(prompts):
                return None
            found = _counted(prompts[:-1], prompts[-1])
            if len(self._known) >= _KEPT:
                self._known = {}
            self._known[key] = found
        return found


def _texts(head: str, whole: str) -> list[str]:
    return [*(head + value for value in VALUES), whole]


def _counted(filled: list[list[int]], empty: list[int]) -> StaticTok:
    head = _alike(filled)
    whole = max(head, len(empty))
    tail = _alike([ids[head:][::-1] for ids in filled])
    return StaticTok(head, min(tail, whole - head), whole)


def _alike(lists: list[list[Any]]) -> int:
    """Length of the common beginning."""
    count = 0
    for items in zip(*lists, strict=False):
        if items.count(items[0]) < len(items):
            break
        count += 1
    return count

"""What a tool brought, as the model sees it: valid JSON whatever the tool wrote, and not longer than it may be."""

from __future__ import annotations

import json
from typing import Any

from halo_sql.agents.strict_json import write_json

REMEMBERED = 1024


class ResultView:
    """Results of at most ``max_chars`` characters; the same one is read once."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._known: dict[str, str] = {}

    def of(self, text: str) -> str:
        """JSON text that can stand in a turn. What is too long, or no JSON, becomes a text."""
        view = self._known.get(text)
        if view is None:
            view = self._view(text)
            if len(text) <= self._max_chars:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[text] = view
        return view

    def _view(self, text: str) -> str:
        if len(text) > self._max_chars:
            beginning = _sound(text[: self._max_chars])
            return write_json(f"{beginning}… (cut: the first {self._max_chars} of {len(text)} characters)")
        text = _sound(text)
        try:
            json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return write_json(text)  # it must not be able to end its own place and begin another
        return text.strip(" \t\r\n")


def _sound(text: str) -> str:
    """Halves of surrogate pairs as question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _refuse(constant: str) -> Any:
    raise ValueError(constant)

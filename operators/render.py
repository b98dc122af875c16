"""Prompts as texts: a plan made once per call, applied to batches column by column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import batch_name
from halo_sql.ir.prompt import Hole, ItemsHole, LlmCall, ObjectHole, Segment


class Renderer:
    """Renders a call's user message for the rows of batches.

    Every hole column is VARCHAR. A NULL hole gives None (no request is made); in an object hole it is ``null``. The
    items of a group are left out: what is rendered is what stands in front of them.
    """

    def __init__(self, call: LlmCall) -> None:
        self.pieces = _pieces(call.prompt.user)
        self.guard = call.guard
        self.columns = tuple(dict.fromkeys(piece[0] for piece in self.pieces if not isinstance(piece, str)))

    def prompts(self, batch: Any) -> list[str | None]:
        """One prompt per row of ``batch``; None where the guard is not TRUE or a hole is NULL."""
        prompts = self._rows({column: _texts(batch, column) for column in self.columns}, batch.num_rows)
        if self.guard is not None:
            for row, reached in enumerate(batch.column(batch_name(self.guard)).to_pylist()):
                if reached is not True:
                    prompts[row] = None
        return prompts

    def distinct(self, batch: Any) -> tuple[list[str | None], list[int]]:
        """Prompts of the distinct argument tuples, and for every row the index of its own (equal tuples share one)."""
        if self.guard is None and len(self.columns) == 1:
            encoded = batch.column(batch_name(self.columns[0])).dictionary_encode(null_encoding="encode")
            values = {self.columns[0]: encoded.dictionary.to_pylist()}
            return self._rows(values, len(encoded.dictionary)), encoded.indices.to_pylist()
        prompts = self.prompts(batch)
        places: dict[str | None, int] = {}
        indices = [places.setdefault(prompt, len(places)) for prompt in prompts]
        return list(places), indices

    def _rows(self, values: dict[ColumnId, list[str | None]], rows: int) -> list[str | None]:
        missing: set[int] = set()
        parts: list[Iterable[str]] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                parts.append(repeat(piece, rows))
                continue
            column, null = piece
            texts = values[column]
            if None in texts:
                if null is None:
                    missing.update(row for row, text in enumerate(texts) if text is None)
                texts = [(null or "") if text is None else text for text in texts]
            parts.append(texts)  # type: ignore[arg-type]  # no None is left
        prompts: list[str | None]
        prompts = list(parts[0]) if len(parts) == 1 else list(map("".join, zip(*parts, strict=True)))
        for row in missing:
            prompts[row] = None
        return prompts


def _pieces(segments: Sequence[Segment]) -> tuple[str | tuple[ColumnId, str | None], ...]:
    """Texts and (column, text of its NULL; None: NULL makes the prompt NULL), neighbouring texts merged."""
    pieces: list[str | tuple[ColumnId, str | None]] = []
    for segment in segments:
        for piece in _flat(segment):
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            elif piece != "":
                pieces.append(piece)
    return tuple(pieces) or ("",)


def _flat(segment: Segment) -> Iterable[str | tuple[ColumnId, str | None]]:
    if isinstance(segment, str):
        yield segment
    elif isinstance(segment, Hole):
        yield (segment.column, None)
    elif isinstance(segment, ItemsHole):
        return
    else:
        assert isinstance(segment, ObjectHole)
        before = "{"
        for name, column in segment.fields:
            yield f"{before}{json.dumps(name, ensure_ascii=False)}: "
            yield (column, "null")
            before = ", "
        yield "}" if segment.fields else "{}"


def _texts(batch: Any, column: ColumnId) -> list[str | None]:
    texts: list[str | None] = batch.column(batch_name(column)).to_pylist()
    return texts


def excerpt(text: str, length: int = 80) -> str:
    """A text on one line, cut to ``length`` characters."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[: length - 3] + "..."

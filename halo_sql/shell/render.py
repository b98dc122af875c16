"""Output modes: one writer per mode. Each takes column names, types and chunks of texts and writes lines."""

from __future__ import annotations

import html
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from halo_sql.ir.types import SqlType
from halo_sql.shell import box
from halo_sql.shell.texts import NUMBERS, Text, Texts, json_value

Columns = tuple[tuple[str, SqlType], ...]
Chunks = Iterable[list[Texts]]


@dataclass(slots=True)
class Look:
    """How results look.

    null       what NULL is shown as; None: each mode's own (nothing in list, NULL elsewhere)
    separator  between values in csv, list and tabs; None: each mode's own
    headers    None: each mode's own
    maxrows    rows a duckbox shows; 0: all
    maxwidth   columns of the terminal; 0: as wide as needed
    """

    mode: str = "duckbox"
    null: str | None = None
    separator: str | None = None
    headers: bool | None = None
    maxrows: int = 40
    maxwidth: int = 0


def write(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    """The lines of a result, as they become known."""
    yield from MODES[look.mode](columns, chunks, look)


def _rows(chunks: Chunks) -> Iterator[Texts]:
    for chunk in chunks:
        yield from chunk


def _shown(row: Texts, null: str) -> list[str]:
    return [null if value is None else value for value in row]


def _null(look: Look, default: str) -> str:
    return default if look.null is None else look.null


def _duckbox(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    head: list[Texts] = []
    half = look.maxrows // 2 or 1
    tail: deque[Texts] = deque(maxlen=look.maxrows - half if look.maxrows else 0)
    count = 0
    for row in _rows(chunks):
        count += 1
        if not look.maxrows or len(head) < half:
            head.append(row)
        else:
            tail.append(row)
    cells = [_shown(row, _null(look, "NULL")) for row in [*head, *tail]]
    gap = len(head) if len(cells) < count else -1
    yield from box.duckbox(columns, cells, gap, count, look.maxwidth)


def _grid(style: str) -> Callable[[Columns, Chunks, Look], Iterator[str]]:
    def draw(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
        rows = [_shown(row, _null(look, "NULL")) for row in _rows(chunks)]
        yield from box.grid(columns, rows, style)

    return draw


def _separated(default: str, quoted: bool) -> Callable[[Columns, Chunks, Look], Iterator[str]]:
    def draw(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
        separator = default if look.separator is None else look.separator
        special = (separator, '"', "\n", "\r")

        def cell(value: str) -> str:
            needs = quoted and (any(mark in value for mark in special) or value != value.strip())
            return '"' + value.replace('"', '""') + '"' if needs else value

        if look.headers is not False:
            yield separator.join(cell(name) for name, _ in columns)
        null = _null(look, "NULL")
        for row in _rows(chunks):  # a text that reads like the NULL mark is quoted, so that the two differ
            yield separator.join(
                null if value is None else f'"{value}"' if quoted and value == null else cell(value) for value in row
            )

    return draw


def _objects(columns: Columns, chunks: Chunks) -> Iterator[str]:
    keys = [json.dumps(name, ensure_ascii=False) for name, _ in columns]
    for row in _rows(chunks):
        pairs = (f"{key}:{json_value(value, kind)}" for key, value, (_, kind) in zip(keys, row, columns, strict=True))
        yield "{" + ",".join(pairs) + "}"


def _json(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    before = None
    for text in _objects(columns, chunks):
        if before is not None:
            yield ("[" if before[1] else "") + before[0] + ","
        before = (text, before is None)
    yield "[]" if before is None else ("[" if before[1] else "") + before[0] + "]"


def _jsonlines(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    return _objects(columns, chunks)


def _line(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    width = max((box.width(name) for name, _ in columns), default=0)
    for number, row in enumerate(_rows(chunks)):
        if number:
            yield ""
        for (name, _), value in zip(columns, _shown(row, _null(look, "NULL")), strict=True):
            yield f"{' ' * (width - box.width(name))}{name} = {value}"


def _html(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    def cells(tag: str, values: Iterable[Text]) -> str:
        null = _null(look, "NULL")
        return "".join(f"<{tag}>{html.escape(null if value is None else value)}</{tag}>" for value in values)

    yield "<table>"
    if look.headers is not False:
        yield f"<tr>{cells('th', [name for name, _ in columns])}</tr>"
    for row in _rows(chunks):
        yield f"<tr>{cells('td', row)}</tr>"
    yield "</table>"


def _markdown(columns: Columns, chunks: Chunks, look: Look) -> Iterator[str]:
    rows = [_shown(row, _null(look, "NULL")) for row in _rows(chunks)]
    texts = [[name for name, _ in columns], *rows]
    table = [[value.replace("|", "\\|").replace("\n", "<br>") for value in row] for row in texts]
    widths = [max(3, *(box.width(row[place]) for row in table)) for place in range(len(columns))]
    right = [kind.kind in NUMBERS for _, kind in columns]
    rules = ["-" * (size - 1) + ":" if number else "-" * size for size, number in zip(widths, right, strict=True)]
    for row in [table[0], rules, *table[1:]]:
        yield "| " + " | ".join(map(box.pad, row, widths, right)) + " |"


#: mode -> writer
MODES: dict[str, Callable[[Columns, Chunks, Look], Iterator[str]]] = {
    "duckbox": _duckbox,
    "box": _grid("box"),
    "table": _grid("table"),
    "markdown": _markdown,
    "csv": _separated(",", True),
    "json": _json,
    "jsonlines": _jsonlines,
    "line": _line,
    "list": _separated("|", False),
    "tabs": _separated("\t", False),
    "html": _html,
}
#: Modes that need nested values as JSON texts.
JSON_MODES = frozenset({"json", "jsonlines"})

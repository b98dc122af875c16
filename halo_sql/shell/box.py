"""Boxes around tables: DuckDB's (types under names, rows and columns elided to fit) and plain grids."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from halo_sql.ir.types import SqlType
from halo_sql.shell.texts import NUMBERS

Columns = Sequence[tuple[str, SqlType]]

#: DuckDB's short names of types in the head of a box.
_TYPES = {
    "TINYINT": "int8",
    "SMALLINT": "int16",
    "INTEGER": "int32",
    "BIGINT": "int64",
    "HUGEINT": "int128",
    "UTINYINT": "uint8",
    "USMALLINT": "uint16",
    "UINTEGER": "uint32",
    "UBIGINT": "uint64",
    "UHUGEINT": "uint128",
}
_ELLIPSIS = "…"
_NARROW = 8  # no column is cut below this width to make room


def width(text: str) -> int:
    """Columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def pad(text: str, size: int, right: bool = False) -> str:
    """Spaces added up to a width."""
    space = " " * (size - width(text))
    return space + text if right else text + space


def _centred(text: str, size: int) -> str:
    space = size - width(text)
    return " " * (space // 2) + text + " " * (space - space // 2)


def cut(text: str, size: int) -> str:
    """At most ``size`` columns of the text, an ellipsis where something is left out."""
    if width(text) <= size:
        return text
    kept, taken = [], 1
    for letter in text:
        taken += width(letter)
        if taken > size:
            break
        kept.append(letter)
    return "".join(kept) + _ELLIPSIS


def plain(text: str) -> str:
    """One line without control characters: data cannot move the cursor or break the box."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(letter, f"\\x{ord(letter):02x}")
        for letter in text
    )


def _type_name(kind: SqlType) -> str:
    if kind.kind == "enum":
        return "enum"
    text = _TYPES.get(kind.text, kind.text.strip('"').lower())
    return text if len(text) <= 40 else kind.kind


def _fit(widths: list[int], room: int) -> tuple[list[int], int]:
    """Widths cut down to the room, and how many columns can stand; those in the middle give way."""
    widths = list(widths)

    def total() -> int:
        return sum(size + 3 for size in widths) + 1

    while total() > room:
        largest = max(range(len(widths)), key=widths.__getitem__)
        if widths[largest] <= _NARROW:
            break
        others = sorted(widths, reverse=True)
        target = max(_NARROW, others[1] if len(others) > 1 and others[1] < widths[largest] else widths[largest] - 1)
        widths[largest] = max(target, widths[largest] - (total() - room))
    shown, taken = len(widths), total()
    while taken > room and shown > 2:
        shown -= 1
        taken = sum(size + 3 for size in _ends(widths, shown)) + 1 + 4  # 4: the column of an ellipsis
    return widths, shown


def _ends(values: list[int], count: int) -> list[int]:
    left = (count + 1) // 2
    return values[:left] + values[len(values) - (count - left) :] if count < len(values) else values


def duckbox(columns: Columns, rows: list[list[str]], gap: int, count: int, room: int) -> Iterator[str]:
    """The lines of DuckDB's box.

    gap    index of the row before which rows were left out; -1: none
    count  rows of the whole result
    room   width to fit into; 0: any
    """
    names = [plain(name) for name, _ in columns]
    types = [_type_name(kind) for _, kind in columns]
    right = [kind.kind in NUMBERS for _, kind in columns]
    cells = [[plain(value) for value in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(names, types, *cells, strict=True)]
    total = len(columns)
    shown = total
    if room:
        widths, shown = _fit(widths, room)
    places: list[int] = list(range(total))
    if shown < total:
        kept = _ends(places, shown)
        places = [*kept[: (shown + 1) // 2], -1, *kept[(shown + 1) // 2 :]]
    sizes = [1 if place < 0 else widths[place] for place in places]
    foot = _foot(count, len(rows), total, shown)
    inner = sum(sizes) + 3 * (len(sizes) - 1)
    sizes[-1] += max(0, max(map(len, foot), default=0) - inner)  # the foot is never cut
    inner = sum(sizes) + 3 * (len(sizes) - 1)

    def rule(left: str, middle: str, end: str) -> str:
        return left + middle.join("─" * (size + 2) for size in sizes) + end

    def line(values: Sequence[str], centred: bool = False) -> str:
        parts = []
        for place, size in zip(places, sizes, strict=True):
            text = _ELLIPSIS if place < 0 else cut(values[place], size)
            parts.append(_centred(text, size) if centred or place < 0 else pad(text, size, right[place]))
        return "│ " + " │ ".join(parts) + " │"

    yield rule("┌", "┬", "┐")
    yield line(names, centred=True)
    yield line(types, centred=True)
    if not rows:
        yield rule("├", "┴", "┤")
    else:
        yield rule("├", "┼", "┤")
        for index, row in enumerate(cells):
            if index == gap:
                for _ in range(3):
                    yield line(["·"] * total, centred=True)
            yield line(row)
        yield rule("├", "┴", "┤") if foot else rule("└", "┴", "┘")
    if foot:
        yield from (f"│ {pad(text, inner)} │" for text in foot)
        yield rule("└", "─", "┘")


def _foot(count: int, shown_rows: int, total: int, shown: int) -> list[str]:
    """What the box says of its size: nothing when all of a short result is there."""
    rows = f"{count:,} row{'s' * (count != 1)}" + (f" ({shown_rows} shown)" if shown_rows < count else "")
    if shown < total:
        return [rows, f"{total} columns ({shown} shown)"]
    return [rows] if shown_rows < count or count == 0 or count > 20 else []


_GRIDS = {"box": ("┌┬┐", "├┼┤", "└┴┘", "─", "│"), "table": ("+++", "+++", "+++", "-", "|")}


def grid(columns: Columns, rows: list[list[str]], style: str) -> Iterator[str]:
    """The lines of a grid without types: ``box`` with line-drawing characters, ``table`` with ASCII."""
    top, middle, bottom, dash, bar = _GRIDS[style]
    right = [kind.kind in NUMBERS for _, kind in columns]
    table = [[plain(name) for name, _ in columns], *([plain(value) for value in row] for row in rows)]
    widths = [max(width(row[place]) for row in table) for place in range(len(columns))]

    def rule(ends: str) -> str:
        return ends[0] + ends[1].join(dash * (size + 2) for size in widths) + ends[2]

    yield rule(top)
    for index, row in enumerate(table):
        parts = [_centred(row[place], size) if index == 0 else pad(row[place], size, right[place])
                 for place, size in enumerate(widths)]  # fmt: skip
        yield f"{bar} " + f" {bar} ".join(parts) + f" {bar}"
        if index == 0:
            yield rule(middle)
    yield rule(bottom)

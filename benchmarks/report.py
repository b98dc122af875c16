"""Tables and verdicts of the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: first column left, others right."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[place]) for row in table) for place in range(len(head))]
    print(f"\n{title}")
    for number, row in enumerate(table):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
    sys.stdout.flush()


def verdict(reached: bool) -> str:
    """The last column."""
    return "ok" if reached else "MISSED"


def finish(all_reached: bool) -> None:
    """Exit status 1 when a goal was missed."""
    sys.exit(0 if all_reached else 1)

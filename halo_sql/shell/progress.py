"""Progress of the LLM operators of the running statement, on standard error.

On a terminal a few lines that redraw themselves; elsewhere a plain line per operator every five seconds.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from halo_sql.metrics import NodeMetrics

REDRAW_S = 0.2
PLAIN_S = 5.0
_FIRST_S = 0.4  # a statement that is done by then shows nothing

Source = Callable[[], list[tuple[str, NodeMetrics]]]


def describe(label: str, did: NodeMetrics) -> str:
    """One operator in one line."""
    asked = did.llm_calls + did.llm_calls_coalesced + did.llm_calls_from_store
    total = f"/{did.rows_total:,}" if did.rows_total else ""
    parts = [f"{did.rows:,}{total} rows", f"{did.in_flight:,} in flight", f"{asked:,} answered"]
    if did.prompt_tok:
        cached = 100 * did.prompt_tok_cached // did.prompt_tok
        parts.append(f"{did.prompt_tok:,} tok in ({cached} % cached), {did.output_tok:,} out")
    parts += [f"{did.tool_calls:,} tool calls"] if did.tool_calls else []
    parts += [f"{did.llm_calls_from_store:,} from store"] if did.llm_calls_from_store else []
    parts += [f"{did.llm_calls_coalesced:,} coalesced"] if did.llm_calls_coalesced else []
    parts += [f"{did.retries:,} retries"] if did.retries else []
    parts += [f"{did.errors:,} errors"] if did.errors else []
    name = " ".join(label.split())
    return f"{name if len(name) <= 40 else name[:39] + '…'}: {', '.join(parts)}"


class Progress:
    """Shows a source's counters while a statement runs; ``tick`` is called by whoever waits for it."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._source: Source | None = None
        self._lock = threading.RLock()
        self._drawn = 0  # lines on the terminal
        self._started = self._last = 0.0

    def start(self, source: Source) -> None:
        """A statement begins."""
        self._source = source
        self._started = self._last = time.monotonic()

    def stop(self) -> None:
        """It has ended: nothing of the progress stays."""
        with self._lock:
            self._source = None
            self._clear()

    def tick(self) -> None:
        """Redraw when it is time."""
        if not self.enabled or self._source is None:
            return
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - self._started < _FIRST_S or now - self._last < (REDRAW_S if terminal else PLAIN_S):
            return
        with self._lock:
            self._last = now
            lines = [describe(label, did) for label, did in self._source()]
            if terminal:
                columns = shutil.get_terminal_size().columns
                self._draw([line[: columns - 1] for line in lines])
            elif lines:
                print(*(f"progress: {line} ({now - self._started:.0f} s)" for line in lines), sep="\n", file=sys.stderr)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While data is written: nothing on the terminal that it could be mixed with."""
        with self._lock:
            self._clear()
            yield

    def _draw(self, lines: list[str]) -> None:
        self._clear()
        if lines:
            sys.stdout.flush()
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
            self._drawn = len(lines)

    def _clear(self) -> None:
        if self._drawn:
            sys.stdout.flush()
            sys.stderr.write(f"\x1b[{self._drawn}A\r\x1b[J")
            sys.stderr.flush()
            self._drawn = 0

"""What a database session knows from experience: in the response store's file, or in memory while that is off.

It belongs to models and templates, not to one database: so it is learnt from read-only and in-memory databases too, and
never takes part in a transaction of the user's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from halo_sql.engines.experience import CallKind, Experience
from halo_sql.engines.store import ResponseStore

Lesson = tuple[CallKind, str, Experience]  # whose, what to call it, what it took


class Knowledge:
    """Experience by ``CallKind``. Thread-safe; no method raises for what the disk does.

    store  opens the response store; None: it is off
    path   its file: while there is none, nothing is known and none is made to find that out
    """

    def __init__(self, store: Callable[[], ResponseStore] | None = None, path: Path | None = None) -> None:
        self._open = store
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[CallKind, Lesson] = {}

    def learn(self, lessons: Sequence[Lesson]) -> None:
        """Add to what is known; returns at once, and whoever asks next is told."""
        if self._open is not None:
            self._open().learn(lessons)
            return
        with self._lock:
            for kind, label, experience in lessons:
                known = self._known.get(kind)
                whole = experience if known is None else known[2].merged(experience)
                self._known[kind] = (kind, label, whole)

    def recall(self, kinds: Iterable[CallKind]) -> dict[CallKind, Experience]:
        """What is known of these."""
        wanted = list(kinds)
        if self._open is not None:
            return {kind: experience for kind, _, experience in self._stored(wanted)}
        with self._lock:
            return {kind: self._known[kind][2] for kind in wanted if kind in self._known}

    def everything(self) -> list[Lesson]:
        """All there is, in the order of the keys."""
        if self._open is not None:
            return sorted(self._stored(None), key=lambda lesson: lesson[0])
        with self._lock:
            return sorted(self._known.values(), key=lambda lesson: lesson[0])

    def forget(self) -> None:
        """Begin anew."""
        if self._open is not None:
            self._open().forget()
        with self._lock:
            self._known.clear()

    def _stored(self, kinds: Sequence[CallKind] | None) -> list[Lesson]:
        if self._open is None or self._path is None or not self._path.exists():
            return []
        return self._open().experience(kinds)

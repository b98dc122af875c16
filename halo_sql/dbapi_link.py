"""A session and the one result that is alive on it: what cursors of a connection share."""

from __future__ import annotations

from collections.abc import Callable

from halo_sql.closing import watch
from halo_sql.errors import InterfaceError
from halo_sql.result import Result
from halo_sql.session import Session


class Link:
    """A session and the one result that is alive on it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.closed = False
        self._current: Result | None = None
        watch(self, session)

    def run(self, call: Callable[[Session], Result]) -> Result:
        """Close the result there is, then make the next."""
        self.free()
        self._current = call(self.open())
        return self._current

    def free(self) -> None:
        """Close the result there is."""
        current, self._current = self._current, None
        if current is not None:
            current.close()

    def open(self) -> Session:
        """The session; InterfaceError when it was closed."""
        if self.closed:
            raise InterfaceError("This connection is closed", remedy="Open another with halo_sql.connect().")
        return self.session

    def close(self) -> None:
        """Close result and session; idempotent."""
        if not self.closed:
            self.free()
            self.closed = True
            self.session.close()

"""DuckDB's own cast from text, for the rare forms of a value that our readers do not know."""

from __future__ import annotations

from typing import Any

from halo_sql.duck import Duck
from halo_sql.errors import Error
from halo_sql.ir.expr import literal


class TextCast:
    """``CAST(text AS type)`` on a private connection, opened when first needed.

    time_zone  the user's session time zone: what a TIMESTAMPTZ without offset means
    """

    def __init__(self, time_zone: str = "UTC") -> None:
        self.time_zone = time_zone
        self._duck: Duck | None = None

    def cast(self, text: str, type_text: str) -> Any:
        """The value as a pyarrow Scalar; ValueError with DuckDB's reason when the text is no such value."""
        return self._one(f"CAST($1 AS {type_text})", text)

    def as_text(self, text: str, type_text: str) -> str:
        """The value in DuckDB's canonical spelling."""
        return str(self._one(f"CAST(CAST($1 AS {type_text}) AS VARCHAR)", text).as_py())

    def as_json(self, text: str, type_text: str) -> str:
        """A nested value written as JSON."""
        return str(self._one(f"CAST(to_json(CAST($1 AS {type_text})) AS VARCHAR)", text).as_py())

    def _one(self, expression: str, text: str) -> Any:
        try:
            if self._duck is None:
                self._duck = Duck.private()
                self._duck.execute(f"SET TimeZone = {literal(self.time_zone)}")
            reader = self._duck.stream(f"SELECT {expression} AS value", [text])
            try:
                found = reader.read_all().column(0)[0]
            except OSError as problem:
                raise ValueError(str(problem).partition("\n")[0]) from None
            finally:
                self._duck.release()
        except Error as problem:
            raise ValueError(problem.message.partition("\n")[0]) from None
        if not found.is_valid:
            raise ValueError("it is NULL")
        return found

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._duck is not None:
            self._duck.close()
            self._duck = None

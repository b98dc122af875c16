"""HaloSQL: DuckDB SQL with LLM operators, planned and shared like a query.

>>> import halo_sql
>>> con = halo_sql.connect()
>>> con.execute("SELECT LLM_MAP('{{ x }}', model => 'echo') AS s FROM (VALUES ('hi')) t(x)").fetchall()
[('hi',)]

Names are imported when first used, so that ``import halo_sql`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from halo_sql.version import __version__

if TYPE_CHECKING:
    from halo_sql.dbapi import (
        BINARY,
        DATETIME,
        NUMBER,
        ROWID,
        STRING,
        Binary,
        Connection,
        Cursor,
        Date,
        DateFromTicks,
        Time,
        TimeFromTicks,
        Timestamp,
        TimestampFromTicks,
        apilevel,
        connect,
        paramstyle,
        threadsafety,
    )
    from halo_sql.errors import (
        DatabaseError,
        DataError,
        EngineError,
        Error,
        IntegrityError,
        InterfaceError,
        InternalError,
        InterruptedQueryError,
        NotSupportedError,
        OperationalError,
        ProgrammingError,
        Warning,
    )

__all__ = [
    "__version__",
    # PEP 249
    "apilevel",
    "threadsafety",
    "paramstyle",
    "connect",
    "Connection",
    "Cursor",
    "STRING",
    "BINARY",
    "NUMBER",
    "DATETIME",
    "ROWID",
    "Date",
    "Time",
    "Timestamp",
    "DateFromTicks",
    "TimeFromTicks",
    "TimestampFromTicks",
    "Binary",
    "Warning",
    "Error",
    "InterfaceError",
    "DatabaseError",
    "DataError",
    "OperationalError",
    "IntegrityError",
    "InternalError",
    "ProgrammingError",
    "NotSupportedError",
    # ours
    "EngineError",
    "InterruptedQueryError",
]

_ERRORS = frozenset(__all__[__all__.index("Warning") :])


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = _import_module("halo_sql.errors" if name in _ERRORS else "halo_sql.dbapi")
    value = globals()[name] = getattr(source, name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

"""Loading batches into native temporary tables of exact types."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from halo_sql.duck import Duck
from halo_sql.errors import Error
from halo_sql.ir.expr import Column
from halo_sql.ir.physical import batch_name


def load(duck: Duck, name: str, columns: Sequence[Column], batches: Iterable[Any], schema: Any) -> None:
    """Create the temporary table ``name`` with these columns (``c<id>``) and insert the batches.

    schema  of the batches, which may have more columns in another order; None when there is no batch
    """
    import pyarrow as pa

    names = [batch_name(column.id) for column in columns]
    if schema is None:
        chosen = pa.schema([(column, pa.null()) for column in names])
    else:
        chosen = pa.schema([schema.field(column) for column in names])
    pairs = [(column, kind) for column, kind in zip(names, (column.type for column in columns), strict=True)]
    duck.spool(name, pairs, (batch.select(names) for batch in batches), chosen)


def drop_all(duck: Duck, names: Iterable[str]) -> None:
    """Drop temporary tables; one that cannot go (an aborted transaction) goes with its transaction."""
    duck.release()
    for name in names:
        with contextlib.suppress(Error):
            duck.drop(name)

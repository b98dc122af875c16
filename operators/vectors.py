"""LLM_EMBED's and LLM_SCORE's answers: texts to FLOAT[n] and DOUBLE."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from halo_sql.engines.vectors import decode_vector
from halo_sql.ir.types import SqlType


def read_score(text: str) -> float:
    """A number in 0 … 1; ValueError for any other text."""
    try:
        found = float(text)
    except ValueError:
        raise ValueError("it is not a number") from None
    if not 0.0 <= found <= 1.0:
        raise ValueError("it is not in 0 to 1")
    return found


def vector_reader(sql_type: SqlType) -> Callable[[str], array[float]]:
    """The function from a vector's text to its numbers; ValueError when they are not as many as the type says."""

    def read(text: str) -> array[float]:
        found = decode_vector(text)
        if len(found) != sql_type.size:
            raise ValueError(f"it has {len(found)} numbers, not {sql_type.size}")
        return found

    return read


def vectors(texts: Sequence[str | None], kind: Any) -> Any:
    """A pyarrow FixedSizeListArray of type ``kind``, one vector per (valid) text, None as NULL."""
    import pyarrow as pa

    size = kind.list_size
    numbers, nothing = array("f"), array("f", bytes(4 * size))
    for text in texts:
        numbers += nothing if text is None else decode_vector(text)
    values = pa.Array.from_buffers(pa.float32(), len(numbers), [None, pa.py_buffer(numbers)])
    missing = pa.array([text is None for text in texts], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=missing)

"""From what a function returns to the JSON text of a SQL type, in DuckDB's ``to_json`` spelling."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from halo_sql.ir.types import INTEGER_RANGES, SqlType
from halo_sql.tools.hints import interval_text

MAX_ITEMS = 1_000_000  # of lists, maps and tables together
MAX_BYTES = 64 << 20  # characters of texts together; what a tool may give is less, and the desk's to check
MAX_DEPTH = 100
_TEXTS = frozenset({
    "date", "time", "time_ns", "time with time zone", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns",
    "timestamp with time zone", "interval", "uuid", "bit",
})  # fmt: skip
_QUOTE = ord("'")


class WrongResultError(ValueError):
    """A value that is not of the type; the text says where, what was wanted and what came."""


class TooLargeError(ValueError):
    """More than may be."""


def write_json(value: Any, sql_type: SqlType, *, lenient: bool = False, max_items: int = MAX_ITEMS) -> str:
    """The value as JSON text.

    lenient    fields of a STRUCT that are not there are NULL, and texts of numbers are numbers (JSON of a server)
    max_items  items of the value itself, when it is a list; iterators are read no further (TooLargeError)
    """
    return _Writer(lenient, max_items).write(value, sql_type, "", 0)


class _Writer:
    def __init__(self, lenient: bool, max_items: int) -> None:
        self._lenient = lenient
        self._max_items = max_items
        self._items = 0
        self._bytes = 0

    def write(self, value: Any, sql_type: SqlType, path: str, depth: int) -> str:
        value = _natural(value)
        kind = sql_type.kind
        if depth > MAX_DEPTH:
            raise WrongResultError(f"{path or 'the value'} is nested more than {MAX_DEPTH} levels deep")
        if value is None:
            return "null"
        if kind == "json":
            return self._any(value, path, depth)
        if kind == "struct" and sql_type.fields and sql_type.fields[0][0]:
            return self._struct(value, sql_type, path, depth)
        if kind in ("list", "array"):
            return self._list(value, sql_type, path, depth)
        if kind == "map":
            return self._map(value, sql_type, path, depth)
        if kind in ("union", "struct", "variant"):
            return self._any(value, path, depth)
        text = _scalar(value, sql_type, self._lenient)
        if text is None:
            raise _wrong(value, sql_type.text, path)
        return self._counted(text, path)

    def _counted(self, text: str, path: str) -> str:
        self._bytes += len(text)
        if self._bytes > MAX_BYTES:
            raise TooLargeError(f"it has more than {MAX_BYTES} characters")
        return text

    def _items_of(self, value: Iterable[Any], depth: int) -> Iterator[Any]:
        most = MAX_ITEMS if depth else self._max_items
        for place, item in enumerate(value, 1):
            self._items += 1
            if place > most or self._items > MAX_ITEMS:
                raise TooLargeError(f"it has more than {most} items")
            yield item

    def _struct(self, value: Any, sql_type: SqlType, path: str, depth: int) -> str:
        found = fields_of(value)
        if found is None and isinstance(value, tuple | list) and len(value) == len(sql_type.fields):
            found = {name: item for (name, _), item in zip(sql_type.fields, value, strict=True)}
        if found is None:
            raise _wrong(value, sql_type.text, path)
        lowered = {str(key).lower(): item for key, item in found.items()}
        parts = []
        for name, member in sql_type.fields:
            if name not in found and name.lower() not in lowered and not self._lenient:
                raise WrongResultError(f'{_at(path)}the field "{name}" is not there (None stands for NULL)')
            item = found[name] if name in found else lowered.get(name.lower())
            parts.append(f"{_text(name)}:{self.write(item, member, f'{path}.{name}', depth + 1)}")
        return "{" + ",".join(parts) + "}"

    def _list(self, value: Any, sql_type: SqlType, path: str, depth: int) -> str:
        items = _rows(value)
        if items is None:
            raise _wrong(value, sql_type.text, path)
        member = sql_type.fields[0][1]
        parts = [
            self.write(item, member, f"{path}[{place}]", depth + 1)
            for place, item in enumerate(self._items_of(items, depth))
        ]
        if sql_type.kind == "array" and len(parts) != sql_type.size:
            raise WrongResultError(f"{_at(path)}wanted {sql_type.size} items ({sql_type.text}), got {len(parts)}")
        return "[" + ",".join(parts) + "]"

    def _map(self, value: Any, sql_type: SqlType, path: str, depth: int) -> str:
        if not isinstance(value, Mapping):
            raise _wrong(value, sql_type.text, path)
        (_, key_type), (_, value_type) = sql_type.fields
        parts = []
        for key in self._items_of(value, depth):
            if isinstance(key, str):
                name = _text(key)
            else:
                written = self.write(key, key_type, f"{path} (a key)", depth + 1)
                name = written if written.startswith('"') else _text(written)
            parts.append(f"{name}:{self.write(value[key], value_type, f'{path}[…]', depth + 1)}")
        return "{" + ",".join(parts) + "}"

    def _any(self, value: Any, path: str, depth: int) -> str:
        """A value of no declared type."""
        value = _natural(value)
        if depth > MAX_DEPTH:
            raise WrongResultError(f"{path or 'the value'} is nested more than {MAX_DEPTH} levels deep")
        if value is None:
            return "null"
        for kind in ("boolean", "bignum", "decimal", "double", "varchar", "date", "interval", "uuid", "blob"):
            text = _scalar(value, SqlType(kind, kind))
            if text is not None:
                return self._counted(text, path)
        found = fields_of(value)
        if found is not None:
            inner = (
                f"{_text(str(key))}:{self._any(found[key], path, depth + 1)}" for key in self._items_of(found, depth)
            )
            return "{" + ",".join(inner) + "}"
        items = _rows(value)
        if items is None:
            raise _wrong(value, "JSON", path)
        return "[" + ",".join(self._any(item, path, depth + 1) for item in self._items_of(items, depth)) + "]"


def _scalar(value: Any, sql_type: SqlType, lenient: bool = False) -> str | None:
    """JSON text of a scalar; None when the value is not of the type."""
    kind = sql_type.kind
    if kind == "boolean":
        return ("true" if value else "false") if isinstance(value, bool) else None
    if kind in INTEGER_RANGES or kind == "bignum":
        return _integer(value, kind, lenient)
    if kind in ("float", "double", "decimal"):
        return _number(value, kind, lenient)
    if kind == "enum":
        return _text(value) if isinstance(value, str) and value in sql_type.labels else None
    if kind == "blob":
        if lenient and isinstance(value, str):
            return _text(value)
        return _text(blob_text(bytes(value))) if isinstance(value, bytes | bytearray | memoryview) else None
    if kind == "varchar" or kind in _TEXTS:
        return _text(value) if isinstance(value, str) else _written(value, kind)
    return _text(value) if isinstance(value, str) else None


def _integer(value: Any, kind: str, lenient: bool) -> str | None:
    if lenient and isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 50:
        value = int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    low, high = INTEGER_RANGES.get(kind, (value, value))
    return int.__repr__(value) if low <= value <= high else None


def _number(value: Any, kind: str, lenient: bool) -> str | None:
    if isinstance(value, bool):
        return None
    if lenient and isinstance(value, str):
        try:
            value = float(value) if kind != "decimal" else Decimal(value)
        except (ValueError, ArithmeticError):
            return None
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float | Decimal):
        if math.isfinite(value):
            return str(value) if isinstance(value, Decimal) else float.__repr__(value)
        return None if kind == "decimal" else json.dumps(float(value))
    return None


def _written(value: Any, kind: str) -> str | None:
    if isinstance(value, datetime.datetime):
        return _text(value.isoformat(sep=" "))
    if isinstance(value, datetime.date | datetime.time):
        return _text(value.isoformat())
    if isinstance(value, datetime.timedelta):
        return _text(interval_text(value))
    if isinstance(value, uuid.UUID):
        return _text(str(value))
    return None


def _natural(value: Any) -> Any:
    """A value without its wrapping: members of enums, NumPy's and Arrow's scalars, pandas' missing values."""
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int | float | dict | list):
        return value
    name, module = type(value).__name__, type(value).__module__.partition(".")[0]
    if name in ("NaTType", "NAType"):
        return None
    if module == "numpy" and not getattr(value, "shape", (1,)):
        if name == "datetime64":
            value = value.astype("datetime64[us]")
        elif name == "timedelta64":
            value = value.astype("timedelta64[us]")
        return value.item()
    if module == "pyarrow" and callable(getattr(value, "as_py", None)):
        return value.as_py()
    return value


def fields_of(value: Any) -> Mapping[Any, Any] | None:
    """Field -> value of a mapping, dataclass, NamedTuple or pydantic model; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, dict):
        return {name: getattr(value, name) for name in names}
    return None


def _rows(value: Any) -> Iterable[Any] | None:
    """The items of a list, iterator, array or data frame; None for anything else (texts and mappings too)."""
    if isinstance(value, list | tuple | set | frozenset):
        return value
    module = type(value).__module__.partition(".")[0]
    if module == "pandas" and hasattr(value, "columns"):
        rows: list[Any] = value.astype(object).where(value.notna(), None).to_dict("records")
        return rows
    for name in ("to_pylist", "to_dicts", "tolist", "to_list"):
        convert = getattr(value, name, None)
        if module in ("pyarrow", "polars", "numpy", "pandas") and callable(convert):
            found = convert()
            return found if isinstance(found, list) else None
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping) or fields_of(value) is not None:
        return None
    return value if isinstance(value, Iterable) else None


def blob_text(data: bytes) -> str:
    """Bytes as DuckDB writes a BLOB as text."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in (_QUOTE, ord('"'), ord("\\")) else f"\\x{byte:02X}"
        for byte in data
    )


def _text(value: str) -> str:
    if not value.isascii():  # a lone surrogate has no UTF-8
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return json.dumps(value, ensure_ascii=False)


def _wrong(value: Any, wanted: str, path: str) -> WrongResultError:
    shown = wanted if len(wanted) <= 120 else wanted[:117] + "..."
    came = type(value).__name__
    if isinstance(value, int) and not isinstance(value, bool):
        came += " (out of range?)" if value.bit_length() > 7 and "INT" in wanted else ""
    return WrongResultError(f"{_at(path)}wanted {shown}, got {came}")


def _at(path: str) -> str:
    return f"at {path.lstrip('.')}: " if path else ""

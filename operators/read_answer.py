"""A model's answer as a value: JSON first, else the bare text as DuckDB would cast it.

A reader takes what ``json.loads`` gives (or a bare text) and returns what ``pyarrow.array`` takes for the type:
int days for DATE, int units for TIME and TIMESTAMP, Decimal for DECIMAL and HUGEINT, lists of pairs for MAP.
It raises ValueError with a reason that can stand behind "the answer does not fit INTEGER".
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from halo_sql.ir.types import INTEGER_RANGES, SqlType
from halo_sql.operators.arrow_types import carried_as_text, precision_and_scale
from halo_sql.operators.text_cast import TextCast

Read = Callable[[Any], Any]
MAX_JSON_BYTES = 8 << 20
MAX_JSON_DEPTH = 100
_NESTED = frozenset({"struct", "list", "array", "map"})
_BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?")
_OFFSET = re.compile(r"(Z|[+-]\d\d(:?\d\d)?)$")
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d{1,6})?")
_UNITS = {"timestamp": 1, "timestamp_s": 1_000_000, "timestamp_ms": 1_000}  # microseconds of one unit
_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_WIDE = Context(prec=100, rounding=ROUND_HALF_UP)
_HUGEINT_LIMIT = 10**38  # what decimal128(38, 0) holds


def text_reader(sql_type: SqlType, cast: TextCast, absent_is_null: bool = False) -> Callable[[str], Any]:
    """The function from an answer's text to its value; ``absent_is_null``: a struct's missing members are NULL."""
    kind = sql_type.kind
    if kind == "varchar":
        return _unicode
    if kind == "json":
        return _json_text
    if carried_as_text(sql_type):
        return lambda text: cast.as_text(_unquoted(text) if kind not in _NESTED else text, sql_type.text)
    read = reader(sql_type, cast, absent_is_null)
    if kind == "enum":
        return lambda text: text if text in sql_type.labels else read(_unquoted(text))
    if kind not in _NESTED:
        return lambda text: read(_unquoted(text))

    def nested(text: str) -> Any:
        try:
            value = load_json(text)
        except ValueError as problem:
            try:
                value = load_json(cast.as_json(text, sql_type.text))
            except ValueError:
                raise problem from None
        return read(value)

    return nested


def value_reader(sql_type: SqlType, cast: TextCast) -> Callable[[str], Any]:
    """The function from a JSON value's text to a value of the type; null is None."""
    if carried_as_text(sql_type):

        def by_text(text: str) -> Any:
            value = load_json(text)
            shown = value if isinstance(value, str) else text
            return None if value is None else cast.as_text(shown, sql_type.text)

        return by_text
    read = _optional(reader(sql_type, cast))
    return lambda text: read(load_json(text))


def reader(sql_type: SqlType, cast: TextCast, absent_is_null: bool = False) -> Read:
    """The function from a JSON value (or a bare text) to a value of the type."""
    kind = sql_type.kind
    if kind == "struct":
        return _struct_reader(sql_type, cast, absent_is_null)
    if kind in ("list", "array"):
        return _list_reader(sql_type, cast, absent_is_null)
    if kind == "map":
        return _map_reader(sql_type, cast, absent_is_null)
    if kind == "varchar":
        return lambda value: _unicode(value if isinstance(value, str) else dump_json(value))
    if kind == "json":
        return lambda value: _unicode(dump_json(value))
    if kind == "boolean":
        return _boolean
    if kind in INTEGER_RANGES:
        return lambda value: _integer(value, kind, cast)
    if kind == "decimal":
        return _decimal_reader(sql_type)
    if kind in ("float", "double"):
        return _double
    if kind == "enum":
        return lambda value: _label(value, sql_type)
    fast = {"date": _date, "time": _time, "uuid": _uuid, "blob": _blob}.get(kind) or _timestamp_reader(kind)

    def by_text(value: Any) -> Any:
        text = value if isinstance(value, str) else dump_json(value)
        found = fast(text) if fast is not None else None
        return _cast_value(text, sql_type, cast) if found is None else found

    return by_text


# --- JSON


def load_json(text: str) -> Any:
    """The JSON value of a text, fractions as Decimal; ValueError when it is none, too long or too deep."""
    if len(text) > MAX_JSON_BYTES or (not text.isascii() and len(text.encode(errors="replace")) > MAX_JSON_BYTES):
        raise ValueError(f"it is longer than {MAX_JSON_BYTES >> 20} MB")
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth(text) > MAX_JSON_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
    try:
        return json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON: {problem.msg} at character {problem.pos}") from None


def dump_json(value: Any) -> str:
    """A value of ``load_json`` as compact JSON text; numbers keep their digits."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{dump_json(name)}:{dump_json(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text, re.DOTALL):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
    return deepest


def _json_text(text: str) -> str:
    load_json(text)
    return _unicode(text)


def _unquoted(text: str) -> str:
    """A scalar answer: white space aside, a JSON string stands for its content."""
    text = text.strip()
    if text.startswith('"'):
        value = load_json(text)
        if isinstance(value, str):
            return value
    return text


# --- scalars


def _unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is no Unicode text") from None
    return text


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _BOOLEANS:
        raise ValueError("it is neither true nor false")
    return _BOOLEANS[word]


def _integer(value: Any, kind: str, cast: TextCast) -> Any:
    if isinstance(value, bool):
        raise ValueError("it is a boolean")
    number = value if isinstance(value, int) else _whole(value, kind, cast)
    low, high = INTEGER_RANGES[kind]
    if not low <= number <= high:
        raise ValueError(f"it is out of range ({low} to {high})")
    if kind == "hugeint":
        if abs(number) >= _HUGEINT_LIMIT:
            raise ValueError("it has more than 38 digits")
        return Decimal(number)
    return number


def _whole(value: Any, kind: str, cast: TextCast) -> int:
    """Fractions round half away from zero, as DuckDB casts a text."""
    text = str(value).strip()
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) < 100 else _HUGEINT_LIMIT**2
    number = _number(text) if _NUMBER.fullmatch(text) else None
    if number is not None:
        if number.adjusted() > 50:
            return _HUGEINT_LIMIT**2  # out of every range
        return int(number.quantize(Decimal(1), context=_WIDE))
    return int(cast.cast(text, kind).as_py())  # 0x1F, 1_000


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("it is not a number") from None


def _decimal_reader(sql_type: SqlType) -> Read:
    precision, scale = precision_and_scale(sql_type)
    unit, limit = Decimal(1).scaleb(-scale), Decimal(10) ** (precision - scale)

    def read(value: Any) -> Decimal:
        if isinstance(value, bool):
            raise ValueError("it is a boolean")
        number = value if isinstance(value, Decimal) else _number(str(value).strip())
        if not number.is_finite():
            raise ValueError("it is not a finite number")
        if number.adjusted() > 50:
            raise ValueError(f"it is out of range (below {limit:f})")
        number = number.quantize(unit, context=_WIDE)
        if number.copy_abs() >= limit:  # abs() would round to 28 digits
            raise ValueError(f"it is out of range (below {limit:f})")
        return number

    return read


def _double(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("it is a boolean")
    try:
        return float(value)
    except ValueError:
        raise ValueError("it is not a number") from None
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _label(value: Any, sql_type: SqlType) -> str:
    if not isinstance(value, str) or value not in sql_type.labels:
        raise ValueError("it is none of " + ", ".join(repr(label) for label in sql_type.labels[:20]))
    return value


def _date(text: str) -> int | None:
    text = text.strip()
    if not _DATE.fullmatch(text):
        return None
    try:
        return dt.date.fromisoformat(text).toordinal() - dt.date(1970, 1, 1).toordinal()
    except ValueError:
        return None


def _time(text: str) -> int | None:
    text = text.strip()
    if not _TIME.fullmatch(text):
        return None
    try:
        at = dt.time.fromisoformat(text)
    except ValueError:
        return None
    return ((at.hour * 60 + at.minute) * 60 + at.second) * 1_000_000 + at.microsecond


def _timestamp_reader(kind: str) -> Callable[[str], int | None] | None:
    """Common forms only; with a zone only when the text says which."""
    if kind == "timestamp with time zone":
        return _timestamp_tz
    if kind == "timestamp_ns":
        return lambda text: None if (found := _timestamp(text)) is None else found * 1000
    unit = _UNITS.get(kind)
    if unit is None:
        return None

    def read(text: str) -> int | None:
        found = _timestamp(text)
        return None if found is None or found % unit else found // unit

    return read


def _timestamp(text: str) -> int | None:
    text = text.strip()
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return (dt.datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    except ValueError:
        return None


def _timestamp_tz(text: str) -> int | None:
    text = text.strip()
    offset = _OFFSET.search(text)
    if offset is None or not _TIMESTAMP.fullmatch(text[: offset.start()]):
        return None
    try:
        return (dt.datetime.fromisoformat(text) - _EPOCH_UTC) // _MICROSECOND
    except ValueError:
        return None


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text.strip()))
    except ValueError:
        raise ValueError("it is not a UUID") from None


def _blob(text: str) -> bytes | None:
    return text.encode() if text.isascii() and "\\" not in text else None


def _cast_value(text: str, sql_type: SqlType, cast: TextCast) -> Any:
    found = cast.cast(text, sql_type.text)
    if sql_type.kind in ("interval", "blob"):
        return found.as_py()
    return found.value  # DATE, TIME, TIMESTAMP: their integers, as infinity has no Python value


# --- nested


def _optional(read: Read) -> Read:
    return lambda value: None if value is None else read(value)


def _list_reader(sql_type: SqlType, cast: TextCast, absent_is_null: bool) -> Read:
    item, size = _optional(reader(sql_type.fields[0][1], cast, absent_is_null)), sql_type.size

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("it is not a list")
        if sql_type.kind == "array" and len(value) != size:
            raise ValueError(f"it has {len(value)} elements, not {size}")
        return [item(element) for element in value]

    return read


def _struct_reader(sql_type: SqlType, cast: TextCast, absent_is_null: bool) -> Read:
    members = {name: _optional(reader(member, cast, absent_is_null)) for name, member in sql_type.fields}

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
        for name in members:
            if name not in value and not absent_is_null:
                raise ValueError(f"field {name!r} is missing")
        for name in value:
            if name not in members:
                raise ValueError(f"field {name!r} is unknown")
        result = {}
        for name, member in members.items():
            try:
                result[name] = member(value.get(name))
            except ValueError as problem:
                raise ValueError(f"field {name!r}: {problem}") from None
        return result

    return read


def _map_reader(sql_type: SqlType, cast: TextCast, absent_is_null: bool) -> Read:
    key, value = (member for _, member in sql_type.fields)
    read_key, item = reader(key, cast), _optional(reader(value, cast, absent_is_null))

    def read(value: Any) -> list[tuple[Any, Any]]:
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
        return [(read_key(name), item(element)) for name, element in value.items()]

    return read

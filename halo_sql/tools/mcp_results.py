"""From an MCP server's result to the JSON text of a SQL type."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.tools.python_results import TooLargeError, WrongResultError, write_json

if TYPE_CHECKING:
    from mcp_types import CallToolResult

_SHOWN = 500
_FROM_JSON = frozenset({"boolean", "struct", "list", "array", "map", "json", "union"})
_NOTHING = object()


def result_json(tool: str, result: CallToolResult, returns: SqlType) -> str:
    """The value of a call. EngineError 'tool' when the server reports an error, 'invalid_output', 'too_large'."""
    texts = _texts(tool, result)
    if result.is_error:
        said = " ".join(" ".join(texts).split())
        raise EngineError(said[:_SHOWN] or f'tool "{tool}" reported an error without saying which', code="tool")
    try:
        return write_json(_value(result.structured_content, texts, returns), returns, lenient=True)
    except TooLargeError as problem:
        raise EngineError(f'the result of tool "{tool}" is too large: {problem}', code="too_large") from None
    except WrongResultError as problem:
        raise EngineError(f'tool "{tool}" returned a wrong value: {problem}', code="invalid_output") from None


def _texts(tool: str, result: CallToolResult) -> list[str]:
    found = []
    for part in result.content:
        text = getattr(part, "text", getattr(getattr(part, "resource", None), "text", None))
        if isinstance(text, str):
            found.append(text)
        elif part.type in ("image", "audio") or (part.type == "resource" and not result.is_error):
            what = "a binary resource" if part.type == "resource" else f"an {part.type}"
            raise EngineError(f'tool "{tool}" returned {what}, which is no SQL value', code="invalid_output")
    return found


def _value(structured: Any, texts: list[str], returns: SqlType) -> Any:
    joined = "\n".join(texts)
    if structured is not None:
        if _is_wrapped(structured, returns):
            structured = structured["result"]
        if returns.kind != "varchar" or isinstance(structured, str | None):
            return structured
        return joined if texts else json.dumps(structured, ensure_ascii=False)
    if not texts:
        return None
    if returns.kind == "varchar":
        return joined
    parsed = _parsed(joined)
    if parsed is _NOTHING and returns.kind == "list":  # some servers send a list as one part an item
        return [text if _parsed(text) is _NOTHING else _parsed(text) for text in texts]
    if parsed is _NOTHING:
        return joined
    if _is_wrapped(parsed, returns):
        return parsed["result"]
    if returns.kind not in _FROM_JSON and not isinstance(parsed, int | float | str | None):
        return joined
    if returns.kind == "list" and not isinstance(parsed, list) and len(texts) == 1:
        return [parsed]
    return parsed


def _is_wrapped(value: Any, returns: SqlType) -> bool:
    """Servers put what is no object into {"result": …}."""
    names = {name.lower() for name, _ in returns.fields} if returns.kind == "struct" else set()
    return isinstance(value, dict) and set(value) == {"result"} and "result" not in names and returns.kind != "map"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING

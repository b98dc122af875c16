"""What a tool is to those who call it: a JSON object of typed arguments in, one JSON value out.

A runner knows how to make one call of one kind of tool. It knows nothing of rows, coalescing, retries, deadlines or
limits: the desk (``desk.py``) stands in front of every runner and sees to these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from halo_sql.catalog.objects import ToolDef
from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A TOOL with its types resolved.

    tool        the definition
    parameters  name and type of each argument, in order
    returns     type of the value; of a tool that returns a table: a LIST of STRUCT
    """

    tool: ToolDef
    parameters: tuple[tuple[str, SqlType], ...]
    returns: SqlType

    @property
    def name(self) -> str:
        """Its name."""
        return self.tool.name

    @property
    def options(self) -> Mapping[str, object]:
        """WITH (…)."""
        return self.tool.options


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call.

    arguments  a JSON object with a member for every parameter, by its name as created; NULL is null
    key        idempotency key of a call with side effects; '' for others
    """

    arguments: str
    key: str = ""


class Runner(Protocol):
    """Makes calls of one tool. All methods run on the session's loop and never block it."""

    async def start(self) -> None:
        """Make ready (idempotent). Raises EngineError('unavailable' | 'auth') with a remedy when it cannot."""
        ...

    async def call(self, request: ToolRequest) -> str:
        """The value as JSON text. Cancelling ends the call, at the tool's side too where that can be done.

        Raises EngineError: 'tool' (the tool says no), 'rejected' (the arguments), 'unavailable', 'auth', 'rate_limit',
        'timeout', 'too_large', 'invalid_output', 'denied'; ``retryable`` when the same call may succeed later.
        """
        ...

    async def close(self) -> None:
        """Release everything; idempotent."""
        ...


class RetryLaterError(EngineError):
    """A retryable failure that says when to try again (``after_s`` seconds from now; HTTP's Retry-After)."""

    def __init__(self, message: str, *, after_s: float, code: str = "rate_limit", remedy: str = "") -> None:
        super().__init__(message, code=code, retryable=True, remedy=remedy)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Limits:
    """What the desk holds a tool's calls to; from WITH (…) and the defaults of its kind.

    timeout_s         deadline of one attempt
    max_retries       attempts after the first, for retryable failures (0 for a tool with side effects)
    concurrency       calls at once
    rate_per_s        calls begun per second at most; 0: no limit
    max_result_bytes  size of the JSON value
    max_rows          rows of a table; 0: no limit
    """

    timeout_s: float = 10.0
    max_retries: int = 2
    concurrency: int = 64
    rate_per_s: float = 0.0
    max_result_bytes: int = 1 << 20
    max_rows: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What runners may need beside the tool itself.

    secret     (name of a SECRET, URL) -> its key; CatalogError when there is none, or when it is for another server
    functions  lower-case name of a tool -> the user's callable (``con.create_tool``)
    """

    secret: Callable[[str, str], str]
    functions: Mapping[str, Any] = field(default_factory=dict)

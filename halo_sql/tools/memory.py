"""Answers of immutable tools that outlive the run: their keys, and looking them up for many calls at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from halo_sql.engines.calls import Asker
from halo_sql.engines.keys import KEY_BYTES, canonical
from halo_sql.engines.lane import leaves
from halo_sql.engines.store import Entry, ResponseStore
from halo_sql.tools.attempt import ToolCall
from halo_sql.tools.lane import Line
from halo_sql.tools.protocol import BoundTool

FORMAT_VERSION = 1  # raise it when the meaning of stored values changes: older ones are then never found
LOOK_UP_AT_ONCE = 2048  # keys per read
#: options that say how a call is made, not what it gives
_MANNERS = frozenset(
    {"timeout_s", "max_retries", "concurrency", "rate_per_s", "max_bytes", "max_rows", "side_effects", "cache"}
)

Found = Sequence[tuple[Line, ToolCall, str | None]]


class ToolKeys:
    """Keys of a tool's calls: everything that fixes what it gives, then the arguments.

    identity  what its runner says of the code behind it; '' when the definition says it all
    """

    __slots__ = ("_prefix",)

    def __init__(self, bound: BoundTool, identity: str = "") -> None:
        tool = bound.tool
        head = canonical(
            {
                "body": tool.body,
                "format": FORMAT_VERSION,
                "identity": identity,
                "kind": tool.kind,
                "method": tool.method,
                "name": tool.name.lower(),
                "options": {key: _plain(value) for key, value in tool.options.items() if key not in _MANNERS},
                "parameters": [[name, sql_type.text] for name, sql_type in bound.parameters],
                "remote": tool.remote,
                "returns": bound.returns.text,
                "what": "tool",  # no key of a model's request begins like this
            }
        )
        self._prefix = blake2b(digest_size=KEY_BYTES)
        self._prefix.update(len(head).to_bytes(8, "big") + head)

    def key(self, arguments: str) -> bytes:
        """The key of the call with these arguments (a JSON object as text)."""
        state = self._prefix.copy()
        state.update(arguments.encode("utf-8", "surrogatepass"))
        return state.digest()


def _plain(value: object) -> object:
    """An option's value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class ToolCache:
    """JSON values by key in a ``ResponseStore``; the keys never meet those of models' answers, so a file may hold both.

    Like the store it never raises for what the disk does: it then finds nothing and keeps nothing.
    """

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def lookup(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The values known for these keys; read beside the loop."""
        return {key: entry.text for key, entry in (await self._store.lookup(keys)).items()}

    def put(self, key: bytes, text: str) -> None:
        """Keep a value; durable within 100 ms."""
        self._store.put_many([(key, Entry(text))])


class LookUps:
    """Looks calls up, those of several loop turns in one read while another is under way.

    found  is told of every call that somebody still waits for, with its value or None
    """

    def __init__(self, cache: ToolCache, found: Callable[[Found], None]) -> None:
        self._cache = cache
        self._found = found
        self._keys: dict[Line, ToolKeys | None] = {}
        self._waiting: list[tuple[Line, ToolCall]] = []
        self._looking: list[tuple[Line, ToolCall]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, line: Line, calls: Sequence[ToolCall]) -> None:
        """Look these up; returns at once."""
        self._waiting += [(line, call) for call in calls]
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look_up())

    def drop(self, channel: Asker) -> None:
        """A channel wants nothing more."""
        for _, call in [*self._waiting, *self._looking]:
            if not call.dropped and leaves(call, channel):
                call.dropped = True

    async def close(self) -> None:
        """Look nothing up any more; idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _look_up(self) -> None:
        try:
            while self._waiting:
                self._looking, self._waiting = self._waiting[:LOOK_UP_AT_ONCE], self._waiting[LOOK_UP_AT_ONCE:]
                for line, call in self._looking:
                    keys = self._keys[line] if line in self._keys else await self._keys_of(line)
                    call.key = None if keys is None else keys.key(call.user)
                values = await self._cache.lookup([call.key for _, call in self._looking if call.key is not None])
                looked, self._looking = self._looking, []
                self._found(
                    [
                        (line, call, None if call.key is None else values.get(call.key))
                        for line, call in looked
                        if not call.dropped
                    ]
                )
        finally:
            self._task = None

    async def _keys_of(self, line: Line) -> ToolKeys | None:
        """The keys of a line's calls; None when its tool cannot start."""
        identity = await line.identity()
        keys = self._keys[line] = None if identity is None else ToolKeys(line.tool, identity)
        return keys

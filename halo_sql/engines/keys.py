"""Keys of requests: 32 bytes that stand for everything an answer depends on.

Two requests have the same key exactly when the same engine would be asked the same thing in the same way. What
the key covers is read off the dataclasses, so a sampling or answer field added later enters it by itself; where it
has its default it stays out, so that what was stored before is still found.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from hashlib import blake2b

from halo_sql.engines.protocol import Answer, Dialogue
from halo_sql.ir.prompt import Sampling

FORMAT_VERSION = 1  # raise it when the meaning of stored answers changes: older ones are then never found
KEY_BYTES = 32
#: Fields of the first key; all others enter only with another value than their default.
_ALWAYS = frozenset({"kind", "schema", "choices", "temperature", "top_p", "max_tokens", "seed", "stop"})
_DIALOGUE = b"\xff"  # no text in UTF-8 begins with it


class RequestKeys:
    """Keys of the requests that differ in nothing but their user message.

    identity   ``EngineInfo.identity``: engine, URL, model, revision, dtype, template
    system     the system message or None (which is not the same as '')
    """

    __slots__ = ("_prefix",)

    def __init__(self, identity: str, system: str | None, sampling: Sampling, answer: Answer) -> None:
        head = canonical(
            {
                "answer": _members(answer),
                "format": FORMAT_VERSION,
                "identity": identity,
                "sampling": _members(sampling),
                "system": system,
            }
        )
        self._prefix = blake2b(digest_size=KEY_BYTES)
        # the length keeps head and user message apart: no pair of them can spell another pair
        self._prefix.update(len(head).to_bytes(8, "big") + head)

    def key(self, user: str) -> bytes:
        """The key of the request with this user message."""
        state = self._prefix.copy()
        if user.__class__ is Dialogue:
            state.update(_DIALOGUE)
        state.update(user.encode("utf-8", "surrogatepass"))
        return state.digest()


def _members(value: Answer | Sampling) -> dict[str, object]:
    found = {item: getattr(value, item.name) for item in fields(value)}
    return {
        item.name: member
        for item, member in found.items()
        if item.name in _ALWAYS or item.default is MISSING or member != item.default
    }


def canonical(value: object) -> bytes:
    """One spelling per value: members by name, integral floats as integers (0, 0.0 and -0.0 decode alike), ASCII."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value

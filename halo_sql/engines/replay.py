"""The replay engine: answers from a recorded file, one JSON object a line.

Keys of a line: ``user`` and ``text`` (required), ``system`` (text or null), ``sampling`` (``temperature``, ``top_p``,
``max_tokens``, ``seed``, ``stop``), ``answer`` (``kind``, ``schema``, ``choices``, ``tools``), ``finish``,
``prompt_tok``, ``prompt_tok_cached``, ``output_tok``. ``user`` is the text of a conversation (``Dialogue``) where it is
one. A line without ``sampling`` and ``answer`` answers its messages whatever the decoding options and the answer's form
are; an exact line goes first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from halo_sql.engines.kinds import ANY, DIMENSIONS, KIND, admitted
from halo_sql.engines.options import Option, resolve
from halo_sql.engines.protocol import (
    Answer,
    Deliver,
    EngineInfo,
    GenRequest,
    GenResult,
    ToolSchema,
    estimate_prompt_tok,
)
from halo_sql.engines.tasks import Shared
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling

OPTIONS: tuple[Option, ...] = (KIND, DIMENSIONS)
Key = tuple[str | None, str, Sampling | None, Answer | None]
_COUNTS = ("prompt_tok", "prompt_tok_cached", "output_tok")


class ReplayEngine:
    """Answers from the file ``source``; a prompt that was not recorded is an error ('rejected'), never a guess.

    The text of a score is a decimal, that of an embedding base64 of little-endian float32. ``options`` are those of
    ``OPTIONS``; CatalogError when they are wrong.
    """

    def __init__(self, source: str, options: Mapping[str, object] | None = None) -> None:
        self._kind: str = resolve("replay", options or {}, OPTIONS)["kind"] or ANY
        self._path = Path(source).expanduser()
        self._recorded: dict[Key, GenResult] = {}
        self._start = Shared(self._load)

    async def start(self) -> EngineInfo:
        """Read the file; EngineError('unavailable') names the file and the line that is wrong."""
        return await self._start.get()

    async def _load(self) -> EngineInfo:
        try:
            content = await asyncio.to_thread(self._path.read_bytes)
        except OSError as problem:
            raise EngineError(
                f"cannot read the recording {self._path}: {problem.strerror}",
                code="unavailable",
                remedy="USING replay takes the path of a JSONL file of recorded answers.",
            ) from None
        self._recorded = await asyncio.to_thread(_parse, self._path, content)
        digest = hashlib.sha256(content).hexdigest()
        return EngineInfo(f"replay|{digest}", window_tok=1 << 30, window_requests=2048, device="cpu", timed=False)

    async def describe(self) -> EngineInfo | None:
        """See ``Engine.describe``: a start costs nothing."""
        return await self.start()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Deliver all answers in one call, before returning."""
        answered = admitted(self._kind, f"the recording {self._path}", requests, deliver)
        deliver([self._answer(request) for request in answered])

    def _answer(self, request: GenRequest) -> GenResult:
        found = self._recorded.get((request.system, request.user, request.sampling, request.answer))
        if found is None:
            found = self._recorded.get((request.system, request.user, None, None))
        if found is not None:
            return replace(found, id=request.id)
        shown = request.user if len(request.user) <= 80 else request.user[:77] + "..."
        error = EngineError(
            f"{self._path} holds no answer for the prompt {shown!r}",
            code="rejected",
            remedy="Record it with the same system message, decoding options and answer form, or ask a live model.",
        )
        return GenResult(request.id, finish="error", error=error)

    def abort(self, ids: Sequence[int]) -> None:
        """Nothing is ever in flight."""

    def count_tok(self, request: GenRequest) -> int:
        """Characters / 4."""
        return estimate_prompt_tok(request)

    async def close(self) -> None:
        """Forget the recording."""
        self._start.cancel()
        self._recorded = {}


def write_recording(path: str | Path, pairs: Iterable[tuple[GenRequest, GenResult]]) -> int:
    """Write the answered pairs as a recording (failed ones are left out); returns their number.

    Atomic: the file appears whole, readable by its owner only, or the old one stays.
    """
    target = Path(path)
    count = 0
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".tmp")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for request, result in pairs:
                if result.error is not None:
                    continue
                answer = asdict(request.answer)
                if not request.answer.tools:
                    del answer["tools"]
                line: dict[str, Any] = {
                    "system": request.system,
                    "user": request.user,
                    "sampling": asdict(request.sampling),
                    "answer": answer,
                    "text": result.text,
                    "finish": result.finish,
                }
                line.update({name: getattr(result, name) for name in _COUNTS})
                file.write(json.dumps(line) + "\n")  # ASCII: lone surrogates survive too
                count += 1
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return count


def _parse(path: Path, content: bytes) -> dict[Key, GenResult]:
    recorded: dict[Key, GenResult] = {}
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            key, result = _entry(json.loads(raw))
            previous = recorded.setdefault(key, result)
        except (ValueError, TypeError, KeyError, RecursionError) as problem:
            raise EngineError(
                f"line {number} of {path} is no recorded answer ({type(problem).__name__}: {problem})",
                code="unavailable",
                remedy='A line is a JSON object with at least the texts "user" and "text".',
            ) from None
        if previous != result:
            raise EngineError(
                f"line {number} of {path} gives another answer to a prompt recorded before",
                code="unavailable",
                remedy="Keep one of the two lines.",
            )
    return recorded


def _entry(line: dict[str, Any]) -> tuple[Key, GenResult]:
    user, text, system = line["user"], line["text"], line.get("system")
    if not (isinstance(user, str) and isinstance(text, str) and isinstance(system, str | None)):
        raise TypeError("user, text and system are texts")
    finish, counts = line.get("finish", "stop"), [line.get(name, 0) for name in _COUNTS]
    if finish not in ("stop", "length") or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("finish is 'stop' or 'length', counts are not negative")
    sampling = answer = None
    if "sampling" in line or "answer" in line:
        given = dict(line.get("sampling") or {})
        sampling = Sampling(**{**given, "stop": tuple(given.get("stop", ()))})
        shape = dict(line.get("answer") or {})
        tools = tuple(ToolSchema(*tool) for tool in shape.get("tools", ()))
        answer = Answer(**{**shape, "choices": tuple(shape.get("choices", ())), "tools": tools})
    return (system, user, sampling, answer), GenResult(0, text, finish, *counts)

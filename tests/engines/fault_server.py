"""A deterministic OpenAI-compatible server on loopback that counts calls and injects faults.

It echoes the user prompt, or answers what the requested form of the answer allows: the first choice that the prompt
contains (else the first), the prompt itself inside {"answer": …} or as JSON. Log-probabilities are those of
``alternatives``, the vector of a text is its length, its number of spaces and 1. Standard library only; as a fixture
(``FaultServer`` runs in a thread of its own) or by hand::

    python tests/engines/fault_server.py --port 8080 --fault '{"action": "status", "status": 500, "times": 3}'
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import contextlib
import json
import struct
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass
class Fault:
    """A rule; the first rule that applies to a call decides about it.

    action       'status' | 'slow' (waits delay_s, then answers) | 'truncate' (half the body, then closes) |
                 'bad_json' | 'model' (names another model) | 'close' (no answer) | 'huge' (9 MB) |
                 'length' (finish_reason) | 'empty' (no content) | 'fewer' (one vector too few) |
                 'infinite' (a vector with Infinity in it) | 'ragged' (vectors of different lengths)
    contains     applies to prompts that hold this text
    after, times skips the first ``after`` calls that match, then applies to ``times`` calls (None: all)
    per_prompt   counts ``after`` and ``times`` for each prompt
    """

    action: str
    contains: str = ""
    after: int = 0
    times: int | None = None
    per_prompt: bool = False
    status: int = 500
    retry_after: str | None = None
    delay_s: float = 0.0
    message: str = "injected fault"
    code: str | None = None
    model: str = "another-model"
    path: str = "/chat/completions"
    seen: collections.Counter[str] = field(default_factory=collections.Counter)

    def applies(self, path: str, prompt: str) -> bool:
        """Whether this call gets the fault; counts it."""
        if not path.endswith(self.path) or self.contains not in prompt:
            return False
        key = prompt if self.per_prompt else ""
        self.seen[key] += 1
        number = self.seen[key] - 1
        return number >= self.after and (self.times is None or number < self.after + self.times)


@dataclass(frozen=True)
class Call:
    """A call as it arrived: monotonic seconds, user prompt (or a line per text), body, headers (lower-case names)."""

    at_s: float
    prompt: str
    body: dict[str, Any]
    headers: dict[str, str]


class FaultServer:
    """The server; also a context manager. ``calls`` are all chat and embedding calls in order of arrival.

    alternatives  what a user prompt's first token may be, or (a list) each token: {token: log-probability}; a prompt
                  that is not in it gets no log-probabilities
    constrained   the same for an answer that is constrained to yes or no: the place where it begins
    steps         the assistant's messages, by the number of them in the conversation (then the last one again); one
                  with ``tool_calls`` is only written where tools may be called
    slots         (number, seconds): that many calls are computed at once, each as long; the others wait
    most          more calls in flight than these are refused (429)
    owned_by      what /models says; 'vllm' holds the whole answer to a response_format, so that no tool is called
    """

    def __init__(
        self,
        faults: list[Fault] | None = None,
        models: tuple[str, ...] = ("test-model",),
        key: str | None = None,
        quota: tuple[int, float] | None = None,
        cached_tok: int = 0,
        port: int = 0,
        alternatives: dict[str, Any] | None = None,
        constrained: dict[str, dict[str, float]] | None = None,
        steps: list[dict[str, Any]] | None = None,
        owned_by: str = "tests",
        slots: tuple[int, float] | None = None,
        most: int | None = None,
    ) -> None:
        self.slots = slots
        self.most = most
        self.steps = steps or []
        self.owned_by = owned_by
        self.alternatives = alternatives or {}
        self.constrained = constrained or {}
        self.faults = list(faults or [])
        self.models = models
        self.key = key
        self.windows = 0  # of the quota, with calls in them
        self.quota = quota  # (calls, seconds): that many in each window, else 429 with the time to its end
        self.cached_tok = cached_tok
        self.port = port
        self._slots = asyncio.Semaphore(0 if slots is None else slots[0])
        self.calls: list[Call] = []
        self.in_flight = self.most_in_flight = 0
        self._window = (0.0, 0)
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> collections.Counter[str]:
        """Chat calls by user prompt."""
        return collections.Counter(call.prompt for call in self.calls)

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(60), "the server starts"
        return self

    @contextlib.asynccontextmanager
    async def on_this_loop(self) -> AsyncIterator[FaultServer]:
        """The server on the running loop, whose clock is its."""
        serving = asyncio.get_running_loop().create_task(self._serve())
        await asyncio.to_thread(self._ready.wait, 10)
        try:
            yield self
        finally:
            self._stop.set()
            await serving

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server stops"
        self._loop.close()

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()
        writers: set[asyncio.StreamWriter] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            writers.add(writer)
            try:
                await self._connection(reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await writer.wait_closed()
                    writers.discard(writer)
                connections.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", self.port, limit=2**24)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for _ in range(3):  # those just accepted begin, so that they are closed, too
            await asyncio.sleep(0)
        for task in list(connections):
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        for _ in range(3):  # the loop closes sockets a turn later
            await asyncio.sleep(0)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                _, path, _ = head[0].split(" ", 2)
                pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
                headers = {name.strip().lower(): value.strip() for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    keep = await self._exchange(path, headers, body, writer)
                finally:
                    self.in_flight -= 1
                if not keep:
                    return

    async def _exchange(self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        data = json.loads(body) if body else {}
        prompt = ""
        if data:
            prompt = "\n".join(data["input"]) if "input" in data else data["messages"][-1]["content"]
            if (problem := _unanswered(data.get("messages", ()))) is not None:
                return await _send(writer, 400, json.dumps({"error": {"message": problem}}).encode())
        if data:
            self.calls.append(Call(time.monotonic(), prompt, data, headers))
        fault = next((fault for fault in self.faults if fault.applies(path, prompt)), None)
        if fault is not None and fault.action == "close":
            return False
        if fault is not None and fault.action == "slow":
            await asyncio.sleep(fault.delay_s)
        if fault is not None and fault.action == "status":
            error = {"message": fault.message, "code": fault.code}
            return await _send(writer, fault.status, json.dumps({"error": error}).encode(), fault.retry_after)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return await _send(writer, 401, json.dumps({"error": {"message": f"wrong key {headers}"}}).encode())
        if path == "/v1/models":
            entries = [
                {"id": name, "object": "model", "max_model_len": 4096, "owned_by": self.owned_by}
                for name in self.models
            ]
            return await _send(writer, 200, json.dumps({"object": "list", "data": entries}).encode())
        if path not in ("/v1/chat/completions", "/v1/embeddings"):
            return await _send(writer, 404, b'{"detail": "no such page"}')
        if self.most is not None and self.in_flight > self.most:
            return await _send(writer, 429, b'{"error": {"message": "too many"}}')
        if self.slots is not None:
            async with self._slots:
                await asyncio.sleep(self.slots[1])
        wait_s = self._over_quota()
        if wait_s is not None:
            return await _send(writer, 429, b'{"error": {"message": "quota"}}', f"{wait_s:.3f}")
        answer = _vectors(data, fault) if "input" in data else self._answer(data, prompt, fault)
        if fault is not None and fault.action == "bad_json":
            answer = answer[: len(answer) // 2]
        if fault is not None and fault.action == "huge":
            answer += b" " * (9 * 2**20)
        return await _send(writer, 200, answer, cut=fault is not None and fault.action == "truncate")

    def _over_quota(self) -> float | None:
        if self.quota is None:
            return None
        limit, seconds = self.quota
        now = time.monotonic()
        start, used = self._window
        if now >= start + seconds:
            start, used = now, 0
            self.windows += 1
        self._window = (start, used + 1)
        return None if used < limit else start + seconds - now

    def _answer(self, data: dict[str, Any], prompt: str, fault: Fault | None) -> bytes:
        action = "" if fault is None else fault.action
        text = _echo(data, prompt)
        message = {"role": "assistant", "content": None if action == "empty" else text}
        finish = "length" if action == "length" else "stop"
        if self.steps and (step := self._step(data)) is not None:
            message |= step
            finish = "tool_calls" if "tool_calls" in step else finish
        prompt_tok = sum(len((item["content"] or "").split()) for item in data["messages"])
        choice = {"index": 0, "message": message, "finish_reason": finish}
        if data.get("logprobs"):
            choice["logprobs"] = self._logprobs(data, prompt)
        answer = {
            "object": "chat.completion",
            "model": fault.model if fault is not None and action == "model" else data["model"],
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt_tok,
                "completion_tokens": len(text.split()),
                "prompt_tokens_details": {"cached_tokens": min(self.cached_tok, prompt_tok)},
            },
        }
        return json.dumps(answer).encode()

    def _step(self, data: dict[str, Any]) -> dict[str, Any] | None:
        number = sum(item["role"] == "assistant" for item in data["messages"])
        step = self.steps[min(number, len(self.steps) - 1)]
        closed = self.owned_by == "vllm" and "response_format" in data
        if "tool_calls" in step and (closed or data.get("tool_choice") != "auto" or not data.get("tools")):
            return None
        return step

    def _logprobs(self, data: dict[str, Any], prompt: str) -> dict[str, Any] | None:
        places: list[dict[str, float]] = []
        if "response_format" in data or "structured_outputs" in data:
            if prompt in self.constrained:
                head = ['{"', "answer", '":', ' "'] if "response_format" in data else []
                places = [*({token: 0.0, "x": -30.0} for token in head), self.constrained[prompt]]
        elif prompt in self.alternatives:
            given = self.alternatives[prompt]
            places = given if isinstance(given, list) else [given]
        content = []
        for place in places:
            pairs = [{"token": token, "logprob": log} for token, log in place.items()]
            content.append({**pairs[0], "top_logprobs": pairs[: data["top_logprobs"]]})
        return {"content": content} if content else None


def _unanswered(messages: Any) -> str | None:
    """What is wrong with a conversation: each call has one result, right behind the message that makes it."""
    waiting: list[str] = []
    for item in messages:
        if item["role"] == "tool":
            if not waiting or item["tool_call_id"] != waiting.pop(0):
                return "a tool message answers no call"
        elif waiting:
            return f"tool calls have no results: {waiting}"
        for call in item.get("tool_calls") or ():
            if not isinstance(json.loads(call["function"]["arguments"]), dict):
                return "arguments are no object"
            waiting.append(call["id"])
    return f"tool calls have no results: {waiting}" if waiting else None


def _vectors(data: dict[str, Any], fault: Fault | None) -> bytes:
    """Vectors in the reverse order of the texts, numbered."""
    action = "" if fault is None else fault.action
    entries = []
    for index, text in enumerate(data["input"]):
        vector = [float(len(text)), float(text.count(" ")), *[1.0] * (data.get("dimensions", 3) - 2)]
        if action == "infinite" or (action == "ragged" and index == 0):
            vector.append(float("inf") if action == "infinite" else 0.0)
        value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        entries.append({"index": index, "embedding": value if data.get("encoding_format") == "base64" else vector})
    entries = entries[::-1][: -1 if action == "fewer" else None]
    words = sum(len(text.split()) for text in data["input"])
    model = fault.model if fault is not None and action == "model" else data["model"]
    return json.dumps({"data": entries, "model": model, "usage": {"prompt_tokens": words}}).encode()


def _echo(data: dict[str, Any], prompt: str) -> str:
    """The answer in the form that the request asks for."""
    vllm = data.get("structured_outputs", {})
    if "choice" in vllm:
        return _first(vllm["choice"], prompt)
    if "response_format" not in data:
        return prompt
    schema = data["response_format"]["json_schema"]["schema"]
    if list(schema.get("properties", {})) != ["answer"]:
        return prompt
    inner = schema["properties"]["answer"]
    if "enum" in inner:
        return json.dumps({"answer": _first(inner["enum"], prompt)})
    return '{"answer": ' + (json.dumps(prompt) if inner.get("type") == "string" else prompt) + "}"


def _first(choices: list[str], prompt: str) -> str:
    return next((choice for choice in choices if choice in prompt), choices[0])


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, retry_after: str | None = None, cut: bool = False
) -> bool:
    head = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", "content-type: application/json"]
    head.append(f"content-length: {len(body)}")
    if retry_after is not None:
        head.append(f"retry-after: {retry_after}")
    writer.write("\r\n".join([*head, "", ""]).encode() + (body[: len(body) // 2] if cut else body))
    await writer.drain()
    return not cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault", action="append", default=[], help="a Fault as JSON; may be given several times")
    parser.add_argument("--key", help="the API key to ask for")
    options = parser.parse_args()
    with FaultServer(
        [Fault(**json.loads(text)) for text in options.fault], key=options.key, port=options.port
    ) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()

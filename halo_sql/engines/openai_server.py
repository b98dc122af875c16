"""The way to an OpenAI-compatible server over HTTP: one client, with the only retry layer there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from halo_sql.clock import clock_s
from halo_sql.engines import openai_wire as wire
from halo_sql.engines.hosted_window import HostedWindow, Sent
from halo_sql.engines.openai_config import OpenAIConfig, is_loopback
from halo_sql.engines.openai_steps import NO_TOOLS_REMEDY, is_about_tools
from halo_sql.engines.retry import Breaker, Gate, OutageError, backoff_s, retry_after_s
from halo_sql.errors import EngineError

if TYPE_CHECKING:
    import httpx

MAX_BODY_BYTES = 8 * 2**20
CONNECT_S = 10.0
MODELS_S = 30.0  # deadline of the question which models there are
_OUTAGE = frozenset({502, 503, 504})
_RETRY = frozenset({408, 409, 425, 429})  # and all from 500


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt failed.

    retry    whether another attempt may succeed
    content  it may be what was sent: one text of several can be at fault
    outage   the server was not reached or is overloaded as a whole (counts for the circuit breaker)
    after_s  how long the server asked to wait
    """

    code: str
    message: str
    retry: bool = False
    content: bool = False
    outage: bool = False
    after_s: float | None = None
    remedy: str = ""


@dataclass(slots=True)
class Exchange:
    """The attempts of one request: how often it was sent, how many of these count against it (probes do not).

    read         what a 200 body is made into, with its tokens as ``tok``; raises Broken or Refused
    most_bytes   a longer body is refused
    holds_place  of the gate
    in_flight    as the window knows it, while an attempt is under way
    """

    path: str
    body: bytes
    read: Callable[[bytes], Any]
    most_bytes: int = MAX_BODY_BYTES
    sent: int = 0
    counted: int = 0
    fault: Fault | None = None  # the last one
    holds_place: bool = True
    in_flight: Sent | None = None


class Server:
    """One server and the model asked of it.

    model   its name for the model; '' until ``connect`` has found the only one
    failed  set when the server is of no use any more (refused credentials, another model): nothing more is sent
    window  how many requests it gets at once
    again   requests that wait to be sent once more
    """

    def __init__(self, config: OpenAIConfig) -> None:
        self.model = config.model or ""
        self.failed: EngineError | None = None
        self._config = config
        self._served: str | None = None  # the model id that the answers name
        self._secrets = [value for value in config.headers.values() if len(value) >= 4]
        self._client: httpx.AsyncClient | None = None
        self.window = HostedWindow(config.concurrency)
        self.again = 0
        self._gate = Gate(self.window, config.timeout_s)
        self._breaker = Breaker(config.timeout_s, probe_s=config.probe_s)

    async def connect(self) -> Mapping[str, Any]:
        """Open the client; the server's entry for the model ({} when it does not list it).

        EngineError 'unavailable' (not reached, no model) or 'auth'.
        """
        import httpx

        config = self._config
        headers = {**config.headers, "content-type": "application/json", "accept-encoding": "identity"}
        key = config.key()
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
            self._secrets.append(key)
        client = self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S),  # the deadline bounds the rest
            limits=httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
            follow_redirects=False,  # never carry the key to another host
            trust_env=not is_loopback(urlsplit(config.url).hostname or ""),  # no proxy for this machine
        )
        try:
            return await self._choose_model()
        except BaseException:
            self._client = None
            await client.aclose()  # the next start reads the key again
            raise

    async def close(self) -> None:
        """Close the connections."""
        self._gate.close()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _choose_model(self) -> Mapping[str, Any]:
        """The entry of /models for our model ({} when the server does not list it); names it if there is only one."""

        def read(body: bytes) -> dict[str, Mapping[str, Any]]:
            try:
                entries = json.loads(body)["data"]
                return {entry["id"]: entry for entry in entries if isinstance(entry["id"], str)}
            except (ValueError, TypeError, KeyError, RecursionError):
                raise wire.Broken("its list of models is not readable") from None

        found: dict[str, Mapping[str, Any]] | Fault
        try:
            async with asyncio.timeout(min(MODELS_S, self._config.timeout_s)):
                for attempt in range(1, self._config.attempts + 1):
                    found = await self._attempt("GET", "/models", None, read)
                    if not (isinstance(found, Fault) and found.outage) or attempt == self._config.attempts:
                        break
                    await asyncio.sleep(backoff_s(self._config.backoff_s, attempt))
        except TimeoutError:
            found = Fault("timeout", self.say("does not answer"), outage=True)
        if isinstance(found, Fault):
            if found.code == "auth":
                raise self._error(found)
            if found.outage:
                remedy = "Check that the server runs and that the URL is right."
                raise EngineError(found.message, code="unavailable", retryable=True, remedy=remedy)
            found = {}  # many gateways have no /models; the first request will tell
        if not self.model:
            if len(found) != 1:
                listed = ", ".join(sorted(found)[:20])
                raise EngineError(
                    self.say(f"serves several models: {listed}" if found else "does not tell which models it serves"),
                    code="unavailable",
                    remedy="Name one: WITH (model = '…').",
                )
            self.model = next(iter(found))
        return found.get(self.model, {})

    async def talk(self, exchange: Exchange) -> tuple[Any, int]:
        """What ``exchange.read`` makes of the answer or the error that came of it, and how often it was sent."""
        outcome: Any = self.failed or await self._enter(0, None)
        if outcome is None:
            timeout_s = self._config.timeout_s
            try:
                async with asyncio.timeout(timeout_s):
                    outcome = await self._attempts(exchange, asyncio.get_running_loop().time() + timeout_s)
            except TimeoutError:
                self._breaker.failure()
                if exchange.in_flight is not None:
                    self.window.overloaded(exchange.in_flight, clock_s())
                    exchange.in_flight = None
                what = f"no answer within timeout_s = {timeout_s:g}"
                what = what if exchange.fault is None else f"{what}; last: {exchange.fault.message}"
                outcome = exchange.fault = Fault("timeout", self.say(what), retry=True)
            except OutageError:
                what = self.say("has been down for longer than timeout_s")
                outcome = exchange.fault = Fault("unavailable", what, retry=True)
            finally:
                if exchange.in_flight is not None:
                    self.window.ended(clock_s())
                if exchange.holds_place:
                    self._gate.leave()
        if isinstance(outcome, Fault):
            error = self._error(outcome)
            if outcome.code == "auth" and self.failed is None:
                self.failed = error
            outcome = self.failed or error
        return outcome, exchange.sent

    async def _attempts(self, exchange: Exchange, deadline: float) -> Any:
        """Send until there is an answer, a fault that no other attempt heals, or no attempt left."""
        config, loop = self._config, asyncio.get_running_loop()
        while True:
            probe = await self._breaker.enter()
            if self.failed is not None:
                return self.failed
            exchange.sent += 1
            exchange.counted += not probe
            exchange.in_flight = self.window.sent(loop.time())
            outcome = await self._attempt("POST", exchange.path, exchange.body, exchange.read, exchange.most_bytes)
            sent, exchange.in_flight = exchange.in_flight, None
            if not isinstance(outcome, Fault):
                self.window.answered(sent, loop.time(), *outcome.tok)
                return outcome
            fault: Fault = outcome
            exchange.fault = fault
            delay_s = backoff_s(config.backoff_s, max(1, exchange.counted)) if fault.after_s is None else fault.after_s
            pause = fault.code == "rate_limit" or fault.after_s is not None
            if fault.retry and pause:
                self.window.refused(sent, loop.time())
                self._gate.pause(delay_s)  # it speaks for all requests, not for this one
            elif fault.outage:
                self.window.overloaded(sent, loop.time())
            else:
                self.window.ended(loop.time())
            if not fault.retry or exchange.counted >= config.attempts or loop.time() + delay_s > deadline:
                return fault
            self._gate.leave()
            exchange.holds_place = False
            self.again += 1
            try:
                if not pause:
                    await asyncio.sleep(delay_s)
                refusal = await self._enter(exchange.sent, deadline)
            finally:
                self.again -= 1
            if refusal is not None:
                return refusal
            exchange.holds_place = True

    async def _enter(self, sent: int, deadline: float | None) -> Fault | None:
        """Wait for a place to send; the reason when there will be none in time."""
        if await self._gate.enter(sent, deadline):
            return None
        return Fault("rate_limit", self.say("asks to wait for longer than timeout_s"), retry=True)

    async def _attempt(
        self,
        method: str,
        path: str,
        body: bytes | None,
        read: Callable[[bytes], Any],
        most_bytes: int = MAX_BODY_BYTES,
    ) -> Any:
        """One exchange: what ``read`` makes of the 200 body, or a Fault. Feeds the breaker."""
        import httpx

        assert self._client is not None, "started"
        data = bytearray()
        try:
            async with self._client.stream(method, self._config.url + path, content=body) as response:
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > most_bytes:
                        return Fault("engine", self.say(f"sent an answer of more than {most_bytes >> 20} MB"))
        except httpx.TransportError as problem:
            self._breaker.failure()
            detail = f"{type(problem).__name__}: {problem}".removesuffix(": ")
            return Fault("unavailable", self.say(f"cannot be reached ({detail})"), retry=True, outage=True)
        except httpx.HTTPError as problem:
            return Fault("engine", self.say(f"sent a broken answer ({type(problem).__name__})"), retry=True)
        if response.status_code != 200:
            fault = self._refusal(response.status_code, bytes(data), response.headers.get("retry-after"))
            if fault.outage:
                self._breaker.failure()
            return fault
        self._breaker.success()
        try:
            return read(bytes(data))
        except wire.Broken as problem:
            return Fault("engine", self.say(str(problem)), retry=True)
        except wire.Refused as problem:
            return Fault("rejected", self.say(str(problem)))

    def _refusal(self, status: int, body: bytes, retry_after: str | None) -> Fault:
        text = self.say(f"answered {status}: {wire.error_text(body)}")
        if status in (401, 403):
            return Fault("auth", text, remedy="Check api_key_env (or api_key) and what the key may use.")
        if status == 429 and wire.error_code(body) == "insufficient_quota":
            return Fault("rate_limit", text, remedy="The account has no quota left.")
        if status in _RETRY or status >= 500:
            code = "rate_limit" if status == 429 else "unavailable" if status in _OUTAGE else "engine"
            return Fault(code, text, retry=True, outage=status in _OUTAGE, after_s=retry_after_s(retry_after))
        if status in (400, 413, 422) and wire.is_context_overflow(body):
            return Fault("context", text, content=True, remedy="Shorten the prompt or lower max_tokens.")
        if status == 404 or status < 400:
            return Fault("rejected", text, remedy="Check the base URL (it usually ends in /v1) and the model's name.")
        remedy = wire.NO_LOGPROBS_REMEDY if "logprobs" in text else NO_TOOLS_REMEDY if is_about_tools(text) else ""
        return Fault("rejected", text, content=status in (400, 413, 422), remedy=remedy)

    def other_model(self, name: str | None) -> EngineError | None:
        """The end of the engine when an answer names another model than the answers before."""
        if name is not None and self._served is None:
            self._served = name
        if name is None or name == self._served:
            return None
        self.failed = EngineError(
            self.say(f"now answers as {name!r}, before as {self._served!r}"),
            remedy="One query is answered by one model. Run it again; finished calls are not repeated.",
        )
        return self.failed

    def say(self, what: str) -> str:
        """An error message: names the server, hides what is secret, one line of bounded length."""
        for secret in self._secrets:
            what = what.replace(secret, "***")
        name = f"{self._config.url} (model {self.model})" if self.model else self._config.url
        return f"server {name} {what}" if len(what) <= 500 else f"server {name} {what[:497]}..."

    def _error(self, fault: Fault) -> EngineError:
        return EngineError(fault.message, code=fault.code, retryable=fault.retry, remedy=fault.remedy)

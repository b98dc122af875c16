"""The openai engine: any OpenAI-compatible server. Chats, scores and vectors; ``openai_server`` carries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from halo_sql.engines import openai_embed as embedding
from halo_sql.engines import openai_score as scoring
from halo_sql.engines import openai_wire as wire
from halo_sql.engines.batches import BatchQueue, halved
from halo_sql.engines.kinds import EMBEDDING, admitted
from halo_sql.engines.openai_config import OPTIONS, check, sources
from halo_sql.engines.openai_server import Exchange, Server
from halo_sql.engines.openai_steps import EXCLUSIVE_SERVERS
from halo_sql.engines.protocol import Deliver, EngineInfo, GenRequest, GenResult, Limit, estimate_prompt_tok
from halo_sql.engines.tasks import Shared, TaskQueue
from halo_sql.engines.vectors import dimensions_of
from halo_sql.errors import EngineError

__all__ = ["OPTIONS", "OpenAIEngine", "check", "sources"]

MAX_VECTORS_BYTES = 128 * 2**20


class OpenAIEngine:
    """One model of an OpenAI-compatible server.

    ``source`` is the base URL (``http://127.0.0.1:8000/v1``), ``options`` those of ``OPTIONS``; CatalogError when
    they are wrong. Each request has one deadline for all its attempts. Refused credentials and a model id that
    changes end the engine: ``failed`` says why and every later request gets that error without being sent.
    """

    def __init__(self, source: str, options: Mapping[str, object]) -> None:
        self._config = check(source, options)
        self._server = Server(self._config)
        concurrency = self._config.concurrency
        self._queue: TaskQueue | BatchQueue = TaskQueue(self._run, concurrency)
        if self._config.kind == EMBEDDING:
            self._queue = BatchQueue(self._embed, concurrency, self._config.batch_size)
        self._calling = self._config.tool_calling
        self._start = Shared(self._connect)

    @property
    def failed(self) -> EngineError | None:
        """Why nothing more is sent; None: it is."""
        return self._server.failed

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._config.url!r}, model={self._server.model!r})"

    async def start(self) -> EngineInfo:
        """Ask the server for its models. EngineError 'unavailable' (not reached, no model) or 'auth'."""
        return await self._start.get()

    async def describe(self) -> EngineInfo | None:
        """See ``Engine.describe``: only the server knows which model it has."""
        return None

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Send as many at once as the server takes (``HostedWindow``), at most ``concurrency``; the rest waits here."""
        who = f"the model of {self._config.url}"
        self._queue.submit(admitted(self._config.kind, who, requests, deliver), deliver)

    def limit(self) -> Limit:
        """See ``Limit``; requests of an embedding model are texts."""
        server, each = self._server, self._config.batch_size if self._config.kind == EMBEDDING else 1
        window = server.window
        return Limit(window.limit * each, window.most * each, server.again * each, window.cuts)

    def abort(self, ids: Sequence[int]) -> None:
        """Close the connections of these requests; servers stop generating when they notice."""
        self._queue.abort(ids)

    def count_tok(self, request: GenRequest) -> int:
        """Characters / 4."""
        return estimate_prompt_tok(request)

    async def close(self) -> None:
        """Abort what is in flight and close the connections."""
        self._start.cancel()
        await self._queue.close()
        await self._server.close()

    async def _connect(self) -> EngineInfo:
        config = self._config
        entry = await self._server.connect()
        length, root = entry.get("max_model_len"), entry.get("root")
        if self._calling == "native" and entry.get("owned_by") in EXCLUSIVE_SERVERS:
            self._calling = "exclusive"
        return EngineInfo(
            config.identity(self._server.model, root if isinstance(root, str) else ""),
            context_tok=length if isinstance(length, int) and length > 0 else 0,
            window_tok=1_000_000,
            window_requests=config.concurrency * (config.batch_size if config.kind == EMBEDDING else 1),
            device=config.url,
        )

    async def _run(self, request: GenRequest) -> GenResult:
        """One chat request with all its attempts, as a result; never raises but for cancellation."""
        if request.answer.kind == "score":
            return await self._score(request)
        config, answer = self._config, request.answer
        body = wire.encode(request, self._server.model, config.structured, config.extra_body, self._calling)
        native = answer.kind == "step" and self._calling != "json"
        read = partial(wire.decode, answer=answer) if native else wire.decode
        outcome, sent = await self._server.talk(Exchange("/chat/completions", body, read))
        if isinstance(outcome, EngineError):
            return GenResult(request.id, finish="error", retries=max(0, sent - 1), error=outcome)
        return self._result(request, outcome, sent - 1)

    async def _score(self, request: GenRequest) -> GenResult:
        """A score: by one free token, else by an answer constrained to yes or no (see ``openai_score``)."""
        total = wire.Reply("", "stop", None)
        attempts = 0
        problem: EngineError | None = None
        for ask, read in scoring.asks(request, self._config.structured):
            body = scoring.encode(ask, self._server.model, self._config.structured, self._config.extra_body)
            outcome, sent = await self._server.talk(Exchange("/chat/completions", body, read))
            attempts += sent
            if isinstance(outcome, EngineError):
                problem = outcome
                break
            found: scoring.Scored = outcome
            total = scoring.added(total, found.reply)
            problem = self._server.other_model(found.reply.model)
            if problem is not None:
                break
            if found.text:
                return self._counted(request, found.text, total, attempts - 1)
            problem = EngineError(self._server.say(found.reason), code=found.code, remedy=found.remedy)
            if not found.again:
                break
        return replace(self._counted(request, "", total, max(0, attempts - 1)), finish="error", error=problem)

    async def _embed(self, requests: Sequence[GenRequest]) -> list[GenResult]:
        """Vectors of many texts in one request; when it is refused for what it holds, of each half on its own."""
        config, texts = self._config, [request.user for request in requests]
        body = embedding.encode(texts, self._server.model, config.dimensions, config.extra_body)
        read = partial(embedding.decode, count=len(texts))
        exchange = Exchange("/embeddings", body, read, MAX_VECTORS_BYTES)
        outcome, sent = await self._server.talk(exchange)
        retries = max(0, sent - 1)
        if not isinstance(outcome, EngineError):
            vectors: embedding.Vectors = outcome
            outcome = self._server.other_model(vectors.model) or self._wrong_length(vectors)
            if outcome is None:
                tok = embedding.shares(texts, vectors.prompt_tok)
                return [
                    GenResult(request.id, text, "stop", count, 0, 0, retries)
                    for request, text, count in zip(requests, vectors.texts, tok, strict=True)
                ]
        elif exchange.fault is not None and exchange.fault.content and len(requests) > 1:
            return await halved(requests, self._embed)
        elif outcome.code == "context":
            outcome = EngineError(outcome.message, code="context", remedy="Shorten the text, e.g. with left(text, n).")
        return [GenResult(request.id, finish="error", retries=retries, error=outcome) for request in requests]

    def _wrong_length(self, vectors: embedding.Vectors) -> EngineError | None:
        wanted, given = self._config.dimensions, dimensions_of(vectors.texts[0])
        if wanted is None or wanted == given:
            return None
        return EngineError(
            self._server.say(f"gives vectors of {given} numbers, the model is defined with dimensions = {wanted}"),
            code="invalid_output",
            fatal=True,
            remedy=f"Create the model WITH (dimensions = {given}), or name a model that can give {wanted}.",
        )

    def _result(self, request: GenRequest, reply: wire.Reply, retries: int) -> GenResult:
        error = self._server.other_model(reply.model)
        if error is not None:
            return GenResult(request.id, finish="error", retries=retries, error=error)
        text = reply.text
        json_step = request.answer.kind != "step" or self._calling == "json"
        if json_step and self._config.structured == "json_schema" and wire.is_wrapped(request.answer):
            text = wire.unwrap(text, request.answer)
        return self._counted(request, text, reply, retries)

    def _counted(self, request: GenRequest, text: str, reply: wire.Reply, retries: int) -> GenResult:
        counts = (reply.prompt_tok, reply.prompt_tok_cached, reply.output_tok, retries)
        return GenResult(request.id, text, reply.finish, *counts)

"""The echo engine: answers with the user prompt itself. Costs nothing, needs nothing, defines what is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from halo_sql.engines.options import Option
from halo_sql.engines.protocol import (
    YES_NO,
    Answer,
    Deliver,
    EngineInfo,
    GenRequest,
    GenResult,
    estimate_tok,
    failure,
)

OPTIONS: tuple[Option, ...] = ()

#: What DuckDB's cast from VARCHAR to BOOLEAN reads, in lower case.
BOOLEANS: Mapping[str, str] = {
    "true": "yes", "t": "yes", "yes": "yes", "y": "yes", "1": "yes",
    "false": "no", "f": "no", "no": "no", "n": "no", "0": "no",
}  # fmt: skip


class EchoEngine:
    """Answers with the user prompt: text and json as it is, yes/no as DuckDB reads a BOOLEAN from it (white space
    around it ignored), another choice as the first one that the prompt contains, several choices as all that it
    contains. Delivers inside ``submit``.
    """

    async def start(self) -> EngineInfo:
        """Always ready."""
        return EngineInfo("echo", window_tok=1 << 30, window_requests=2048, storable=False, device="cpu")

    async def describe(self) -> EngineInfo | None:
        """See ``Engine.describe``: a start costs nothing."""
        return await self.start()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Deliver all answers in one call, before returning."""
        results = []
        for request in requests:
            user, system, answer = request.user, request.system, request.answer
            text = user
            if answer.kind == "choice":
                found = _choose(user, answer)
                if found is None:
                    results.append(_no_choice(request))
                    continue
                text = found
            elif answer.choices:
                text = json.dumps([choice for choice in answer.choices if choice in user], ensure_ascii=False)
            prompt_tok = len(user) // 4 + 1  # estimate_tok, spelled out: this loop is the engine's whole cost
            if system is not None:
                prompt_tok += len(system) // 4 + 1
            results.append(GenResult(request.id, text, "stop", prompt_tok, 0, len(text) // 4 + 1))
        deliver(results)

    def abort(self, ids: Sequence[int]) -> None:
        """Nothing is ever in flight."""

    def count_tok(self, request: GenRequest) -> int:
        """Characters / 4."""
        return estimate_tok(request.user) + (0 if request.system is None else estimate_tok(request.system))

    async def close(self) -> None:
        """Nothing to release."""


def _choose(user: str, answer: Answer) -> str | None:
    if answer.choices == YES_NO.choices:
        return BOOLEANS.get(user.strip().lower())
    return next((choice for choice in answer.choices if choice in user), None)


def _no_choice(request: GenRequest) -> GenResult:
    shown = request.user if len(request.user) <= 80 else request.user[:77] + "..."
    if request.answer.choices == YES_NO.choices:
        message = f"echo cannot read true or false from {shown!r}"
    else:
        message = f"echo finds none of {', '.join(map(repr, request.answer.choices[:10]))} in {shown!r}"
    return failure(request.id, message, "invalid_output")

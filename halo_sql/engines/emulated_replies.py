"""What an emulated model answers: as a function of the user's does, or as echo."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.protocol import GenRequest, GenResult, failure
from halo_sql.engines.python import function_name, messages_of, read_answer


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a function of which is known how many tokens it took, its end included."""

    text: str
    output_tok: int


class Replies:
    """Answers of one model; ``function`` as of the python engine, but plain, None: echo's."""

    def __init__(self, function: Callable[..., object] | None) -> None:
        self.function = function
        self.name = "echo" if function is None else function_name(function)
        self._echo = EchoEngine()

    def reply(self, request: GenRequest) -> str | Reply | GenResult:
        """The answer, or the failure of what is none."""
        if self.function is None:
            found: list[GenResult] = []
            self._echo.submit([request], found.extend)
            return found[0].text if found[0].error is None else found[0]
        try:
            answer = self.function(messages_of(request))
        except Exception as problem:
            message = f"{self.name} raised {type(problem).__name__}: {problem}"
            return failure(request.id, message, "engine")
        if inspect.iscoroutine(answer):
            answer.close()
            message = f"{self.name} is a coroutine function: an emulated model takes a plain one"
            return failure(request.id, message, "engine")
        return answer if isinstance(answer, Reply) else read_answer(self.name, request, answer)


def most_tok(request: GenRequest) -> int:
    """The most tokens that an answer may take."""
    return 1 if request.answer.kind == "score" else request.sampling.max_tokens

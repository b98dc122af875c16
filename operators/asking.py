"""One LLM call of a running node: its channel, the answers that came, the rows that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from halo_sql.agents.assemble import agent_key
from halo_sql.engines.protocol import Channel, ChannelSpec, Outcome
from halo_sql.errors import EngineError
from halo_sql.ir.call_key import call_key
from halo_sql.ir.prompt import LlmCall
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.context import RunContext
from halo_sql.operators.convert import Converter, answer_form
from halo_sql.operators.readahead import gather_all
from halo_sql.operators.render import Renderer
from halo_sql.operators.text_cast import TextCast

#: Errors that end the query whatever on_error says: every other row would meet them, or the user set the limit.
ENDING = frozenset({"auth", "budget", "cancelled"})
#: A smaller lookahead means that a LIMIT waits for the first rows: requests are then sent in row order.
ORDERED_FROM_ROWS = 1024


def channel_spec(call: LlmCall, ordered: bool = True) -> ChannelSpec:
    """What all requests of a call have in common."""
    if call.kind in ("tool", "agent"):
        key = agent_key(call.target, call.prompt.system, bool(call.prompt.columns()))
        return ChannelSpec(
            model=call.model,
            system=call.prompt.system,
            sampling=call.sampling,
            cache=call.cache,
            priority=call.priority,
            ordered=ordered,
            row_form=call.row_form,
            tool=call.target if call.kind == "tool" else "",
            agent=key if call.kind == "agent" else "",
        )
    return ChannelSpec(
        model=call.model,
        system=call.prompt.system,
        sampling=call.sampling,
        answer=answer_form(call),
        cache=call.cache,
        priority=call.priority,
        ordered=ordered,
        learn=call_key(call),
    )


def ends_at_once(error: EngineError) -> bool:
    """Whether an error ends the query whatever on_error says, and whichever row met it."""
    return error.fatal or error.code in ENDING


class _Pending:
    """The place of an answer that has not come."""


PENDING: Final = _Pending()


class Asking:
    """Answers of one call, for rows ``first … first + len`` of the rows in the window.

    notify   called when answers have come
    failure  (row, error) of the earliest row known that ends the query at once
    keeps    failures of single rows are kept in ``failed`` (row -> error) until their rows leave
    broken   the model cannot start (with ``keeps``): every row that asks it fails
    """

    def __init__(
        self, call: LlmCall, distinct: bool, metrics: NodeMetrics, notify: Callable[[], None], cast: TextCast
    ) -> None:
        self.call = call
        self.failure: tuple[int, EngineError] | None = None
        self.keeps = False
        self.failed: dict[int, EngineError] = {}
        self.broken: EngineError | None = None
        self.channel: Channel | None = None
        self._renderer = Renderer(call)
        self._converter = Converter(call, cast)
        self._metrics = metrics
        self._notify = notify
        self._grouped = distinct and call.deterministic
        self._twins: dict[int, list[int]] = {}  # row that asks -> rows with the same prompt
        self._answers: list[str | _Pending | None] = []
        self._errors: dict[int, EngineError] = {}
        self._first = 0  # number of the row at _answers[0]
        self._pending = 0
        self._done = 0  # leading answers known to have come

    # --- asking

    def admit(self, chunk: Any, first: int) -> list[tuple[int, str]]:
        """Take the next rows in; the requests they need."""
        prompts: list[str | None]
        if self._grouped:
            prompts, places = self._renderer.distinct(chunk)
            if len(prompts) < chunk.num_rows:
                return self._admit_groups(prompts, places, first)
        else:
            prompts = self._renderer.prompts(chunk)
        if None in prompts:
            self._await([prompt is not None for prompt in prompts])
        else:
            self._await([True] * len(prompts))
        return [(row, prompt) for row, prompt in enumerate(prompts, first) if prompt is not None]

    def _await(self, asked: Sequence[bool]) -> None:
        """The next rows wait for an answer where one is asked; the others are NULL."""
        self._answers.extend(PENDING if wanted else None for wanted in asked)
        self._pending += sum(asked)

    def _admit_groups(self, prompts: list[str | None], places: list[int], first: int) -> list[tuple[int, str]]:
        """One request per distinct prompt; ``places`` says which is each row's."""
        leaders: list[int | None] = [None] * len(prompts)
        requests = []
        for row, place in enumerate(places, first):
            prompt = prompts[place]
            if prompt is None:
                self._answers.append(None)
                continue
            self._answers.append(PENDING)
            self._pending += 1
            leader = leaders[place]
            if leader is None:
                leaders[place] = row
                requests.append((row, prompt))
            else:
                self._twins.setdefault(leader, []).append(row)
                if self.call.kind == "tool":
                    self._metrics.tool_calls_coalesced += 1
                else:
                    self._metrics.llm_calls_coalesced += 1
        return requests

    def put(self, requests: Sequence[tuple[int, str]]) -> None:
        """Send what ``admit`` gave; the channel is open."""
        if requests:
            assert self.channel is not None
            self.channel.put(requests)

    def refuse(self, requests: Sequence[tuple[int, str]]) -> None:
        """What ``admit`` gave fails: the model is broken."""
        if requests:
            self._metrics.errors += len(requests)
            self._deliver([(row, Outcome(error=self.broken)) for row, _ in requests])

    async def open(self, lookahead: int, ctx: RunContext) -> None:
        """Open the channel once; EngineError('unavailable') when the model cannot start."""
        if self.channel is not None or self.broken is not None:
            return
        call = self.call
        spec = channel_spec(call, ordered=lookahead >= ORDERED_FROM_ROWS)
        try:
            self.channel = await ctx.channels.open(spec, self._converter.validate, self._metrics, self._deliver)
        except EngineError as problem:
            problem.span = problem.span or call.span
            if not self.keeps or call.on_error != "fail" or ends_at_once(problem):
                raise
            self.broken = problem

    async def close(self) -> None:
        """Nothing more is wanted."""
        if self.channel is not None:
            await self.channel.close()

    # --- answers

    @property
    def unfinished(self) -> int:
        """Rows that wait for an answer."""
        return self._pending

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        answers, first, twins = self._answers, self._first, self._twins
        for row, outcome in outcomes:
            if outcome.error is None:
                answers[row - first] = outcome.text
            else:
                self._fail(row, outcome.error)
            if twins:
                self._answer_twins(row, outcome)
        self._pending -= len(outcomes)
        self._notify()

    def _answer_twins(self, row: int, outcome: Outcome) -> None:
        for twin in self._twins.pop(row, ()):
            self._pending -= 1
            if outcome.error is None:
                self._answers[twin - self._first] = outcome.text
            else:
                self._metrics.errors += 1
                self._fail(twin, outcome.error)

    def _fail(self, row: int, error: EngineError) -> None:
        self._answers[row - self._first] = None
        fails = self.call.on_error == "fail"
        if ends_at_once(error) or (fails and not self.keeps):
            if self.failure is None or row < self.failure[0]:
                self.failure = (row, error)
        elif fails:
            self.failed[row] = error
        else:
            self._errors[row] = error

    def ready(self) -> int:
        """How many leading rows are finished."""
        answers = self._answers
        if not self._pending:
            return len(answers)
        done, end = self._done, len(answers)
        while done < end and answers[done] is not PENDING:
            done += 1
        self._done = done
        return done

    def take(self, rows: int) -> tuple[list[str | None], dict[int, str]]:
        """The answers and error messages of the next ``rows`` rows (finished), by place; they are forgotten here."""
        texts: list[Any] = self._answers[:rows]
        del self._answers[:rows]
        errors: dict[int, str] = {}
        if self._errors:
            for row in range(self._first, self._first + rows):
                error = self._errors.pop(row, None)
                if error is not None:
                    errors[row - self._first] = error.message
        self._first += rows
        self._done = max(0, self._done - rows)
        return texts, errors


async def open_channels(askings: Sequence[Asking], lookahead: int, ctx: RunContext) -> None:
    """Open the channels of a node together: models start side by side."""
    closed = [asking for asking in askings if asking.channel is None]
    if closed:
        await gather_all([asking.open(lookahead, ctx) for asking in closed])

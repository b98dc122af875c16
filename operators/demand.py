"""A query with calls in its text: rounds of running it and asking what it missed, until nothing is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from halo_sql.duck import Duck, batches
from halo_sql.engines.protocol import Channel, Outcome
from halo_sql.errors import EngineError, Error, InterruptedQueryError, OperationalError
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.logical import DemandPart, Fragment, GoOn, InputRef
from halo_sql.ir.physical import DemandExec, Input, PhysicalNode, batch_name
from halo_sql.ir.prompt import Hole, Prompt
from halo_sql.ir.sql import input_text
from halo_sql.ir.walk import call_type
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking import ENDING, channel_spec
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.demand_lookup import Lookup, Lookups, carrier
from halo_sql.operators.duck_fragment import fragment_sql
from halo_sql.operators.folding import Folding
from halo_sql.operators.llm_rows import answered, call_failure
from halo_sql.operators.readahead import gather_all
from halo_sql.operators.spool import Spool, fill, new_spool
from halo_sql.operators.temp_table import drop_all, load

#: Rounds in which a call may miss answers again after it was asked, outside a recursion: more mean that its prompts
#: change from run to run.
SETTLING_ROUNDS = 4


async def demand(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The rows of the node's query over its inputs, or what its statement gives once all answers are there.

    Raises EngineError for a failing call with on_error 'fail', OperationalError for prompts that never settle.
    """
    op = node.op
    assert isinstance(op, DemandExec)
    await ctx.prepare()
    main, duck, metrics = ctx.main, ctx.duck, ctx.node_metrics(node.id)
    names = [ctx.temp_name() for _ in inputs]
    columns = ctx.input_columns(node)
    spools = await gather_all([fill(new_spool(ctx), source) for source in inputs])
    lookups = Lookups(op.asks, [call_type(ask.call) for ask in op.asks], ctx.temp_name(), ctx.text_cast)
    leaves = tuple(Input(place, each) for place, each in enumerate(columns))

    def text(parts: Sequence[DemandPart]) -> str:
        tree: Any = Fragment(tuple(_spelled(part, lookups) for part in parts), op.columns, leaves)  # type: ignore[arg-type]
        return fragment_sql(tree, op.columns, names)

    statement = "".join(_flat(part, lookups, names) for part in op.write)
    query = "".join(_flat(part, lookups, names) for part in op.parts) if statement else text(op.parts)
    asking = _Asking(lookups, metrics, ctx)
    before: list[set[str]] | None = None
    async with main.gate:
        whole = _Transaction(duck, bool(statement) or op.pinned)
        try:
            for name, each, spool in zip(names, columns, spools, strict=True):
                await main.call(partial(load, duck, name, each, spool.batches(), spool.schema), metrics)
                spool.close()
            await main.call(partial(lookups.register, duck), metrics)
            while True:
                await main.call(whole.begin, metrics)
                lookups.begin_round()
                result = new_spool(ctx)
                problem = await main.call(partial(_round, duck, query, result), metrics)
                missed = lookups.missed()
                if not missed:
                    break
                result.close()
                if op.unsteady and asking.is_fresh:
                    prompts = [set(lookup.missing) for lookup in lookups.all]
                    if before is None:
                        before = prompts
                        continue
                    _check_settled(missed, before, prompts, lookups)
                if statement:  # no transaction that will write stays open while models think
                    await main.call(whole.rollback, metrics)
                with ctx.lending():
                    await asking.ask(missed)
            if problem is not None:
                raise problem
            if statement:
                # the rows are those of the round before: what DuckDB computes beyond them it throws away
                result.close()
                result = new_spool(ctx)
                await main.call(partial(_write, duck, statement, op.columns, result), metrics)
            await main.call(whole.commit, metrics)
        finally:
            await asking.close()
            await main.call(partial(_clean, duck, lookups, names, whole))
    for batch in result.batches():  # the connection is free for others
        yield batch
    result.close()


def _check_settled(
    missed: Sequence[Lookup], before: Sequence[set[str]], after: Sequence[set[str]], lookups: Lookups
) -> None:
    """OperationalError when two runs of the text ask different things."""
    for lookup in missed:
        place = lookups.all.index(lookup)
        if before[place] != after[place]:
            raise _unsettled(lookup)


def _unsettled(lookup: Lookup) -> OperationalError:
    call = lookup.ask.call
    return OperationalError(
        f"{call.label}: its prompts are others each time the query runs",
        kind="Invalid Input Error",
        span=call.span,
        remedy="Compute what is random, or changes, in a table first, and call over that.",
    )


def _spelled(part: DemandPart, lookups: Lookups) -> str | InputRef:
    """A part as a fragment's: calls as functions."""
    return part if isinstance(part, InputRef) else _flat(part, lookups, ())


def _flat(part: DemandPart, lookups: Lookups, names: Sequence[str]) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, GoOn):
        return f"{lookups.go_on}(1)"
    if isinstance(part, InputRef):
        assert names, "a call's arguments hold no relation"
        return input_text(part, names[part.index])
    lookup = lookups.all[part.index]
    arguments = ", ".join("".join(_flat(piece, lookups, names) for piece in each) for each in part.arguments)
    found = f"{lookup.name}({arguments or repr('')})"
    return f"CAST({found} AS {lookup.type.text})" if carrier(lookup.type) != lookup.type.text else found


def _round(duck: Duck, query: str, result: Spool) -> Error | None:
    """Run the text; its rows go to ``result``. An error may be the doing of answers that are not there yet."""
    try:
        for batch in batches(duck.stream(query)):
            if batch.num_rows:
                result.append(batch)
        result.finish()
    except InterruptedQueryError:
        raise
    except Error as problem:
        return problem
    finally:
        duck.release()
    return None


def _write(duck: Duck, statement: str, columns: Sequence[Column], result: Spool) -> None:
    """Run the statement that writes; the rows it gives (of RETURNING, or one count) go to ``result``."""
    import pyarrow as pa

    names = [batch_name(column.id) for column in columns]
    for batch in batches(duck.stream(statement)):
        fields = [field.with_name(name) for field, name in zip(batch.schema, names, strict=True)]
        result.append(pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(fields)))
    result.finish()


class _Transaction:
    """A transaction around rounds that must see the same, unless the user has begun one."""

    def __init__(self, duck: Duck, wanted: bool) -> None:
        self._duck = duck
        self._wanted = wanted
        self._own = False

    def begin(self) -> None:
        """Begin it, if it is wanted and not there."""
        if self._wanted and not self._own and not self._duck.in_transaction():
            self._duck.execute("BEGIN TRANSACTION")
            self._own = True

    def commit(self) -> None:
        """Make it last."""
        if self._own:
            self._own = False
            self._duck.execute("COMMIT")

    def rollback(self) -> None:
        """As if nothing had been; also after an error."""
        if self._own:
            self._own = False
            with suppress(Error):
                self._duck.execute("ROLLBACK")


def _clean(duck: Duck, lookups: Lookups, names: Sequence[str], whole: _Transaction) -> None:
    duck.release()
    whole.rollback()
    drop_all(duck, names)
    lookups.unregister(duck)


class _Asking:
    """Asks what rounds missed: one channel per call, opened when first needed."""

    def __init__(self, lookups: Lookups, metrics: NodeMetrics, ctx: RunContext) -> None:
        self._metrics = metrics
        self._ctx = ctx
        self._channels: dict[str, Channel] = {}
        self._waiting: dict[str, tuple[list[str], dict[str, Outcome]]] = {}  # function -> (prompts, outcomes)
        self._came = asyncio.Event()
        self._rounds: dict[str, int] = {}

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has been asked yet."""
        return not self._rounds

    async def ask(self, missed: Sequence[Lookup]) -> None:
        """Ask all prompts the calls missed, wait for the answers, hand them over.

        Raises the EngineError of the first failing prompt when its call says on_error 'fail'.
        """
        folds = [lookup for lookup in missed if lookup.hole is not None]
        for lookup, outcomes in zip(folds, await gather_all([self._fold(each) for each in folds]), strict=True):
            lookup.learn(outcomes)
        missed = [lookup for lookup in missed if lookup.hole is None]
        await gather_all([self._open(lookup) for lookup in missed])
        for lookup in missed:
            self._count(lookup)
            prompts = list(lookup.missing)
            self._waiting[lookup.name] = (prompts, {})
            self._metrics.rows_total += len(prompts)
            self._channels[lookup.name].put(list(enumerate(prompts)))
        for lookup in missed:
            prompts, outcomes = self._waiting[lookup.name]
            while len(outcomes) < len(prompts):
                self._came.clear()
                _raise_first(lookup, prompts, outcomes)
                await self._came.wait()
            _raise_first(lookup, prompts, outcomes)
            lookup.learn(outcomes)

    async def _fold(self, lookup: Lookup) -> dict[str, Outcome]:
        """The answers of a call over groups, as ``llm_reduce`` gets them."""
        import pyarrow as pa

        self._count(lookup)
        call, hole = lookup.ask.call, lookup.hole
        assert hole is not None
        prompts = list(lookup.missing)
        groups = [lookup.groups[prompt] for prompt in prompts]
        heads = pa.array([head for head, _ in groups], pa.string())
        items = pa.array([values.to_pylist() for _, values in groups], pa.list_(pa.string()))
        batch = pa.RecordBatch.from_arrays([heads, items], names=["c0", "c1"])
        user = (Hole(ColumnId(0)), replace(hole, column=ColumnId(1)))
        over = replace(call, prompt=Prompt(user, call.prompt.system), guard=None)
        outcomes: dict[str, Outcome] = {}
        rows = answered([over], False, len(prompts), _once(batch), self._metrics, self._ctx, Folding)
        async with aclosing(rows) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                for row, text in enumerate(piece.texts[0]):
                    failed = EngineError(piece.errors[0].get(row, "no answer"))
                    outcomes[prompts[len(outcomes)]] = Outcome(error=failed) if text is None else Outcome(text)
        return outcomes

    def _count(self, lookup: Lookup) -> None:
        """Rounds of one call; OperationalError past the limit."""
        rounds = self._rounds[lookup.name] = self._rounds.get(lookup.name, 0) + 1
        call = lookup.ask.call
        if lookup.ask.recursive:
            if rounds > self._ctx.max_recursion:
                raise OperationalError(
                    f"{call.label}: the recursion asked {self._ctx.max_recursion} times and has not ended",
                    kind="Invalid Input Error",
                    span=call.span,
                    remedy="End it with a condition, or SET halo_max_recursion to more.",
                )
        elif rounds > SETTLING_ROUNDS:
            raise _unsettled(lookup)

    async def _open(self, lookup: Lookup) -> None:
        if lookup.name in self._channels:
            return
        call = lookup.ask.call

        def deliver(outcomes: Sequence[tuple[int, Outcome]]) -> None:
            prompts, found = self._waiting[lookup.name]
            for place, outcome in outcomes:
                found[prompts[place]] = outcome
            self._came.set()

        try:
            self._channels[lookup.name] = await self._ctx.channels.open(
                channel_spec(call), lookup.converter.validate, self._metrics, deliver
            )
        except EngineError as problem:
            problem.span = problem.span or call.span
            raise

    async def close(self) -> None:
        """Nothing more is wanted."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


async def _once(batch: Any) -> AsyncGenerator[Any]:
    yield batch


def _raise_first(lookup: Lookup, prompts: Sequence[str], outcomes: dict[str, Outcome]) -> None:
    """The first failure that ends the query, in the order of the prompts."""
    call = lookup.ask.call
    for prompt in prompts:
        outcome = outcomes.get(prompt)
        error = None if outcome is None else outcome.error
        if error is not None and (call.on_error == "fail" or error.fatal or error.code in ENDING):
            raise call_failure(call, prompt, error)

"""What must hold for every statement. Each property gives '' or a sentence about what differs.

All of them raise NotSupportedError for a statement that is refused, and InvalidError for one that DuckDB refuses in
its plain reading, too.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random

import halo_sql
from halo_sql.optimizer.pipeline import ROW_GRAPH
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.rule import Stage
from halo_sql.optimizer.share_subplans import SHARE_SUBPLANS

from .checks import Outcome, difference, name_difference, run
from .pairs import hole, pair
from .queries import Generator, Query

#: the rules that can be disabled, and of these the ones whose alternatives the cost model chooses from
FREE = (*(rule.name for rule in RULES if not rule.essential), SHARE_SUBPLANS, ROW_GRAPH)
EXPLORE = tuple(rule.name for rule in RULES if rule.stage is Stage.EXPLORE)
CONCURRENCY = (1, 8, 64)
BATCH_ROWS = (1, 3, 2048)
#: words of queries whose rows DuckDB may give in any order
UNORDERED = (" JOIN ", ", (SELECT", "GROUP BY", "DISTINCT", " UNION ", " EXCEPT ", " INTERSECT ", "OVER (")


class InvalidError(Exception):
    """The statement means nothing to DuckDB."""


@contextmanager
def setting(con: halo_sql.Connection, name: str, value: object) -> Iterator[None]:
    """A setting for a while."""
    con.execute(f"SET halo_{name} = '{value}'")
    try:
        yield
    finally:
        con.execute(f"RESET halo_{name}")


def equation(con: halo_sql.Connection, query: Query) -> str:
    """The defining equation: the rows, names and types of the plain reading."""
    expected = run(con, query.sql.plain)
    found = run(con, query.sql.halo)
    _both_valid(expected, found)
    return difference(found, expected, query.ordered) or name_difference(query, found, expected)


def stored(con: halo_sql.Connection, query: Query) -> str:
    """The same through CREATE TABLE AS and INSERT … SELECT."""
    names = ", ".join(column.name for column in query.columns)
    kept = []
    for text in (query.sql.plain, query.sql.halo):
        made = run(con, f"CREATE OR REPLACE TABLE made AS {text}")
        table = run(con, "SELECT * FROM made")
        inserted = run(con, f"INSERT INTO made ({names}) {text}") if not made.error else made
        twice = run(con, "SELECT * FROM made")
        kept.append((made, table, inserted, twice))
    _both_valid(kept[0][0], kept[1][0])
    for expected, found in zip(*kept, strict=True):
        problem = difference(found, expected, ordered=False)
        if problem:
            return problem
    return ""


def _both_valid(expected: Outcome, found: Outcome) -> None:
    if expected.error:
        assert found.error, f"{found} where DuckDB says {expected.error}"
        assert "InternalError" not in found.error, found.error
        raise InvalidError(expected.error)


def norec(con: halo_sql.Connection, query: Query, counted: bool = True, tally: Counter[str] | None = None) -> str:
    """Optimised, unoptimised, without the rules that choose by estimates, and without each rule: equal rows, and where
    ``counted`` without the rules that choose no more calls than as written (a prompt that fails is asked again by the
    next operator that has it).

    A rule that did not fire makes no difference when it is off, and a plan that has been run gives the same rows again:
    such variants are not run. ``tally`` adds up plans, runs and calls.
    """
    told: Counter[str] = Counter() if tally is None else tally
    with setting(con, "optimizer", "off"):
        written = run(con, query.sql.halo)
    if written.error:
        raise InvalidError(written.error)
    bound, snapshot = con.session.queries.bind(query.sql.halo, None)
    seen: list[tuple[object, int]] = []  # a plan's operators, its calls
    fired: list[str] = []
    calls: dict[str, int] = {}  # rules that are off -> calls
    variants = ["", ",".join(EXPLORE)]
    for names in variants:
        with setting(con, "disabled_rules", names):
            planned = con.session.queries.optimize(bound, snapshot)
            plan = [(node.op, node.inputs, node.columns) for node in planned.dag.nodes]
            if not names:
                fired = [rule.name for rule in planned.trace.rules if rule.fired and rule.name in FREE]
                variants += [*fired, SHARE_SUBPLANS]
            told["plans"] += 1
            known = next((made for same, made in seen if same == plan), None)
            if known is not None:
                calls[names] = known
                continue
            found = run(con, query.sql.halo)
        told["runs"] += 1
        calls[names] = found.calls
        seen.append((plan, found.calls))
        problem = difference(found, written, query.ordered)
        if not problem and counted and names == variants[1] and found.calls > written.calls:
            problem = f"{found.calls} calls instead of {written.calls}"
        if problem:
            return f"without {names or 'nothing'}: {problem}"
    told["statements"] += 1
    told["calls as written"] += written.calls
    told["calls"] += calls[""]
    told["calls without a choice"] += calls[variants[1]]
    told["fewer calls"] += calls[""] < written.calls
    if calls[""] > written.calls:
        told["more calls"] += 1
        told["calls too many"] += calls[""] - written.calls
        for name in fired:
            told[f"more calls by {name}"] += name in EXPLORE and calls[name] < calls[""]
    return ""


def doubled(con: halo_sql.Connection, query: Query) -> str:
    """The statement's rows twice, by two equal parts of one statement: run once, run twice, and as written; run once it
    makes no more calls."""
    text = f"SELECT * FROM ({query.sql.halo}) UNION ALL SELECT * FROM ({query.sql.halo})"
    with setting(con, "optimizer", "off"):
        written = run(con, text)
    if written.error:
        raise InvalidError(written.error)
    with setting(con, "disabled_rules", SHARE_SUBPLANS):
        apart = run(con, text)
    found = run(con, text)
    problem = difference(apart, written, False) or difference(found, written, False)
    return problem or (f"{found.calls} calls instead of {apart.calls}" if found.calls > apart.calls else "")


KEEP = "Keep? "


class Strict:
    """A model that repeats prompts, and answers yes or no to those that begin with KEEP. While it records it remembers
    them; afterwards it fails for all others.

    The fields of an object may come in another order: a prompt is known by its letters.
    """

    def __init__(self) -> None:
        self.recording = False
        self._known: set[tuple[str, ...]] = set()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Forget what is known and remember what is asked meanwhile."""
        self._known.clear()
        self.recording = True
        try:
            yield
        finally:
            self.recording = False

    def __call__(self, messages: list[dict[str, str]]) -> str:
        prompt = messages[-1]["content"]
        key = (*(message["content"] for message in messages[:-1]), "".join(sorted(prompt)))
        if self.recording:
            self._known.add(key)
        elif key not in self._known:
            raise ValueError(f"{prompt!r} is not asked as written")
        if prompt.startswith(KEEP):
            return "yes" if zlib.crc32(prompt.encode()) % 3 else "no"
        return prompt


def priced(generator: Generator, rng: Random) -> Query:
    """A query with prompts of very different lengths; of every other one all rows meet three LLM filters."""
    draw = generator.draw
    draw.lengths = True
    if rng.randrange(2):
        return generator.query()
    source = generator.source()
    columns = [source.scope[rng.randrange(len(source.scope))] for _ in range(3)]
    conditions = [f"LLM_FILTER('{KEEP}{hole(pair(column.ref))}'{draw.options})" for column in columns]
    items = ", ".join(dict.fromkeys(column.ref for column in source.scope))
    generator.text = f"SELECT {items} FROM {source.sql.halo} WHERE {' AND '.join(conditions)}"
    return Query(pair(generator.text), source.scope)


def unwritten(con: halo_sql.Connection, model: Strict, query: Query, rng: Random) -> str:
    """Optimised, whatever order is taken, no call ends the statement that the statement as written does not make."""
    with setting(con, "optimizer", "off"), model.recorded():
        written = run(con, query.sql.halo)
    if written.error:
        raise InvalidError(written.error)
    for name in ("", EXPLORE[rng.randrange(len(EXPLORE))]):
        with setting(con, "disabled_rules", name):
            problem = difference(run(con, query.sql.halo), written, query.ordered)
        if problem:
            return f"without {name or 'nothing'}: {problem}"
    return ""


def partition(con: halo_sql.Connection, generator: Generator) -> str:
    """Ternary logic: p, NOT p and p IS NULL part the rows; WHERE p keeps the rows where p is TRUE."""
    source = generator.source()
    condition = generator.condition(source.scope).halo
    items = ", ".join(dict.fromkeys(column.ref for column in source.scope))
    head = f"SELECT {items} FROM {source.sql.halo}"
    whole = run(con, head)
    if whole.error:
        raise InvalidError(whole.error)
    parts = [run(con, f"{head} WHERE {form}") for form in (condition, f"NOT {condition}", f"({condition}) IS NULL")]
    if any("Malformed JSON" in part.error for part in parts):  # nonsense where an object hole was repeated
        raise InvalidError(parts[0].error)
    union = Outcome(whole.names, whole.types, tuple(row for part in parts for row in part.rows), error=parts[0].error)
    problem = next((part.error for part in parts if part.error), "") or difference(union, whole, ordered=False)
    if not problem:
        values = Counter(run(con, f"SELECT {condition} FROM {source.sql.halo}").rows)
        counted = [values["(True,)"], values["(False,)"], values["(None,)"]]
        if counted != [len(part.rows) for part in parts]:
            problem = f"{counted} values TRUE, FALSE, NULL, but {[len(part.rows) for part in parts]} rows"
    return f"{problem}\n{head} WHERE {condition}" if problem else ""


def batching(con: halo_sql.Connection, query: Query) -> str:
    """Any window of requests, any order of answers, any batch size: the same rows in the same order."""
    ordered = query.ordered or not any(word in query.sql.plain for word in UNORDERED)
    outcomes = []
    for concurrency in CONCURRENCY:
        with setting(con, "max_concurrency", concurrency):
            outcomes.append(run(con, query.sql.halo))
    if outcomes[0].error:
        raise InvalidError(outcomes[0].error)
    for batch_rows in BATCH_ROWS:
        batches = list(con.stream(query.sql.halo, batch_rows=batch_rows))
        count = sum(batch.num_rows for batch in batches)
        if count != len(outcomes[0].rows):
            return f"{count} rows in batches of {batch_rows} instead of {len(outcomes[0].rows)}"
    problems = (difference(found, outcomes[0], ordered) for found in outcomes[1:])
    return next((problem for problem in problems if problem), "")


def wobbly(messages: list[dict[str, str]]) -> str:
    """A model that fails for some prompts, answers nonsense to others and repeats the rest."""
    prompt = messages[-1]["content"]
    draw = zlib.crc32(prompt.encode()) % 5
    if draw == 0:
        raise ValueError(f"no answer for {prompt!r}")
    return "nonsense" if draw == 1 else prompt


def shuffled(seed: int) -> Callable[[list[dict[str, str]]], Awaitable[str]]:
    """A model that repeats the prompt after a while of its own."""
    rng = Random(seed)

    async def answer(messages: list[dict[str, str]]) -> str:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        if rng.randrange(4) == 0:
            await asyncio.sleep(rng.random() / 2000)
        return messages[-1]["content"]

    return answer

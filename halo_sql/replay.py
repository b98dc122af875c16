"""A planning as a file: ``EXPLAIN (DUMP) statement`` gives it, ``python -m halo_sql.replay FILE`` repeats it.

A dump is what the optimizer was given (the bound plan, its context before and after the survey) and what came of it
(Antova et al., "Automatic Capture of Minimal, Portable, and Executable Bug Repros using AMPERe", DBTest 2012). The
optimizer is a pure function: the same version of it makes the same plan from a dump, anywhere, without the tables.

A dump is a JSON object, or an array of them for a statement that is run in stages. In it are the statement's text with
its constants and parameters, names of columns and models, counts, lengths and speeds; of samples, which of their rows
are equal. The tables' values, answers, secrets and the options of models are not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from halo_sql.deep import deep
from halo_sql.errors import Error, ProgrammingError
from halo_sql.explain import render_logical, render_text
from halo_sql.optimizer.codec import DamagedError, decode, encode, fits, json_text
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.optimize import Optimized, Problem, optimize
from halo_sql.optimizer.samples import ObjectSample, Values
from halo_sql.version import __version__

FORMAT = 1
#: The sections of a result, in the order in which they come about, with their types.
_RESULT: Mapping[str, Any] = {
    "normalized": tuple[str, ...],
    "rules": tuple[str, ...],
    "counters": tuple[str, ...],
    "winners": tuple[str, ...],
    "plan": tuple[str, ...],
    "costs": tuple[float, ...],
}


@dataclass(frozen=True, slots=True)
class Minidump:
    """What a file holds.

    version    of HaloSQL that made it
    statement  its text
    problem    what ``optimize`` was given
    result     section -> its lines, or numbers (see ``result_of``)
    """

    version: str
    statement: str
    problem: Problem
    result: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Replay:
    """A repeated planning and where it differs, a sentence per section; none: it is the same."""

    optimized: Optimized
    differences: tuple[str, ...]


def dump(optimized: Optimized, statement: str) -> str:
    """The dump of a planning; equal plannings have equal dumps."""
    problem = optimized.problem
    numbers: dict[int, int] = {}
    ctx, surveyed = (_anonymous(each, numbers) for each in (problem.ctx, problem.surveyed))
    lines, (plan, before, after, *columns) = encode(problem.plan, ctx, surveyed, *problem.columns)
    head = {"halo_sql_dump": FORMAT, "version": __version__, "statement": statement}
    roots = {"plan": plan, "columns": columns, "context": before, "surveyed": after}
    parts = [f"{json_text(key)}: {json_text(value)}" for key, value in head.items()]
    parts.append(f'"objects": {_array(lines)}')
    parts += [f"{json_text(key)}: {json_text(value)}" for key, value in roots.items()]
    result = [f"{json_text(key)}: {_array(list(map(json_text, own)))}" for key, own in result_of(optimized).items()]
    parts.append('"result": {' + ",\n".join(result) + "}")
    return "{" + ",\n".join(parts) + "}"


def _array(lines: Sequence[str]) -> str:
    return "[\n" + ",\n".join(lines) + "\n]"


def _anonymous(ctx: OptimizerContext, numbers: dict[int, int]) -> OptimizerContext:
    """The context with samples that hold numbers in place of hashes: which values are equal, not which they are."""

    def numbered(keys: Sequence[int]) -> tuple[int, ...]:
        return tuple(numbers.setdefault(key, len(numbers)) for key in keys)

    def own(values: Values | None) -> Values | None:
        return None if values is None else replace(values, keys=numbered(values.keys))

    def sample(known: ObjectSample | None) -> ObjectSample | None:
        if known is None:
            return None
        values = {name: own(each) for name, each in zip(known.names, known.values, strict=True)}
        return ObjectSample(values, numbered(known.before), known.after_chars)

    return replace(ctx, objects={column: tuple(map(sample, each)) for column, each in ctx.objects.items()})


def result_of(optimized: Optimized) -> dict[str, list[Any]]:
    """What a planning is compared by: the normalized plan, how often each rule was tried and fired, the search's
    counters, the winners of the memo's groups, the physical plan with whole texts, and all costs: of the plan, of
    the winners and of the plan's nodes."""
    trace, dag = optimized.trace, optimized.dag
    winners = [(f"G{group.id}", winner) for group in trace.groups() for winner in group.winners]
    nodes = [node.estimate.cost for node in dag.nodes]
    return {
        "normalized": render_logical(optimized.logical).splitlines(),
        "rules": [f"{rule.name} tried {rule.tried} fired {rule.fired}" for rule in trace.rules],
        "counters": [f"{name} {count}" for name, count in trace.counters],
        "winners": [f"{group} {winner.properties}: {winner.plan}" for group, winner in winners],
        "plan": render_text(dag, full=True).splitlines(),
        "costs": [
            optimized.cost,
            *(winner.cost for _, winner in winners),
            *(number for cost in nodes for number in (cost.gpu_s, cost.cpu_s, cost.usd)),
        ],
    }


def load(text: str) -> tuple[Minidump, ...]:
    """The dumps of a file. ProgrammingError for a text that is none, is damaged, or is of another format."""
    try:
        found = json.loads(text)
    except (RecursionError, ValueError) as problem:
        raise _damaged(f"it is not JSON ({problem})") from None
    whole = found if isinstance(found, list) else [found]
    return deep(lambda: tuple(_loaded(each) for each in whole))


def _damaged(reason: str, version: str = "") -> ProgrammingError:
    remedy = f"It was made by HaloSQL {version}, this is {__version__}." if version else ""
    remedy = remedy or "EXPLAIN (DUMP) statement makes one."
    return ProgrammingError(f"this is no dump of a planning: {reason}", kind="Invalid Input Error", remedy=remedy)


def _loaded(found: Any) -> Minidump:
    if not isinstance(found, dict) or "halo_sql_dump" not in found:
        raise _damaged('it has no "halo_sql_dump"')
    version, statement = found.get("version"), found.get("statement")
    if not isinstance(version, str) or not isinstance(statement, str):
        raise _damaged("it does not say which version made it, of which statement")
    if found["halo_sql_dump"] != FORMAT:
        raise _damaged(f"its format is {found['halo_sql_dump']!r}, not {FORMAT}", version)
    try:
        objects = decode(found["objects"])
        roots = [found[name] for name in ("plan", "context", "surveyed")]
        plan, ctx, surveyed = (objects[place] for place in roots)
        problem = Problem(plan, tuple(objects[place] for place in found["columns"]), ctx, surveyed)
        result = {name: tuple(found["result"][name]) for name in _RESULT}
    except DamagedError as problem_found:
        raise _damaged(str(problem_found), version) from None
    except (IndexError, KeyError, TypeError) as problem_found:
        raise _damaged(f"its part {problem_found} is missing or of another form", version) from None
    wanted = {**get_type_hints(Problem), **_RESULT}
    for name, value in {**{name: getattr(problem, name) for name in get_type_hints(Problem)}, **result}.items():
        if not fits(value, wanted[name]):
            raise _damaged(f"its {name} is of another form", version)
    return Minidump(version, statement, problem, result)


def replay(minidump: Minidump) -> Replay:
    """The same planning once more, compared with the one in the dump: texts exactly, costs to nine digits."""
    problem = minidump.problem
    optimized = deep(
        lambda: optimize(problem.plan, problem.columns, problem.ctx, survey=lambda plan, ctx: problem.surveyed)
    )
    found = deep(lambda: result_of(optimized))
    differences = [_difference(name, minidump.result[name], found[name]) for name in _RESULT]
    return Replay(optimized, tuple(difference for difference in differences if difference))


def _difference(name: str, then: Sequence[Any], now: Sequence[Any]) -> str:
    """Where a section differs first; '' when it does not."""
    for place, (old, new) in enumerate(zip(then, now, strict=False), 1):
        if not (math.isclose(old, new, rel_tol=1e-9) if isinstance(old, float | int) else old == new):
            return f"{name}, line {place}: {new!r} instead of {old!r}"
    if len(then) == len(now):
        return ""
    return f"{name}: {len(now)} lines instead of {len(then)}"


def main(arguments: Sequence[str]) -> int:
    """``python -m halo_sql.replay FILE``: the plan and where it differs. 0: the same, 1: another, 2: no dump."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m halo_sql.replay FILE\nFILE is what EXPLAIN (DUMP) statement gives.", file=sys.stderr)
        return 2
    try:
        dumps = load(Path(arguments[0]).read_text(encoding="utf-8"))
        replays = [replay(minidump) for minidump in dumps]
    except (Error, OSError, UnicodeDecodeError) as problem:
        print(problem, file=sys.stderr)
        return 2
    for minidump, done in zip(dumps, replays, strict=True):
        print(f"{minidump.statement}\n\n{render_text(done.optimized.dag)}\n")
        if minidump.version != __version__:
            print(f"Made by HaloSQL {minidump.version}, repeated by {__version__}.")
        print("\n".join(done.differences) or "The same plan at the same costs.")
    return int(any(done.differences for done in replays))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Properties of random statements, thousands of them: ``norec.py [statements] [first seed] [words of one's name]``.

Each number is a seed: the same statements in every run. Prints what was checked, refused and violated; what the
optimizer did to the number of calls; the statements that violate a property, shortest first; exit status 1 when there
is one.

By the rules that choose by estimates (which filter comes first) a statement can make more calls than as written, when
the guess of how many rows a filter keeps was wrong. How often is told, and no violation; that all statements together
make fewer calls is a goal.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from report import finish, show, verdict

import halo_sql

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from properties import properties
from properties.checks import connect
from properties.queries import Generator

STATEMENTS = 1000  # of each property; some hours
SHOWN = 5
PLANS = ("statements", "plans", "runs")
CALLS = ("calls as written", "calls without a choice", "calls")
CHANGES = ("fewer calls", "more calls", "calls too many")
SIZES = ((1, 2), (2, 2), (2, 3))  # depth of sub-queries, of expressions


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STATEMENTS
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    wanted = sys.argv[3] if len(sys.argv) > 3 else ""
    echo, failing, waiting = connect(), connect("wobbly", on_error="null"), connect("shuffled")
    failing.create_model("wobbly", properties.wobbly)
    strict, strictly = properties.Strict(), connect("strict")
    strictly.create_model("strict", strict)
    waiting.create_model("shuffled", properties.shuffled(first), concurrency=64)
    tally: Counter[str] = Counter()
    checks: dict[str, Callable[[Generator, Random], str]] = {
        "defining equation": lambda make, rng: properties.equation(echo, make.query()),
        "CREATE TABLE AS, INSERT": lambda make, rng: properties.stored(echo, make.query(named=True)),
        "optimizer on, off, each rule off": lambda make, rng: properties.norec(echo, make.query(), tally=tally),
        "two equal parts": lambda make, rng: properties.doubled(echo, make.query(named=True)),
        "each rule off, calls fail": lambda make, rng: properties.norec(failing, make.query(), False),
        "no failure but as written": lambda make, rng: properties.unwritten(
            strictly, strict, properties.priced(make, rng), rng
        ),
        "p, NOT p, p IS NULL": lambda make, rng: properties.partition(echo, make),
        "p, NOT p, p IS NULL, p fails": lambda make, rng: properties.partition(failing, make),
        "windows 1, 8, 64; batches": lambda make, rng: properties.batching(waiting, make.query()),
    }
    rows, violations = [], []
    for name, check in checks.items():
        if wanted not in name:
            continue
        seen: Counter[str] = Counter()
        began = time.perf_counter()
        for seed in range(first, first + count):
            outcome, problem = once(check, seed)
            seen[outcome] += 1
            if problem:
                violations.append((len(problem), f"{name}, seed {seed}: {problem}"))
                print(violations[-1][1], file=sys.stderr, flush=True)
        good = seen["violated"] == 0 and seen["refused"] * 10 < count
        numbers = [f"{seen[outcome]:,}" for outcome in ("held", "refused", "invalid", "violated")]
        rows.append([name, *numbers, f"{(time.perf_counter() - began) / count:.2f}", verdict(good)])
        print(name, dict(seen), file=sys.stderr, flush=True)
    for connection in (echo, failing, waiting, strictly):
        connection.close()
    for _, text in sorted(violations)[:SHOWN]:
        print(f"\n{text}")
    show(
        f"{count:,} random statements each", ["property", "held", "refused", "invalid", "violated", "s each", ""], rows
    )
    fewer = show_calls(tally) if tally["statements"] else True
    finish(fewer and all(row[-1] == verdict(True) for row in rows))


def show_calls(tally: Counter[str]) -> bool:
    """What the optimizer did to the calls; whether it made them fewer."""
    fewer = tally["calls"] <= tally["calls as written"]
    ratio = tally["calls"] / max(1, tally["calls as written"])
    dearer = tally["more calls"] / tally["statements"]
    rows = [
        ["statements; plans; plans that were run", *_counts(tally, *PLANS), ""],
        ["calls as written; without a choice; optimised", *_counts(tally, *CALLS), f"{ratio:.3f}"],
        ["statements with fewer calls; with more; calls too many", *_counts(tally, *CHANGES), f"{100 * dearer:.1f} %"],
    ]
    by_rule = [key for key in tally if key.startswith("more calls by ") and tally[key]]
    rows += [[f"  {key}", f"{tally[key]:,}", "", "", ""] for key in sorted(by_rule, key=lambda key: -tally[key])]
    rows.append(["optimised calls <= calls as written, all together", "", "", "", verdict(fewer)])
    show("Calls of these statements", ["", "", "", "", ""], rows)
    return fewer


def _counts(tally: Counter[str], *keys: str) -> list[str]:
    return [f"{tally[key]:,}" for key in keys]


def once(check: Callable[[Generator, Random], str], seed: int) -> tuple[str, str]:
    """What became of one statement, and what is wrong with it."""
    rng = Random(seed)
    depth, size = SIZES[seed % len(SIZES)]
    generator = Generator(rng, depth=depth, size=size)
    try:
        problem = check(generator, rng)
    except halo_sql.NotSupportedError:
        return "refused", ""
    except properties.InvalidError:
        return "invalid", ""
    return ("violated", f"{problem}\n{generator.text}") if problem else ("held", "")


if __name__ == "__main__":
    main()

"""Properties of random statements, thousands of them: ``norec.py [statements] [first seed]``.

Each number is a seed: the same statements in every run. Prints what was checked, refused and violated; the statements
that violate a property, shortest first; exit status 1 when there is one.
"""

from __future__ import annotations

import sys
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

STATEMENTS = 1000  # of each property; half an hour
SHOWN = 5
SIZES = ((1, 2), (2, 2), (2, 3))  # depth of sub-queries, of expressions


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STATEMENTS
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    echo, failing, waiting = connect(), connect("wobbly", on_error="null"), connect("shuffled")
    failing.create_model("wobbly", properties.wobbly)
    strict, strictly = properties.Strict(), connect("strict")
    strictly.create_model("strict", strict)
    waiting.create_model("shuffled", properties.shuffled(first), concurrency=64)
    rules = properties.rules_of(echo)
    checks: dict[str, Callable[[Generator, Random], str]] = {
        "defining equation": lambda make, rng: properties.equation(echo, make.query()),
        "CREATE TABLE AS, INSERT": lambda make, rng: properties.stored(echo, make.query(named=True)),
        "optimizer on, off, rules off": lambda make, rng: properties.norec(echo, make.query(), rng, rules),
        "the same, calls fail": lambda make, rng: properties.norec(failing, make.query(), rng, rules, False),
        "no failure but as written": lambda make, rng: properties.unwritten(
            strictly, strict, properties.priced(make, rng), rng, rules
        ),
        "p, NOT p, p IS NULL": lambda make, rng: properties.partition(echo, make),
        "the same, p fails": lambda make, rng: properties.partition(failing, make),
        "windows 1, 8, 64; batches": lambda make, rng: properties.batching(waiting, make.query()),
    }
    rows, violations = [], []
    for name, check in checks.items():
        seen: Counter[str] = Counter()
        for seed in range(first, first + count):
            outcome, problem = once(check, seed)
            seen[outcome] += 1
            if problem:
                violations.append((len(problem), f"{name}, seed {seed}: {problem}"))
                print(violations[-1][1], file=sys.stderr, flush=True)
        good = seen["violated"] == 0 and seen["refused"] * 10 < count
        numbers = [f"{seen[outcome]:,}" for outcome in ("held", "refused", "invalid", "violated")]
        rows.append([name, *numbers, verdict(good)])
        print(name, dict(seen), file=sys.stderr, flush=True)
    for connection in (echo, failing, waiting, strictly):
        connection.close()
    for _, text in sorted(violations)[:SHOWN]:
        print(f"\n{text}")
    show(f"{count:,} random statements each", ["property", "held", "refused", "invalid", "violated", ""], rows)
    finish(all(row[-1] == verdict(True) for row in rows))


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

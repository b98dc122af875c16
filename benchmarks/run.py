"""Benchmarks one after the other; exit status 1 when one missed its goal.

``run.py``: the cheap ones. ``run.py optimizer [statements]``: those of the optimizer, with so many random statements;
the last two need the bundled model.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
CHEAP = (
    *("limits.py", "plain_sql.py", "planning.py", "estimates.py", "startup.py", "echo_throughput.py"),
    *("agent_steps.py", "tools.py", "workers.py"),
)
WITH_MODEL = ("prefix_sharing.py", "choices.py", "field_order.py", "optimizer_costs.py")
STATEMENTS = "200"


def commands(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """The scripts with their arguments."""
    if arguments[:1] != ["optimizer"]:
        return [(name,) for name in CHEAP]
    statements = arguments[1] if len(arguments) > 1 else STATEMENTS
    return [
        ("planning.py",),
        ("estimates.py",),
        ("norec.py", statements, "0", "each rule off"),
        ("field_order.py",),
        ("optimizer_costs.py",),
    ]


def main() -> None:
    cheap = not sys.argv[1:]
    missed = []
    for name, *arguments in commands(sys.argv[1:]):
        if subprocess.run([sys.executable, FOLDER / name, *arguments], check=False).returncode:
            missed.append(name)
    if cheap:
        print("\nWith a real model (minutes on a CPU):")
        for name in WITH_MODEL:
            print(f"  .venv/bin/python benchmarks/{name}")
    if missed:
        sys.exit(f"\nGoals missed in: {', '.join(missed)}")


if __name__ == "__main__":
    main()

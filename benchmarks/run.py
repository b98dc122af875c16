"""The cheap benchmarks one after the other; exit status 1 when one missed its goal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
CHEAP = (
    *("limits.py", "plain_sql.py", "planning.py", "estimates.py", "startup.py", "echo_throughput.py"),
    *("agent_steps.py", "tools.py"),
)
WITH_MODEL = ("prefix_sharing.py", "field_order.py", "optimizer_costs.py")


def main() -> None:
    missed = [name for name in CHEAP if subprocess.run([sys.executable, FOLDER / name], check=False).returncode]
    print("\nWith a real model (minutes on a CPU):")
    for name in WITH_MODEL:
        print(f"  .venv/bin/python benchmarks/{name}")
    if missed:
        sys.exit(f"\nGoals missed in: {', '.join(missed)}")


if __name__ == "__main__":
    main()

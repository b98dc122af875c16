"""How long a start takes. Goals: `halo -c 'select 1'` and `import halo_sql` within 0.4 s.

Each run is a fresh process, in turns; medians. A bare interpreter and `import duckdb` are shown for comparison.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from report import finish, show, verdict

ROUNDS = 9
GOAL_S = 0.4
HALO = str(Path(sys.executable).with_name("halo"))
COMMANDS: dict[str, tuple[list[str], bool]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], False),
    "import duckdb": ([sys.executable, "-c", "import duckdb"], False),
    "duckdb: select 1": (
        [sys.executable, "-c", "import duckdb; print(duckdb.connect().execute('select 1').fetchall())"],
        False,
    ),
    "import halo_sql": ([sys.executable, "-c", "import halo_sql"], True),
    "halo_sql.connect()": ([sys.executable, "-c", "import halo_sql; halo_sql.connect().close()"], True),
    "halo -c 'select 1'": ([HALO, "-c", "select 1"], True),
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, (command, _) in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    rows, all_reached = [], True
    duckdb_s = median(times["import duckdb"][1:])
    for name, (_, has_goal) in COMMANDS.items():
        found = median(times[name][1:])
        reached = found <= GOAL_S or not has_goal
        all_reached &= reached
        rows.append([name, f"{found:.3f}", f"{found / duckdb_s:.2f}", verdict(reached) if has_goal else ""])
    show(f"Start, seconds (median of {ROUNDS} processes each)", ["command", "s", "/ import duckdb", "<= 0.4 s"], rows)
    finish(all_reached)


if __name__ == "__main__":
    main()

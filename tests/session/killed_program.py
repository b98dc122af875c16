"""A program that kills its children again and again; ``test_side_effects.py`` says what must hold.

Each child runs one statement of calls that append a line to a file. Children are forked while there is no thread, so
that what takes long, the imports, is done once. Arguments: file of the actions, statement, kills, seed.

Says, as JSON lines, for each child: its rows (null: it was killed before it said them), what the file holds, and what
the journal says of each call.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import halo_sql


def run(statement: str, actions: str, side_effects: bool = True) -> list[list[object]]:
    """The statement's rows: number, value, error."""
    out = os.open(actions, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def act(n: int) -> int:
        time.sleep(random.uniform(0, 0.02))
        os.write(out, f"{n}\n".encode())
        time.sleep(random.uniform(0, 0.02))
        return n * 10

    con = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"})
    con.create_tool("act", act, side_effects=side_effects, concurrency=4, egress=False)
    con.execute("CREATE TABLE t AS SELECT range AS id FROM range(12)")
    con.execute("CREATE TEMP AGENT g RETURNS INTEGER WITH (tools = [act], egress = [act])")
    if side_effects:
        print("begins", flush=True)
    rows = con.execute(statement).fetchall()
    con.close()
    return [[number, item["value"], item["error"]] for number, item in rows]


def made(actions: Path) -> list[int]:
    """The actions so far."""
    return [int(line) for line in actions.read_text().splitlines()] if actions.exists() else []


def states(journal: Path) -> dict[int, str]:
    """What the journal says of each call."""
    if not journal.exists():
        return {}
    file = sqlite3.connect(journal)
    found = file.execute("SELECT CAST(arguments AS TEXT), state FROM calls").fetchall()
    file.close()
    return {json.loads(arguments)["n"]: state for arguments, state in found}


def killed(statement: str, actions: Path, draw: random.Random, kill: bool) -> object:
    """Run it in a child, which is killed somewhere between its first and its last action; what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(writing, 1)
        print(json.dumps(run(statement, str(actions))), flush=True)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb", 0) as said:
        assert said.readline() == b"begins\n"
        if kill:
            wanted = len(made(actions)) + draw.randrange(10)
            while len(made(actions)) < wanted and not select.select([said], [], [], 0.001)[0]:
                pass
            time.sleep(draw.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ended = said.readline().decode()
    return json.loads(ended) if ended.endswith("\n") else None


def main(path: str, statement: str, kills: int, seed: int) -> None:
    actions, home = Path(path), Path(os.environ["HALO_HOME"])
    run(statement, os.devnull, side_effects=False)  # everything is imported now
    assert threading.active_count() == 1
    draw = random.Random(seed)
    for turn in range(kills + 1):
        rows = killed(statement, actions, draw, turn < kills)
        known = states(home / "journal.sqlite")
        print(json.dumps({"rows": rows, "made": made(actions), "states": list(known.items())}), flush=True)
        if set(made(actions)) - known.keys():  # it ended well, faster than the signal: from the beginning
            for name in (actions, *home.glob("journal.sqlite*")):
                name.unlink()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

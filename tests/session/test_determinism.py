"""The same statement over the same catalog is planned the same way, whatever the order of Python's sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
import halo_sql
from halo_sql.grammar.split import split

connection = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"})
connection.execute("CREATE TABLE t(id INT, body VARCHAR, a INT, s STRUCT(x INT, y VARCHAR), l INT[], d DATE)")
connection.execute("CREATE TABLE u(id INTEGER, x VARCHAR)")
connection.execute('CREATE TABLE "Q t"("A b" INTEGER, "select" VARCHAR, c5 VARCHAR, c2 INTEGER)')
connection.execute("CREATE VIEW v AS SELECT 1 AS k")
connection.execute("CREATE MACRO plus(x) AS x || '!'")
connection.execute("CREATE MACRO total(x) AS sum(x)")
for piece in split(Path(sys.argv[1]).read_text(encoding="utf-8"))[::8]:
    try:
        rows = connection.execute("EXPLAIN (LOGICAL, PHYSICAL, MEMO) " + piece.text).fetchall()
    except halo_sql.Error as problem:
        rows = [str(problem)]
    print(piece.text, rows)
"""


def _plans(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "tests" / "grammar" / "equation.sql")]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_plans_do_not_depend_on_hashes() -> None:
    first = _plans("0")
    assert first.count("\n") > 15
    assert _plans("4711") == first

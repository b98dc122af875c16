"""The walls of the sandbox that do not need its gate: what DuckDB, the kernel and Python refuse in the child."""

import subprocess
import sys
from pathlib import Path

import pytest

from halo_sql.duck import Duck
from halo_sql.tools.sandbox_copy import copy_tables

ROOT = Path(__file__).resolve().parents[2]

#: Without the gate: what DuckDB and the system refuse in the child by themselves.
BEHIND_THE_GATE = """
import ctypes, os, sys
sys.path.insert(0, {root!r})
from halo_sql.tools import sandbox_child, sandbox_limits
sandbox_limits.die_with(os.getppid())
path = {path!r}.encode()
libc = ctypes.CDLL(None)
calls = [(libc.open, path, 0), (libc.open, b'/etc/passwd', 0), (libc.creat, path + b'.new', 0o600),
         (libc.socket, 2, 1, 0), (libc.dup, 0)]
if libc.syscall(444, None, ctypes.c_size_t(0), 1) >= 3:  # a kernel with Landlock
    calls += [(libc.unlink, path), (libc.mkdir, path + b'.d', 0o700), (libc.rename, path, path + b'2'),
              (libc.truncate, path, 0)]
setup = dict(tables=["orders"], time_zone="UTC", memory="512MB", max_rows=10, max_bytes=1000, kind="rows")
box = sandbox_child.Sandbox("/proc/self/fd/" + sys.argv[1], setup)
os.close(int(sys.argv[1]))
sandbox_limits.wall_in(1 << 30)
for sql in {attacks!r}:
    try:
        print("RAN", sql, box._database.cursor().execute(sql).fetchall(), flush=True)
    except sandbox_child.duckdb.Error as problem:
        print("refused", flush=True)
for function, *arguments in calls:
    print("RAN" if function(*arguments) >= 0 else "refused", flush=True)
print(box.answer("SELECT count(*) AS n FROM orders"), flush=True)
{last}
print("still here")
"""


@pytest.mark.parametrize(
    "last",
    ["open('/etc/passwd')", "import socket; socket.socket()", "os.system('true')", "os.fork()", "os.listdir('/')",
     "import http.client", "os.remove('x')"],
)  # fmt: skip
def test_walls_hold_without_the_gate(tmp_path, last):
    duck = Duck.connect(":memory:", False, {})
    duck.execute("CREATE TABLE orders AS SELECT i AS id FROM range(10) t(i)")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\ncanary\n")
    attacks = [
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"COPY orders TO '{tmp_path}/new.csv'",
        f"ATTACH '{tmp_path}/new.db'",
        f"EXPORT DATABASE '{tmp_path}/new'",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET temp_directory = '/tmp'",
        "SET lock_configuration = false",
        "RESET memory_limit",
        "DELETE FROM orders",
        "DROP TABLE orders",
        "CREATE TABLE x AS SELECT 1",
        "SELECT * FROM setup",
        "SELECT * FROM attacks",
        "FROM enable_logging('QueryLog', storage := 'file')",
    ]
    copies = copy_tables(duck, ["orders"])
    script = BEHIND_THE_GATE.format(root=str(ROOT), attacks=attacks, path=str(secret), last=last)
    ran = subprocess.run(
        [sys.executable, "-I", "-c", script, str(copies.descriptor)],
        pass_fds=(copies.descriptor,), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    copies.close()
    duck.close()
    lines = ran.stdout.splitlines()
    assert lines[-1] == '[{"n":10}]', ran.stdout + ran.stderr
    assert [line for line in lines[:-1] if not line.startswith("refused")] == []
    assert len(lines) >= len(attacks) + 5 + 1
    assert ran.returncode == 97
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert secret.read_text() == "a\ncanary\n"

"""The child process of the sandbox: runs SELECTs written by a model on copies of tables, one after the other.

Started as a file, ``python -I sandbox_child.py <parent> <descriptor>``; the descriptor is a DuckDB database of the
copies. Frames on stdin and stdout: four bytes of length (big endian), then JSON. The first frame in says what the tool
returns; ``{"ready": true}`` answers it. Then each ``{"sql": …}`` is answered by ``{"value": JSON text}`` or
``{"error": [code, message, remedy]}``, with ``"spent": true`` when the child may be the worse for it.

It imports DuckDB's own module without its Python layer, which would cost as much again as all the rest.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where this package lies

from halo_sql.tools import sandbox_gate as gate
from halo_sql.tools import sandbox_limits as limits

duckdb: Any
try:
    duckdb = import_module("_duckdb")
except ImportError:
    duckdb = import_module("duckdb")

_SETTINGS = {
    "threads": "1",
    "async_threads": "1",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}
_LENGTH = struct.Struct(">I")
_ANSWER = "halo_answer"  # the model's query in ours


class _TooLargeError(Exception):
    """The result is larger than it may be; the message says how."""


def _read(size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = os.read(0, size - len(parts))
        if not part:
            os._exit(0)  # the parent has no more
        parts += part
    return parts


def _receive() -> Any:
    (size,) = _LENGTH.unpack(_read(_LENGTH.size))
    return json.loads(_read(size))


def _send(frame: Any) -> None:
    data = json.dumps(frame).encode()
    data = _LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(1, data) :]


class Sandbox:
    """One database of copies, and how results are spelled.

    setup  tables: their names; time_zone; memory: DuckDB's memory_limit; max_rows; max_bytes;
           kind: 'rows' (objects with the query's own columns), 'table' or 'scalar'; columns: [name, type] that are
           declared; value: the expression of the JSON text of a row of them, c0, c1, …
    """

    def __init__(self, path: str, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._tables = {name.lower() for name in setup["tables"]}
        settings = {**_SETTINGS, "memory_limit": setup["memory"]}
        self._database = duckdb.connect(path, read_only=True, config=settings)
        zone = setup["time_zone"].replace("'", "''")
        for setting in (
            f"GLOBAL TimeZone = '{zone}'",
            "temp_directory = ''",
            "enable_external_access = false",  # the copies are open by now
            "lock_configuration = true",
        ):
            self._database.execute(f"SET {setting}")
        self._parse(self._database, "SELECT to_json(now()), CAST(current_date AS VARCHAR)")
        self._database.execute("SELECT CAST(to_json(now()) AS VARCHAR)").fetchall()  # what is loaded late, now

    def answer(self, sql: str) -> str:
        """The result of a query as JSON text, on a connection of its own."""
        connection = self._database.cursor()
        try:
            tree = self._parse(connection, sql)
            gate.check_tree(tree, self._tables)
            inner = self._inner(connection, sql, tree)
            return self._run(connection, inner)
        finally:
            connection.close()

    @staticmethod
    def _parse(connection: Any, sql: str) -> Any:
        return json.loads(connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()[0][0])

    def _inner(self, connection: Any, sql: str, tree: Any) -> str:
        """The query in parentheses, once DuckDB reads it there as the query that has been checked."""
        inner = f"(\n{sql.rstrip().rstrip(';')}\n)"
        wrapped = self._parse(connection, f"SELECT * FROM {inner} AS {_ANSWER}")
        found = None if wrapped.get("error") else wrapped["statements"][0]["node"]["from_table"].get("subquery")
        if not found or gate.unplaced(found["node"]) != gate.unplaced(tree["statements"][0]["node"]):
            raise gate.DeniedError("only one statement may run", "Write one SELECT, without a semicolon.")
        return inner

    def _run(self, connection: Any, inner: str) -> str:
        described = connection.execute(f"DESCRIBE SELECT * FROM {inner} AS {_ANSWER}").fetchall()
        given = [(str(name), str(kind)) for name, kind, *_ in described]
        names = ", ".join(f"v{place}" for place in range(len(given)))
        source = f"{inner} AS {_ANSWER}({names})"
        kind, rows, most = self._setup["kind"], self._setup["max_rows"], self._setup["max_bytes"]
        if kind == "rows":
            value = _object(given)
        else:
            value = self._setup["value"]
            casts = ", ".join(
                f"CAST({_ANSWER}.v{place} AS {wanted}) AS c{number}"
                for number, (place, wanted) in enumerate(self._matched([name for name, _ in given]))
            )
            source = f"(SELECT {casts} FROM {source} LIMIT {rows + 1})"
        limit = 1 if kind == "scalar" else rows + 1
        found = connection.execute(
            f"SELECT CASE WHEN strlen(r) <= {most} THEN r END, coalesce(strlen(r), 4) "
            f"FROM (SELECT {value} AS r FROM {source} LIMIT {limit})"
        ).fetchall()
        size = sum(length + 1 for _, length in found) + 1
        if len(found) > rows and kind != "scalar":
            raise _TooLargeError(f"the query gives more than {rows} rows")
        if size > most:
            raise _TooLargeError(f"the result of the query is larger than {most} bytes")
        if kind == "scalar":
            return found[0][0] or "null" if found else "null"
        return "[" + ",".join(text for text, _ in found) + "]"

    def _matched(self, given: list[str]) -> list[tuple[int, str]]:
        """For each declared column the place of the query's column and its type: by name, else by position."""
        wanted = self._setup["columns"]
        if self._setup["kind"] == "scalar":
            return [(0, wanted[0][1])]
        places = {name.lower(): place for place, name in reversed(list(enumerate(given)))}
        if all(name.lower() in places for name, _ in wanted):
            return [(places[name.lower()], kind) for name, kind in wanted]
        if len(given) == len(wanted):
            return [(place, kind) for place, (_, kind) in enumerate(wanted)]
        declared = ", ".join(name for name, _ in wanted)
        raise ValueError(f"the query gives the columns {', '.join(given)}; the tool returns {declared}")


def _object(given: list[tuple[str, str]]) -> str:
    """The expression of a row as a JSON object; a name that is there twice gets a number."""
    seen: set[str] = set()
    parts = []
    for place, (name, kind) in enumerate(given):
        unique, number = name, 0
        while unique in seen:
            number += 1
            unique = f"{name}_{number}"
        seen.add(unique)
        value = f"{_ANSWER}.v{place}"
        exact = kind == "JSON" or (kind.startswith("DECIMAL(") and kind.endswith(")"))
        text = f"CAST({value if exact else f'to_json({value})'} AS VARCHAR)"
        head = ("," if place else "{") + json.dumps(unique, ensure_ascii=False) + ":"
        parts.append("'" + head.replace("'", "''") + f"' || coalesce({text}, 'null')")
    return " || ".join(parts) + " || '}'"


def _answered(sandbox: Sandbox, sql: str) -> dict[str, Any]:
    try:
        return {"value": sandbox.answer(sql)}
    except gate.DeniedError as problem:
        return {"error": ["denied", str(problem), problem.remedy]}
    except _TooLargeError as problem:
        return {"error": ["too_large", str(problem), "Aggregate, select fewer columns, or end the query with LIMIT."]}
    except RecursionError:
        return {"error": ["denied", "the query is nested too deeply", "Write it in fewer levels."]}
    except (MemoryError, duckdb.OutOfMemoryException):
        error = ["tool", "the query needs more memory than it may have", "Read fewer rows, or shorter values."]
        return {"error": error, "spent": True}
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as problem:
        return {"error": ["rejected", _told(problem), "Correct the query."]}
    except duckdb.Error as problem:
        spent = isinstance(problem, duckdb.InternalException | duckdb.FatalException)
        return {"error": ["tool", _told(problem).partition("\n")[0], ""], "spent": spent}
    except Exception as problem:  # a tree that the gate cannot read among them: it does not run
        return {"error": ["rejected", _told(problem), "Correct the query."]}


def _told(problem: Exception) -> str:
    return str(problem).partition("\n\n")[0].strip()[:500]


def main() -> None:
    """Serve until stdin ends."""
    limits.die_with(int(sys.argv[1]))
    descriptor = int(sys.argv[2])
    setup = _receive()
    try:
        sandbox = Sandbox(f"/proc/self/fd/{descriptor}" if sys.platform == "linux" else f"/dev/fd/{descriptor}", setup)
        os.close(descriptor)
        limits.wall_in(setup["memory_bytes"])
    except Exception as problem:
        _send({"error": ["unavailable", _told(problem), ""]})
        return
    _send({"ready": True})
    while True:
        question = _receive()
        limits.allow_processor(setup["processor_s"])
        _send(_answered(sandbox, question["sql"]))


if __name__ == "__main__":
    main()

"""The process that a named Python function runs in: ``main``, with socket and lifeline as arguments.

Frames over the socket: a 4-byte big-endian length, then a JSON object.

To the worker:   {tool, function, parameters: [[name, type], …], returns: type, max_items, sys_path}   first, once
                 {arguments: "…"}                                  one call; the next one only behind its answer
From the worker: {ready: true}
                 {value: "…"}
                 {message, code, retryable, remedy}                instead of either

A type is [text, kind, [[field, type], …], [label, …], size]. Standard output is the parent's standard error, standard
input is empty. When the parent goes away the process kills its group, itself included.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import os
import queue
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.tools.child import tie
from halo_sql.tools.python_call import Callee, load, one_line

LENGTH_BYTES = 4


def pack(frame: dict[str, Any]) -> bytes:
    """A frame as bytes."""
    body = json.dumps(frame, ensure_ascii=False).encode("utf-8", "replace")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def type_to_list(sql_type: SqlType) -> list[Any]:
    """A type as JSON."""
    fields = [[name, type_to_list(member)] for name, member in sql_type.fields]
    return [sql_type.text, sql_type.kind, fields, list(sql_type.labels), sql_type.size]


def type_from_list(given: list[Any]) -> SqlType:
    """The way back."""
    text, kind, fields, labels, size = given
    return SqlType(text, kind, tuple((name, type_from_list(member)) for name, member in fields), tuple(labels), size)


def main() -> None:
    """Answer calls until the parent closes the socket."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)  # what the function starts must not keep it open
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed is not lost with a killed call
    tie(int(sys.argv[2]))
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, requests), daemon=True).start()
    with asyncio.Runner() as runner:  # one loop for all calls: what async functions keep open stays usable
        try:
            callee = _callee(requests.get())
        except EngineError as problem:
            link.sendall(pack(_failure(problem)))
            return
        link.sendall(pack({"ready": True}))
        while True:
            request = requests.get()
            link.sendall(pack(_answer(callee, request["arguments"], runner)))


def _callee(start: dict[str, Any]) -> Callee:
    sys.path[:] = start["sys_path"]
    callee = Callee(
        start["tool"],
        load(start["function"]),
        tuple((name, type_from_list(given)) for name, given in start["parameters"]),
        type_from_list(start["returns"]),
        start["max_items"],
    )
    callee.check()
    return callee


def _answer(callee: Callee, arguments: str, runner: asyncio.Runner) -> dict[str, Any]:
    try:
        value = callee.call(arguments)
        if inspect.iscoroutine(value):
            value = runner.run(value)
    except EngineError as problem:
        return _failure(problem)
    except asyncio.CancelledError as problem:  # the function cancelled itself
        return _failure(EngineError(one_line(problem), code="tool"))
    return {"value": value}


def _failure(problem: EngineError) -> dict[str, Any]:
    return {
        "message": problem.message,
        "code": problem.code,
        "retryable": problem.retryable,
        "remedy": problem.remedy,
    }


def _read(link: socket.socket, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Its own thread: the end of the parent is seen while a function runs, elsewhere than on Linux too."""
    with suppress(OSError), link.makefile("rb") as stream:
        while len(head := stream.read(LENGTH_BYTES)) == LENGTH_BYTES:
            body = stream.read(int.from_bytes(head, "big"))
            with suppress(ValueError):  # a half frame: the parent died
                requests.put(json.loads(body))
    os.killpg(0, signal.SIGKILL)

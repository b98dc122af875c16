"""Shared by the tests of whole statements with tools and agents: connections, servers, models and what they saw."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import halo_sql
from tests.agents.attacks import CANARY
from tests.agents.helpers import Messages, Scripted, answer, calls
from tests.tools.http_server import Answer, Handler, HttpServer, Seen, echo, json_answer
from tests.tools.processes import children

__all__ = ["Answer", "Messages", "Seen", "answer", "calls", "children", "json_answer"]

ROOT = Path(__file__).parent.parent.parent
#: The command of a server that behaves as its argument says.
MCP_SERVER = f"{sys.executable} {ROOT / 'tests' / 'tools' / 'mcp_server.py'}"


def connect(database: str = ":memory:", **settings: object) -> halo_sql.Connection:
    """A connection without a response store; names of settings without ``halo_``."""
    config: dict[str, object] = {"halo_store": "off", "halo_default_model": "echo"}
    return halo_sql.connect(database, config={**config, **{f"halo_{name}": value for name, value in settings.items()}})


@contextmanager
def served(handler: Handler = echo) -> Iterator[HttpServer]:
    """A running HTTP server on 127.0.0.1, on a loop of its own in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = HttpServer(handler)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Door:
    """A listening socket that counts who comes, and answers nobody."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


def add_model(con: halo_sql.Connection, *steps: Any, name: str = "m") -> Scripted:
    """The connection's default model: step n of each conversation is the n-th of these (the last one again)."""
    model = Scripted(*steps)
    con.create_model(name, model, concurrency=256)
    con.execute(f"SET halo_default_model = '{name}'")
    return model


def add_vault(con: halo_sql.Connection, url: str) -> None:
    """A private table, tools that read it, tools that send to a server."""
    allowed = "loopback = true, trusted = true"
    for statement in (
        "CREATE TABLE orders AS SELECT range AS id, 's' || range AS status FROM range(5)",
        f"CREATE TABLE hidden AS SELECT range AS id, '{CANARY} ' || range AS secret FROM range(1000)",
        "CREATE SEQUENCE s",
        "CREATE TOOL vault(id BIGINT) RETURNS VARCHAR AS SQL 'SELECT secret FROM hidden WHERE hidden.id = $id'",
        "CREATE TOOL ask(query VARCHAR) RETURNS JSON AS SQL '$query' WITH (tables = [orders])",
        f"CREATE TOOL send(text VARCHAR) RETURNS JSON AS HTTP GET '{url}/send/{{{{ text }}}}' WITH ({allowed})",
        f"CREATE TOOL post(text VARCHAR) RETURNS JSON AS HTTP POST '{url}/post' WITH ({allowed})",
        f"CREATE TOOL elsewhere_http(text VARCHAR) RETURNS JSON AS HTTP POST '{url}/no' WITH (loopback = true)",
    ):
        con.execute(statement)


def turn(messages: Messages) -> int:
    """How many steps went before."""
    return sum(message["role"] == "assistant" for message in messages)


def data(messages: Messages) -> dict[str, Any]:
    """What the row gives."""
    found: dict[str, Any] = json.loads(messages[1]["content"])
    return found


def results(messages: Messages) -> list[dict[str, Any]]:
    """What the last step's calls brought."""
    found: list[dict[str, Any]] = json.loads(messages[-1]["content"])["results"]
    return found


def totals(con: halo_sql.Connection) -> dict[str, Any]:
    """Of the last query with calls."""
    profile = con.last_profile()
    assert profile is not None
    found: dict[str, Any] = profile["totals"]
    return found


def rows(con: halo_sql.Connection, sql: str, params: object = None) -> list[tuple[Any, ...]]:
    """All rows of a statement."""
    found: list[tuple[Any, ...]] = con.execute(sql, params).fetchall()
    return found


def until(happened: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def child(code: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs this text; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()

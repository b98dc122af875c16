"""HTTP and MCP servers that fail as tools, through whole statements: what is tried again, what each row says."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest

import halo_sql

from .agents_support import (
    MCP_SERVER,
    Answer,
    Seen,
    add_model,
    answer,
    calls,
    children,
    connect,
    json_answer,
    rows,
    served,
    totals,
    until,
)

#: path -> (what the server says, requests that reach it with two retries, part of the error; None: none)
SERVER: dict[str, tuple[Any, int, str | None]] = {
    "ok": (json_answer(7), 1, None),
    "null": (json_answer(None), 1, None),
    "text": (Answer("seven", 200, {"content-type": "text/plain"}), 1, "does not fit INTEGER"),
    "wrong": (json_answer("seven"), 1, "does not fit INTEGER"),
    "list": (json_answer([1]), 1, "does not fit INTEGER"),
    "empty": (Answer(""), 1, None),
    "half": (Answer('{"a":', 200, {"content-type": "application/json"}), 3, "JSON"),
    "400": (Answer("bad", 400), 1, "400"),
    "404": (Answer("gone", 404), 1, "404"),
    "418": (Answer("tea", 418), 1, "418"),
    "500": (Answer("oops", 500), 3, "500"),
    "503": (Answer("later", 503), 3, "503"),
    "429": (Answer("slow down", 429, {"retry-after": "0"}), 3, "429"),
    "cut": (Answer(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n7"), 3, ""),
    "garbage": (Answer(raw=b"what a nice day\r\n\r\n"), 3, ""),
    "closed": (Answer(raw=b""), 3, ""),
    "huge": (Answer("7" * 2_000_000), 1, ""),
    "hangs": (Answer("7", delay_s=30), 3, "timeout_s"),
    "circle": (Answer("", 302, {"location": "/circle"}), 4, ""),
}


def test_http_servers_that_fail_in_every_way() -> None:
    def handler(seen: Seen) -> Answer:
        found: Answer = SERVER[seen.path.removeprefix("/")][0]
        return found

    with served(handler) as server, connect() as con:
        con.execute(
            f"CREATE TOOL t(what VARCHAR) RETURNS INTEGER AS HTTP GET '{server.url}/{{{{ what }}}}' "
            "WITH (loopback = true, timeout_s = 1, max_retries = 2)"
        )
        con.execute("CREATE TABLE t AS SELECT unnest(?::VARCHAR[]) AS what", [[*SERVER, "ok"]])
        found = rows(con, "SELECT what, TOOL(t, what, on_error => 'struct') FROM t")
        assert [what for what, _ in found] == [*SERVER, "ok"]
        for what, item in found:
            said = SERVER[what][2]
            assert item["value"] == (7 if what == "ok" else None)
            assert item["error"] is None if said is None else said in item["error"], (what, item)
        reached = Counter(seen.path.removeprefix("/") for seen in server.seen)
        assert reached == {what: requests for what, (_, requests, _) in SERVER.items()}
        assert totals(con)["tool_calls"] == len(SERVER)
        assert totals(con)["errors"] == sum(said is not None for *_, said in SERVER.values())
        retries = sum(requests - 1 for what, (_, requests, _) in SERVER.items() if what != "circle")
        assert totals(con)["retries"] == retries


def test_a_server_that_is_not_there() -> None:
    with served() as server:
        url = server.url
    with connect() as con:
        con.execute(
            f"CREATE TOOL t(n INTEGER) RETURNS JSON AS HTTP GET '{url}/{{{{ n }}}}' "
            "WITH (loopback = true, max_retries = 1)"
        )
        found = rows(con, "SELECT TOOL(t, range, on_error => 'struct') FROM range(20)")
        assert all(item["value"] is None and url.removeprefix("http://") in item["error"] for (item,) in found)
        with pytest.raises(halo_sql.OperationalError, match=r"127\.0\.0\.1"):
            con.execute("SELECT TOOL(t, range) FROM range(20)").fetchall()


def test_refused_credentials_end_the_statement_whatever_on_error_says() -> None:
    with served(lambda seen: Answer("who are you", 401)) as server, connect() as con:
        con.execute(
            f"CREATE TOOL t(n INTEGER) RETURNS JSON AS HTTP GET '{server.url}/{{{{ n }}}}' "
            "WITH (loopback = true, concurrency = 4)"
        )
        began = time.monotonic()
        with pytest.raises(halo_sql.OperationalError, match="401"):
            con.execute("SELECT TOOL(t, range, on_error => 'null') FROM range(500)").fetchall()
        assert time.monotonic() - began < 20
        assert len(server.seen) <= 8


def test_a_missing_secret_is_found_before_anything_is_called() -> None:
    with served() as server, connect() as con:
        model = add_model(con, calls(("t", {"n": 1})), answer("x"))
        con.execute(f"CREATE SECRET k (TYPE llm, API_KEY 'key-123456789', BASE_URL '{server.url}/')")
        con.execute(
            f"CREATE TOOL t(n INTEGER) RETURNS JSON AS HTTP GET '{server.url}/{{{{ n }}}}' "
            "WITH (loopback = true, secret = k)"
        )
        con.execute("CREATE AGENT g WITH (tools = [t])")
        con.execute("SELECT TOOL(t, 1)").fetchall()
        assert server.seen[0].headers["authorization"] == "Bearer key-123456789"
        con.execute("DROP SECRET k")
        for statement in ("SELECT TOOL(t, range) FROM range(5)", "SELECT AGENT(g, 'x')"):
            with pytest.raises(halo_sql.ProgrammingError, match="k"):
                con.execute(statement).fetchall()
        con.execute("CREATE SECRET k (TYPE llm, API_KEY 'key-123456789', BASE_URL 'https://example.org/')")
        with pytest.raises(halo_sql.ProgrammingError, match=r"is for https://example\.org/"):
            con.execute("SELECT TOOL(t, 1)").fetchall()
        assert (len(server.seen), model.prompts) == (1, [])


@pytest.mark.parametrize("way", ["closes", "garbage", "version", "no such program"])
def test_mcp_servers_that_do_not_begin(way: str) -> None:
    command = "/no/such/program" if way == "no such program" else f"{MCP_SERVER} {way}"
    before = children()
    with connect() as con:
        con.execute(
            f"CREATE TOOL t(n INTEGER) RETURNS VARCHAR AS MCP '{command}' 't' WITH (timeout_s = 2, max_retries = 0)"
        )
        began = time.monotonic()
        found = rows(con, "SELECT TOOL(t, range, on_error => 'struct') FROM range(10)")
        assert time.monotonic() - began < 60  # it takes 2; the bound leaves room for a busy machine
        assert all(item["value"] is None and item["error"] for (item,) in found)
        assert rows(con, "SELECT LLM_MAP('{{ 1 + 1 }}')") == [("2",)]
        until(lambda: children() <= before)


@pytest.mark.parametrize("way", ["ids", "silent"])
def test_a_wait_for_an_mcp_server_that_says_nothing_can_be_interrupted(way: str) -> None:
    before = children()
    with connect() as con:
        con.execute(f"CREATE TOOL t(n INTEGER) RETURNS VARCHAR AS MCP '{MCP_SERVER} {way}' 't'")
        began = time.monotonic()
        threading.Thread(target=_interrupt_at_server, args=(con, before)).start()
        with pytest.raises(halo_sql.OperationalError, match="Interrupted"):
            con.execute("SELECT TOOL(t, range, on_error => 'struct') FROM range(10)").fetchall()
        assert time.monotonic() - began < 20
        until(lambda: children() <= before)


def _interrupt_at_server(con: halo_sql.Connection, before: set[int]) -> None:
    """Interrupt when the server's process is there."""
    until(lambda: children() - before)
    time.sleep(0.8)
    con.interrupt()


@pytest.mark.parametrize("way", ["shapeless", "dies", "endless line", "error", "chatty"])
def test_mcp_servers_that_break_in_a_call(way: str) -> None:
    before = children()
    with connect() as con:
        con.execute(
            f"CREATE TOOL t(n INTEGER) RETURNS VARCHAR AS MCP '{MCP_SERVER} {way}' 't' "
            "WITH (timeout_s = 3, max_retries = 0)"
        )
        found = rows(con, "SELECT TOOL(t, range, on_error => 'struct') FROM range(4)")
        if way == "chatty":
            assert [item for (item,) in found] == [{"value": "ok", "error": None}] * 4
        else:
            assert all(item["value"] is None and item["error"] for (item,) in found)
        until(lambda: children() <= before)

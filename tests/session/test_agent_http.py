"""RELIABILITY, line 55: what HTTP tools reach, through whole statements; real servers on the loopback interface."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql

from .agents_support import Answer, Door, Seen, add_model, answer, calls, connect, json_answer, results, rows, served

#: Values that want to be another host, another path, another header, another request.
EVIL = [
    "@evil.example", "a@127.0.0.1:{port}", "//127.0.0.1:{port}/", "http://127.0.0.1:{port}/", "/\\127.0.0.1:{port}/",
    "..", "../..", "%2e%2e", "%2e%2e%2f", "..%2f..%2f", "..;/", ".", "./..", "/", "//", "\\", "\\..\\", "#",
    "#@127.0.0.1:{port}", "?", "?x=1&y=2", "&admin=true", ";", ":{port}", ":80@127.0.0.1:{port}", "\r\nHost: evil",
    "\r\n\r\nGET /admin HTTP/1.1", "\nX-Admin: 1", "\x00", "%00", "%0d%0aHost:%20evil", "a b", "é", "🦆", "ａｄｍｉｎ",
    "\u2025/", "．．", "%", "%zz", "{{ v }}", "${HOME}", "../../../etc/passwd", "file:///etc/passwd", "javascript:1",
    "x" * 3000, " ", "\t", "'", '"', "<", "|", "^", "[::1]:{port}", "0x7f.1:{port}", "localhost:{port}", "..\\..",
    "%c0%ae%c0%ae", "%252e%252e", "..%00", "..?",
]  # fmt: skip


@pytest.fixture
def door() -> Iterator[Door]:
    found = Door()
    yield found
    found.close()


def test_55_a_value_stays_in_its_place_whatever_it_spells(door: Door) -> None:
    """In path, query, header and body: every request goes to the one server, to the one path below /x/."""
    values = [value.replace("{port}", str(door.port)) for value in EVIL]
    with served() as server, connect() as con:
        hole = "{{ v }}"
        for name, what in {
            "in_path": f"GET '{server.url}/x/{hole}/end' WITH (loopback = true",
            "in_query": f"GET '{server.url}/x/y/end?v={hole}&w=1' WITH (loopback = true",
            "in_header": f"GET '{server.url}/x/y/end' WITH (loopback = true, headers = {{'x-v': '{hole}'}}",
            "in_body": f"POST '{server.url}/x/y/end' WITH (loopback = true",
        }.items():
            con.execute(f"CREATE TOOL {name}(v VARCHAR) RETURNS JSON AS HTTP {what})")
            given = "(SELECT unnest(?::VARCHAR[]) AS v)"
            found = rows(con, f"SELECT v, TOOL({name}, v, on_error => 'struct') AS r FROM {given}", [values])
            made = [value for value, item in found if item["error"] is None]
            assert len(server.seen) == len(made) >= len(values) // 3, name
            for seen in server.seen:
                assert seen.headers["host"] == f"127.0.0.1:{server.port}"
                assert not {"x-admin", "evil"} & seen.headers.keys()
                path, _, query = seen.target.partition("?")
                parts = path.split("/")
                assert (parts[:2], parts[-1], len(parts)) == (["", "x"], "end", 4)
                assert parts[2] not in ("..", ".", "")
                assert query.count("&") == (1 if name == "in_query" else 0)
            if name == "in_body":
                bodies = [json.loads(seen.body) for seen in server.seen]  # in the order in which they came
                assert sorted(bodies, key=str) == sorted(({"v": value} for value in made), key=str)
            server.seen.clear()
        assert door.connections == 0


#: Ways to write this machine, or another inside.
INSIDE = [
    "127.0.0.1", "127.0.0.2", "127.1", "0.0.0.0", "0", "localhost", "LOCALHOST", "localhost.", "2130706433",
    "0x7f000001", "0x7f.1", "0177.0.0.1", "0177.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[fe80::1]", "[fc00::1]", "127.0.0.1.", "①②⑦.0.0.1",
    "127。0。0。1", "１２７.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "user@127.0.0.1", "user:word@127.0.0.1",
    "127.0.0.1%00.example.org", "127.0.0.1\\@example.org",
]  # fmt: skip


def define_and_call(con: halo_sql.Connection, what: str) -> None:
    con.execute(f"CREATE OR REPLACE TOOL t() RETURNS JSON AS {what}")
    con.execute("SELECT TOOL(t)").fetchall()


def test_55_no_spelling_of_this_machine_is_reached_unless_the_tool_may(door: Door) -> None:
    refused = 0
    with connect() as con:
        for host in INSIDE:
            url = f"http://{host}:{door.port}/x"
            with pytest.raises(halo_sql.Error):
                define_and_call(con, f"HTTP GET '{url}' WITH (max_retries = 0)")
            refused += 1
    assert refused == len(INSIDE) >= 40
    assert door.connections == 0


def test_55_a_hole_is_no_host() -> None:
    with connect() as con:
        for url in (
            "http://{{ v }}/",
            "http://{{ v }}.example.org/",
            "{{ v }}",
            "http://example.org:{{ v }}/",
            "{{ v }}://x.org/",
        ):
            with pytest.raises(halo_sql.ProgrammingError):
                con.execute(f"CREATE TOOL t(v VARCHAR) RETURNS JSON AS HTTP GET '{url}'")


def test_55_redirects_are_checked_anew_and_three_at_most(door: Door) -> None:
    def handler(seen: Seen) -> Answer:
        number = int(seen.path.rpartition("/")[2])
        if seen.path.startswith("/chain/"):
            return json_answer("arrived") if number == 0 else Answer("", 302, {"location": f"/chain/{number - 1}"})
        return Answer("", 302, {"location": targets[number]})

    targets = [
        f"http://127.0.0.1:{door.port}/", f"http://localhost:{door.port}/", f"//127.0.0.1:{door.port}/",
        "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", f"http://[::1]:{door.port}/",
        "file:///etc/passwd", "ftp://127.0.0.1/", f"http://0x7f.1:{door.port}/", f"http://u:p@127.0.0.1:{door.port}/",
        "gopher://127.0.0.1/", "javascript:1", "http://",
    ]  # fmt: skip
    with served(handler) as server, connect() as con:
        for name in ("chain", "jump"):
            con.execute(
                f"CREATE TOOL {name}(n INTEGER) RETURNS JSON AS HTTP GET '{server.url}/{name}/{{{{ n }}}}' "
                "WITH (loopback = true, max_retries = 0)"
            )
        found = rows(con, "SELECT TOOL(chain, range, on_error => 'struct') FROM range(6)")
        assert [item["error"] is None for (item,) in found] == [True, True, True, True, False, False]
        server.seen.clear()
        found = rows(con, f"SELECT TOOL(jump, range, on_error => 'struct') FROM range({len(targets)})")
        assert all(item["error"] for (item,) in found)
        assert len(server.seen) == len(targets)
        assert door.connections == 0


def test_55_a_megabyte_and_a_deadline() -> None:
    def handler(seen: Seen) -> Answer:
        size = int(seen.path.rpartition("/")[2])
        if size < 0:
            return Answer("x", delay_s=30)
        return Answer("x" * size)

    with served(handler) as server, connect() as con:
        con.execute(
            f"CREATE TOOL page(n BIGINT) RETURNS VARCHAR AS HTTP GET '{server.url}/{{{{ n }}}}' "
            "WITH (loopback = true, max_retries = 0, timeout_s = 1)"
        )
        began = time.monotonic()
        found = rows(
            con,
            "SELECT n, length(r.value), r.error FROM (SELECT n, TOOL(page, n, on_error => 'struct') AS r "
            "FROM (VALUES (10), (1048574), (1048577), (3000000), (-1)) v(n))",
        )
        assert time.monotonic() - began < 20
        assert [(size, length) for size, length, error in found if error is None] == [(10, 10), (1048574, 1048574)]
        assert [bool(re.search("larger|longer than|1048576|timeout_s", error)) for *_, error in found[2:]] == [
            True
        ] * 3, found


def test_55_an_agent_reaches_no_other_host_either(door: Door) -> None:
    """A model that writes URLs into the arguments of the tools that it has."""
    values: list[Any] = [value.replace("{port}", str(door.port)) for value in EVIL]
    with served() as server, connect() as con:
        con.execute(
            f"CREATE TOOL page(v VARCHAR) RETURNS JSON AS HTTP GET '{server.url}/x/{{{{ v }}}}' WITH (loopback = true)"
        )
        add_model(
            con,
            lambda messages: calls(*(("page", {"v": value}) for value in values)),
            lambda messages: answer(str(sum("error" in item for item in results(messages)))),
        )
        con.execute("CREATE AGENT g WITH (tools = [page], egress = [page], max_parallel = 100, max_tool_calls = 100)")
        ((refused,),) = rows(con, "SELECT AGENT(g, 'Look at pages.')")
        assert len(server.seen) == len(values) - int(refused)
        assert {seen.headers["host"] for seen in server.seen} == {f"127.0.0.1:{server.port}"}
        assert all(seen.path.startswith("/x/") and seen.path.count("/") == 2 for seen in server.seen)
        assert door.connections == 0

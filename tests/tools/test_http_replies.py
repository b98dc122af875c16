"""HTTP tools: what an answer becomes, good ones and all the others."""

from __future__ import annotations

import asyncio
import gzip
import json
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from halo_sql.errors import EngineError
from halo_sql.tools.protocol import RetryLaterError, ToolRequest

from .http_server import (
    Answer,
    HttpServer,
    Seen,
    answered,
    ask,
    json_answer,
    run,
    runner,
    text_answered,
    tool,
)

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}


@pytest.mark.parametrize(
    ("body", "headers", "returns", "path", "value"),
    [
        ('{"a": [1, null]}', JSON, "JSON", None, {"a": [1, None]}),
        ('{"a": [1, null]}', TEXT, "JSON", None, {"a": [1, None]}),
        ('{"a": [1, null]}', {"content-type": "application/problem+json; x=y"}, "JSON", "$.a[0]", 1),
        ('{"a": [1, null]}', JSON, "JSON", "$.b.c", None),
        ('{"a": [1, 2]}', JSON, "JSON", "$.a[*]", [1, 2]),
        ("plain", TEXT, "JSON", None, "plain"),
        ("plain\n", TEXT, "JSON", None, "plain\n"),
        (" 12.5\n", TEXT, "DOUBLE", None, 12.5),
        ("2024-01-01\n", TEXT, "DOUBLE", None, "2024-01-01"),
        ("", JSON, "JSON", None, None),
        ("", TEXT, "DOUBLE", None, None),
        ("\ufeff[1]", JSON, "JSON", None, [1]),
        ('"text"', JSON, "VARCHAR", None, "text"),
        ('"text"', TEXT, "VARCHAR", None, '"text"'),
        ("null", JSON, "VARCHAR", None, None),
        ("null", TEXT, "VARCHAR", None, "null"),
        ('{"a": 1}\n', JSON, "VARCHAR", None, '{"a": 1}\n'),
        ("[1, 2]", JSON, "VARCHAR", None, "[1, 2]"),
        ("5", JSON, "VARCHAR", None, "5"),
        ("", JSON, "VARCHAR", None, ""),
        ("plain\n", TEXT, "VARCHAR", None, "plain\n"),
        ('{"a": "x"}', JSON, "VARCHAR", "$.a", "x"),
        ('{"a": 1.10}', JSON, "VARCHAR", "$.a", "1.10"),
        ('{"a": {"b": [1, true]}}', TEXT, "VARCHAR", "$.a", '{"b":[1,true]}'),
        ('{"a": "x"}', JSON, "VARCHAR", "$.b", None),
        ('["\\ud83d\\ude00", "\\ud800"]', JSON, "JSON", None, ["😀", "\ufffd"]),
        ('{"A": "\\u0000"}', JSON, "JSON", "$.A", "\0"),
    ],
)
def test_values(body: str, headers: dict[str, str], returns: str, path: str | None, value: object) -> None:
    options = {} if path is None else {"path": path}
    assert answered(Answer(body, headers=headers), returns=returns, **options) == value


def test_no_content_is_null() -> None:
    for status in (204, 205):
        raw = Answer(raw=f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())
        assert answered(raw, returns="VARCHAR") is None
        assert answered(raw, returns="JSON") is None
        assert answered(raw, columns=["a"]) == []


def test_numbers_stay_as_they_are_spelled() -> None:
    body = '{"a": [1.10, 1e400, 12345678901234567890.123456789, 123456789012345678901234567890, -0.0], "b": "ü"}'
    value = '{"a":[1.10,1e400,12345678901234567890.123456789,123456789012345678901234567890,-0.0],"b":"ü"}'
    assert text_answered(json_text(body)) == value
    assert text_answered(json_text(body), path="$.a[0]") == "1.10"
    assert text_answered(json_text('[{"x": 1.50}]'), columns=["x"]) == '[{"x":1.50}]'


def json_text(body: str) -> Answer:
    return Answer(body, headers=JSON)


@pytest.mark.parametrize(
    ("body", "columns", "options", "rows"),
    [
        ('[{"a": 1, "b": 2, "c": 3}]', ["a", "b"], {}, [{"a": 1, "b": 2}]),
        ('[{"A": 1, "x": 2}]', ["a", "b"], {}, [{"a": 1, "b": None}]),
        ('[{"A": 1, "a": 2, "B": 3, "b": 4}]', ["a", "B"], {}, [{"a": 2, "B": 3}]),
        ('[{"AA": 1, "Aa": 2}]', ["aa"], {}, [{"aa": 1}]),
        ('{"a": 1}', ["a"], {}, [{"a": 1}]),
        ('[1, "x", null, [2]]', ["v"], {}, [{"v": 1}, {"v": "x"}, {"v": None}, {"v": [2]}]),
        ('"x"', ["v"], {}, [{"v": "x"}]),
        ("[]", ["v"], {}, []),
        ("null", ["v"], {}, []),
        ("", ["v"], {}, []),
        ('{"items": [{"a": 1}]}', ["a"], {"path": "$.items"}, [{"a": 1}]),
        ('{"items": [{"a": 1}, {"a": 2}]}', ["a"], {"path": "$.items[*].a"}, [{"a": 1}, {"a": 2}]),
        ('{"items": [{"a": 1}]}', ["a"], {"path": "$.nothing"}, []),
        ("[[1, 2]]", ["a", "b"], {}, "invalid_output"),
        ("[1]", ["a", "b"], {}, "invalid_output"),
        ('[{"a": 1}, null]', ["a", "b"], {}, "invalid_output"),
        ("<html>", ["a"], {}, "tool"),
    ],
)
def test_rows(body: str, columns: list[str], options: dict[str, str], rows: object) -> None:
    found = answered(json_text(body), columns=columns, **options)
    assert (found.code if isinstance(found, EngineError) else found) == rows


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        ("grüße".encode(), "text/plain", "grüße"),
        ("grüße".encode("latin-1"), "text/plain", "grüße"),
        ("grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grüße"),
        ("grüße".encode("utf-16"), 'text/plain; charset="UTF-16"', "grüße"),
        ("€".encode("cp1252"), "text/plain;charset=windows-1252", "€"),
        ("日本".encode("shift_jis"), "text/plain; charset=Shift_JIS", "日本"),
        ("\ufeffx".encode(), "text/plain; charset=utf-8", "x"),
        (json.dumps("ü", ensure_ascii=False).encode("latin-1"), "application/json; charset=latin1", "ü"),
        (b"\xff", "text/plain; charset=utf-8", "tool"),
        (b'"\xff"', "application/json", "tool"),
        (b"x", "text/plain; charset=idna", "tool"),
        (b"x", "text/plain; charset=unicode_escape", "tool"),
        (b"x", "text/plain; charset=rot13", "tool"),
        (b"x", "text/plain; charset=nonsense", "tool"),
    ],
)
def test_charsets(body: bytes, kind: str, value: str) -> None:
    found = answered(Answer(body, headers={"content-type": kind}), returns="VARCHAR")
    assert (found.code if isinstance(found, EngineError) else found) == value


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("NaN", "tool"),
        ("[Infinity]", "tool"),
        ('{"a": -Infinity}', "tool"),
        ('{"a": 1', "tool"),
        ("", "none"),
        ("[" * 100 + "]" * 100, "none"),
        ("[" * 101 + "]" * 101, "invalid_output"),
        ('{"a":' * 101 + "1" + "}" * 101, "invalid_output"),
        ("[" * 100_000 + "]" * 100_000, "invalid_output"),
        ("[" * 100_000, "invalid_output"),
    ],
)
def test_bad_json(body: str, code: str) -> None:
    found = answered(json_text(body))
    assert (found.code if isinstance(found, EngineError) else "none") == code


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "rejected", False),
        (401, "auth", False),
        (403, "auth", False),
        (404, "rejected", False),
        (408, "timeout", True),
        (409, "rejected", False),
        (418, "rejected", False),
        (422, "rejected", False),
        (429, "rate_limit", True),
        (500, "tool", True),
        (501, "tool", True),
        (502, "unavailable", True),
        (503, "unavailable", True),
        (504, "unavailable", True),
        (599, "tool", True),
        (300, "tool", False),
        (302, "tool", False),
        (304, "tool", False),
    ],
)
def test_statuses(status: int, code: str, retryable: bool) -> None:
    found = answered(Answer("it <b>said</b>\n\x1b[31m this", status))
    assert (found.code, found.retryable) == (code, retryable)
    assert not isinstance(found, RetryLaterError)
    if status >= 400:
        assert f"answered {status}: it <b>said</b> [31m this" in found.message
    assert "\n" not in found.message
    assert 'tool "orders"' in found.message


def test_what_an_error_says_is_one_short_line() -> None:
    assert answered(json_answer({"error": {"message": "no\nsuch order"}}, 404)).message.endswith("404: no such order")
    assert len(answered(Answer("x" * 10**6, 404)).message) < 400
    assert answered(Answer(gzip.compress(b"packed", mtime=0), 404, {"content-encoding": "gzip"})).message.endswith(
        "packed"
    )


@pytest.mark.parametrize("coding", ["br", "gzip"])
def test_a_status_counts_whatever_its_body_is(coding: str) -> None:
    found = answered(Answer("no gzip", 429, {"content-encoding": coding, "retry-after": "3"}))
    assert (found.code, found.after_s) == ("rate_limit", 3.0)
    assert found.message.endswith("answered 429")


def test_retry_after() -> None:
    for status, code in ((429, "rate_limit"), (503, "unavailable")):
        found = answered(Answer("", status, {"retry-after": "7"}))
        assert isinstance(found, RetryLaterError)
        assert (found.after_s, found.code, found.retryable) == (7.0, code, True)
        dated = answered(Answer("", status, {"retry-after": formatdate(time() + 100, usegmt=True)}))
        assert 80 < dated.after_s < 101
        unreadable = answered(Answer("", status, {"retry-after": "soon"}))
        assert not isinstance(unreadable, RetryLaterError)
        assert unreadable.retryable
    assert not isinstance(answered(Answer("", 500, {"retry-after": "7"})), RetryLaterError)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 100, mtime=0)[:-6],
    ],
)
def test_broken_http(raw: bytes) -> None:
    found = answered(Answer(raw=raw))
    assert isinstance(found, EngineError)
    assert (found.code, found.retryable) == ("tool", True), found


def test_an_unknown_encoding_and_a_switch_of_protocols_are_refused() -> None:
    for answer in (
        Answer("x", headers={"content-encoding": "br"}),
        Answer("x", headers={"content-encoding": "gzip, gzip"}),
    ):
        found = answered(answer)
        assert (found.code, found.retryable) == ("tool", False)
    switched = answered(Answer(raw=b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"))
    assert switched.code == "tool"


def test_no_answer_and_no_server() -> None:
    async def nobody() -> Any:
        async with HttpServer() as server:
            port = server.port
        return await ask(runner(tool(f"http://127.0.0.1:{port}/", loopback=True)))

    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    for found in (
        answered(Answer(raw=b"")),
        run(nobody()),
        run(ask(runner(tool("http://api.example/"), resolver=unknown))),
    ):
        assert (found.code, found.retryable) == ("unavailable", True)


def test_timeouts() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    slow = answered(Answer("1", delay_s=5), timeout_s=0.1)
    unresolved = run(ask(runner(tool("http://api.example/", timeout_s=0.1), resolver=never)))
    for found in (slow, unresolved):
        assert (found.code, found.retryable) == ("timeout", True)


def test_what_is_left_of_an_answer_is_no_answer_to_another_call() -> None:
    """A server whose content-length is too small: the rest must not answer the next call."""
    planted = b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"planted"'

    async def work() -> list[Any]:
        def handler(seen: Seen) -> Answer:
            if len(server.seen) == 1:
                return Answer(b"1" + planted, headers={"content-length": "1"})
            return json_answer("mine")

        async with HttpServer(handler) as server:
            made = runner(tool(server.url, loopback=True))
            found: list[Any] = []
            for _ in range(3):
                try:
                    found.append(json.loads(await made.call(ToolRequest("{}"))))
                except EngineError as problem:
                    found.append((problem.code, problem.retryable))
            await made.close()
        return found

    assert run(work()) == [1, ("tool", True), "mine"]

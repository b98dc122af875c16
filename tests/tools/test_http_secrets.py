"""HTTP tools: TLS names, and keys that go to one server and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halo_sql.errors import CatalogError, EngineError, OperationalError
from halo_sql.tools.http_message import Sent
from halo_sql.tools.http_url import parse_url
from halo_sql.tools.protocol import ToolRequest

from .http_server import PUBLIC, Answer, HttpServer, Names, Seen, Wire, ask, json_answer, redirect, run, runner, tool

CANARY = 'sk-canary-7f3a"9\\c1'


def key_of(name: str, url: str) -> str:
    assert name == "s"
    return CANARY


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for api.example and other.example."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls")
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api.example -keyout key.pem -out cert.pem"
    names = "subjectAltName=DNS:api.example,DNS:other.example,IP:127.0.0.1"
    subprocess.run([*command.split(), "-addext", names], cwd=path, check=True, capture_output=True)
    return path


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context; clients trust its certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    return server_context(certificate)


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


def secure(
    tls: ssl.SSLContext,
    handler: Callable[[Seen], Answer],
    url: str = "https://api.example/start",
    keys: Callable[[str, str], str] = key_of,
    **options: Any,
) -> tuple[Any, list[Seen], list[tuple[str, int]]]:
    """One call over a network on which PUBLIC:443 is a TLS server and PUBLIC:80 is none; what was seen, and dialled."""

    async def work() -> tuple[Any, list[Seen], list[tuple[str, int]]]:
        async with HttpServer(handler, tls) as server, HttpServer(handler) as plain:
            wire = Wire(server.port, p80=plain.port)
            made = runner(tool(url, **options), keys, resolver=Names([PUBLIC]), dial=wire)
            found = await ask(made)
            return found, [*plain.seen, *server.seen], wire.dialled

    found: tuple[Any, list[Seen], list[tuple[str, int]]] = run(work())
    return found


def test_the_certificate_is_the_names_and_the_connection_the_addresses(tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    found, seen, dialled = secure(tls, lambda seen: json_answer(seen.headers["host"]))
    assert found == "api.example"
    assert names == ["api.example"]
    assert dialled == [(PUBLIC, 443)]
    assert len(seen) == 1


def test_a_certificate_of_another_name_or_of_nobody_is_refused(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, seen, _ = secure(tls, lambda seen: json_answer(1), "https://third.example/", secret="s")
    assert (found.code, found.retryable, seen) == ("unavailable", False, [])
    assert "certificate" in found.message
    monkeypatch.delenv("SSL_CERT_FILE")
    found, seen, _ = secure(server_context(certificate), lambda seen: json_answer(1))
    assert (found.code, found.retryable, seen) == ("unavailable", False, [])


def test_a_server_that_speaks_no_tls() -> None:
    async def work() -> Any:
        async with HttpServer() as server:
            return await ask(runner(tool(f"https://127.0.0.1:{server.port}/", loopback=True, timeout_s=0.3)))

    assert run(work()).code in ("unavailable", "timeout")


def test_cancelling_in_the_middle_of_a_handshake_leaves_nothing_open() -> None:
    async def work() -> int:
        met = asyncio.Event()
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            met.set()
            await reader.read(-1)  # until the client goes
            ended.set()
            writer.close()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            made = runner(tool(f"https://127.0.0.1:{port}/", loopback=True))
            call = asyncio.create_task(made.call(ToolRequest("{}")))
            await met.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await asyncio.wait_for(ended.wait(), 60)
            await made.close()
        return 1

    assert run(work()) == 1


def test_no_redirect_leads_from_https_to_http(tls: ssl.SSLContext) -> None:
    for location in ("http://api.example/x", "http://other.example/x"):
        found, seen, dialled = secure(
            tls, lambda seen, to=location: redirect(to), hosts=["other.example", "api.example"]
        )
        assert found.code == "denied"
        assert (len(seen), dialled) == (1, [(PUBLIC, 443)])


def test_a_redirect_from_http_to_https_is_followed(tls: ssl.SSLContext) -> None:
    def handler(seen: Seen) -> Answer:
        return redirect("https://api.example/x") if seen.path == "/start" else json_answer("safe")

    found, _, dialled = secure(tls, handler, "http://api.example/start", headers={"X-Own": "1"})
    assert found == "safe"
    assert dialled == [(PUBLIC, 80), (PUBLIC, 443)]


def test_the_key_is_a_bearer_token_for_the_tools_server_only(tls: ssl.SSLContext) -> None:
    asked = []

    def secret(name: str, url: str) -> str:
        asked.append((name, url))
        return CANARY

    def handler(seen: Seen) -> Answer:
        steps = {
            "/start": "/same",
            "/same": "https://other.example/away",
            "/away": "https://api.example/back",
        }
        return redirect(steps[seen.path], 307) if seen.path in steps else json_answer("done")

    found, seen, _ = secure(
        tls,
        handler,
        "https://api.example/start?q=1",
        secret,
        secret="s",
        method="POST",
        hosts=["other.example"],
        headers={"X-Api-Key": "mine", "Accept-Language": "de"},
    )
    assert found == "done"
    assert asked == [("s", "https://api.example/start")]
    sent = [(one.path, one.headers.get("authorization"), one.headers.get("x-api-key")) for one in seen]
    bearer = f"Bearer {CANARY}"
    assert sent == [("/start", bearer, "mine"), ("/same", bearer, "mine"), ("/away", None, None), ("/back", None, None)]
    assert {one.headers["accept-language"] for one in seen} == {"de"}
    assert {one.body for one in seen} == {b"{}"}


def test_another_port_is_another_server() -> None:
    async def work() -> tuple[Any, list[Seen]]:
        async with HttpServer() as other, HttpServer(lambda seen: redirect(other.url + "/x")) as server:
            bound = tool(server.url, loopback=True, secret="s", hosts=["127.0.0.1"])
            return await ask(runner(bound, key_of)), [*server.seen, *other.seen]

    found, seen = run(work())
    assert found["target"] == "/x"
    assert [one.headers.get("authorization") for one in seen] == [f"Bearer {CANARY}", None]


@pytest.mark.parametrize("url", ["http://api.example/", "http://93.184.216.34/", "http://localhost.example/"])
@pytest.mark.parametrize("loopback", [False, True])
def test_no_key_over_plain_http(url: str, loopback: bool) -> None:
    def secret(name: str, url: str) -> str:
        raise AssertionError("not even asked for")

    async def work() -> tuple[Any, int]:
        async with HttpServer() as server:
            bound = tool(url, secret="s", loopback=loopback)
            return await ask(
                runner(bound, secret, resolver=Names([PUBLIC]), dial=Wire(server.port))
            ), server.connections

    found, connections = run(work())
    assert (found.code, connections) == ("denied", 0)
    assert "https" in found.remedy


def test_a_secret_that_is_missing_or_no_key() -> None:
    def missing(name: str, url: str) -> str:
        raise CatalogError('Secret "s" does not exist', remedy="CREATE SECRET s …")

    def unreadable(name: str, url: str) -> str:
        raise OperationalError("its file can be read by others", remedy="Run chmod 600 on it.")

    for secret, text in ((missing, "does not exist"), (unreadable, "read by others")):
        found = run(ask(runner(tool("https://api.example/", secret="s"), secret)))
        assert (found.code, found.retryable) == ("auth", False)
        assert text in found.message
        assert found.remedy
    for bad in ("", f"{CANARY}\r\nx: y", f"{CANARY} x", CANARY + "ü", CANARY + "\0"):
        found = run(ask(runner(tool("https://api.example/", secret="s"), lambda name, url, key=bad: key)))
        assert found.code == "auth"
        assert "canary" not in "".join(traceback.format_exception(found))


def test_the_key_appears_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Servers that echo it, broken ones, refused redirects: not in a value, an error, a log or a repr."""
    caplog.set_level(logging.DEBUG)
    bearer = f"Bearer {CANARY}"
    quoted = CANARY.replace("\\", "\\\\").replace('"', '\\"')
    answers = [
        json_answer({"headers": {"authorization": bearer}}),
        Answer(bearer, headers={"content-type": "text/plain"}),
        json_answer({"error": f"bad key {CANARY}"}, 401),
        Answer(f'{{"why": "bad key {quoted}"}}', 404),
        Answer(bearer, 429, {"retry-after": "1"}),
        Answer(bearer, 500),
        Answer("x" * 290 + bearer, 500),
        Answer(bearer.upper(), 500),
        Answer("", headers={"x-echo": bearer}),
        Answer(raw=f"{bearer}\r\n\r\n".encode()),
        Answer(raw=f"HTTP/1.1 200 OK\r\n{bearer}\r\n\r\n".encode()),
        Answer(raw=f"HTTP/1.1 200 {bearer}\r\ncontent-length: {CANARY}\r\n\r\n".encode()),
        Answer("x", headers={"content-encoding": CANARY}),
        Answer("x", headers={"content-type": f"text/plain; charset={CANARY}"}),
        redirect(f"https://{CANARY}/"),
        redirect(f"http://api.example/{CANARY}"),
    ]
    shown = []

    async def work() -> None:
        for answer in answers:
            for returns in ("JSON", "VARCHAR"):
                async with HttpServer(lambda seen, one=answer: one) as server:
                    made = runner(tool(server.url, loopback=True, secret="s", returns=returns), key_of)
                    try:
                        shown.append(await made.call(ToolRequest("{}")))
                    except EngineError as problem:
                        shown.extend([str(problem), repr(problem), "".join(traceback.format_exception(problem))])
                    shown.extend([repr(made), repr(vars(made))])
                    await made.close()
                    assert server.seen[0].headers["authorization"] == bearer

    run(work())
    shown.append(repr(Sent("GET", parse_url("https://api.example"), {"authorization": bearer}, bearer.encode())))
    shown.extend(record.getMessage() for record in caplog.records)
    assert [text for text in shown if "canary" in text.lower()] == []
    assert len(shown) > 3 * len(answers)

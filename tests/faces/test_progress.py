"""Progress of LLM operators: a real server that answers when told, the shell on a terminal and without one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from halo_sql.metrics import NodeMetrics
from halo_sql.shell import progress

Start = Callable[..., Any]  # the fixture ``terminal``


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server that holds every answer until ``released`` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.released.wait(30)
        message = {"role": "assistant", "content": "fine"}
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        self._answer(
            {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        )

    def _answer(self, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def test_progress_then_rows_on_a_terminal(server: Server, terminal: Start) -> None:
    model = f"CREATE MODEL m FROM '{server.url}' USING openai WITH (model = 'm')"
    with terminal("-cmd", model) as shell:
        shell.wait("halo>")
        shell.send("SELECT LLM_MAP('{{ x }}', model => 'm') AS s FROM range(3) t(x);\r")
        assert "LLM_MAP(" in shell.wait("3 in flight")
        server.released.set()
        screen = shell.wait("3 LLM calls")
        assert "│ fine    │" in screen
        assert "in flight" not in screen


def test_ctrl_c_cancels_requests_in_flight(server: Server, terminal: Start) -> None:
    model = f"CREATE MODEL m FROM '{server.url}' USING openai WITH (model = 'm')"
    with terminal("-cmd", model) as shell:
        shell.wait("halo>")
        shell.send("SELECT LLM_MAP('{{ x }}', model => 'm') AS s FROM range(3) t(x);\r")
        shell.wait("in flight")
        shell.send("\x03")
        shell.wait("Interrupted", 3)
        shell.send("SELECT 'after' AS s;\r")
        assert "in flight" not in shell.wait("│ after   │")


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "PLAIN_S", 0.0)
    monkeypatch.setattr(progress, "_FIRST_S", 0.0)
    shown = progress.Progress()
    shown.start(lambda: [("LLM_MAP('x')", NodeMetrics(rows=2, rows_total=4, in_flight=2))])
    shown.tick()
    with shown.hidden():
        print("data")
    shown.stop()
    shown.tick()
    said = capsys.readouterr()
    assert said.out == "data\n"
    assert said.err == "progress: LLM_MAP('x'): 2/4 rows, 2 in flight, 0 answered (0 s)\n"


def test_progress_can_be_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_FIRST_S", 0.0)
    monkeypatch.setattr(progress, "PLAIN_S", 0.0)
    shown = progress.Progress(enabled=False)
    shown.start(lambda: [("LLM_MAP('x')", NodeMetrics())])
    shown.tick()
    assert capsys.readouterr() == ("", "")

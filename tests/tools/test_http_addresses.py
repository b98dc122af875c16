"""HTTP tools: no spelling of a URL, no name server and no redirect leads to an address that is not public."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import Any

import pytest

from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.http_address import refusal, system_resolver
from halo_sql.tools.http_url import normal_host, parse_url

from .http_server import PUBLIC, Answer, HttpServer, Names, Seen, Wire, ask, json_answer, redirect, run, runner, tool

#: {port} is the canary's, which listens on all of 127.0.0.0/8 and ::1
HOSTS = """
127.0.0.1 127.0.0.2 127.1.2.3 127.255.255.254 localhost LOCALHOST localhost. 127.0.0.1. LocalHost.
2130706433 0x7f000001 0x7F000001 017700000001 0177.0.0.1 0x7f.0.0.1 0x7f.1 127.1 127.0.1 127.0.0.01 0127.0.0.1
00000177.0.0.1 127.0x0.0.1 0 0.0.0.0 0x0 00 1 3232235777 0xa9fea9fe 2852039166 0251.0376.0251.0376
１２７.０.０.１ 127。0。0。1 127．0．0．1 ①②⑦.0.0.1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ 127.0.0.1%00 127.0.0.1%2eexample.org
%31%32%37.0.0.1
127%2e0%2e0%2e1 loc%61lhost 127.0.0.1\\.example.org ١٢٧.٠.٠.١
[::1] [0:0:0:0:0:0:0:1] [::0001] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1]
[64:ff9b::7f00:1] [64:ff9b::169.254.169.254] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:a9fe:a9fe::1]
[2001:0:7f00:1::] [2001:0:4136:e378:8000:63bf:80ff:fffe] [fe80::1] [fe80::1%25lo] [::1%25lo] [::1%lo]
[fec0::1] [fc00::1] [fd00:ec2::254]
[ff02::1] [2001:db8::1] [100::1] [5f00::1] [::ffff:0:127.0.0.1] [127.0.0.1] [localhost] [v1.127.0.0.1]
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.1.1 169.254.169.254 169.254.170.2 100.64.0.1
100.100.100.200 100.127.255.255 0.1.2.3 192.0.0.192 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
168.63.129.16 192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
""".split()  # noqa: SIM905 - a table
TRICKS = [
    "http://good.example@127.0.0.1:{port}/",
    "http://good.example:80@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@good.example/",
    "http://good.example%40127.0.0.1:{port}/",
    "http://@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@good.example/",
    "http://good.example\\.127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_GET",
    "dict://127.0.0.1:{port}/info",
    "ws://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    " http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}:80/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1 :{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://127.0.0.1\r\nhost: x/",
    "http://",
    "http://.",
    "http://:{port}/",
    "http://[::1:{port}/",
    "http://[::1]x:{port}/",
    "http://127.0.0.1#@good.example/",
    "http://127.0.0.1?@good.example/",
]
URLS = [*(f"http://{host}:{{port}}/" for host in HOSTS), *(f"https://{host}/" for host in HOSTS[:12]), *TRICKS]


class Canary:
    """An internal server: it must never be reached. Counts connections, whatever is sent."""

    def __init__(self) -> None:
        self.hits = 0
        self.port = 0
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Canary:
        self._servers = [await asyncio.start_server(self._hit, "0.0.0.0", 0)]
        self.port = self._servers[0].sockets[0].getsockname()[1]
        if socket.has_ipv6:
            with contextlib.suppress(OSError):  # a machine without IPv6
                self._servers.append(await asyncio.start_server(self._hit, "::1", self.port))
        return self

    async def __aexit__(self, *details: object) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()

    async def _hit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hits += 1
        writer.close()


def test_there_are_enough_urls() -> None:
    assert len(set(URLS)) >= 120


def test_no_url_reaches_the_inside() -> None:
    async def work() -> tuple[int, list[str]]:
        passed = []
        async with Canary() as canary:
            for url in URLS:
                try:
                    made = runner(tool(url.replace("{port}", str(canary.port))))
                except CatalogError:
                    continue  # refused before any call
                found = await ask(made)
                if not (isinstance(found, EngineError) and found.code == "denied" and not found.retryable):
                    passed.append(f"{url}: {found}")
        return canary.hits, passed

    hits, passed = run(work())
    assert (hits, passed) == (0, [])


def test_loopback_allows_this_machine_and_no_other_private_address() -> None:
    async def work() -> tuple[list[Any], int, list[Any]]:
        reached, refused = [], []
        async with HttpServer() as server:
            for host in ("127.0.0.1", "localhost", "LOCALHOST.", "localhost"):
                reached.append(await ask(runner(tool(f"http://{host}:{server.port}/", loopback=True))))
        async with Canary() as canary:
            for host in HOSTS:
                try:
                    address = ipaddress.ip_address(normal_host(host))
                except ValueError:
                    continue
                if not address.is_loopback:
                    found = await ask(runner(tool(f"http://{host}:{canary.port}/", loopback=True)))
                    refused.append(getattr(found, "code", found))
        return reached, canary.hits, refused

    reached, hits, refused = run(work())
    assert [found["target"] for found in reached] == ["/"] * 4
    assert hits == 0
    assert len(refused) > 30
    assert set(refused) == {"denied"}


@pytest.mark.parametrize(
    "inside", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "fe80::1%lo", "", "not-an-ip"]
)
@pytest.mark.parametrize("place", [0, 1])
def test_every_address_of_a_name_is_checked(inside: str, place: int) -> None:
    async def work() -> tuple[Any, list[tuple[str, int]]]:
        async with HttpServer() as server:
            answers = [PUBLIC, PUBLIC]
            answers[place] = inside
            wire = Wire(server.port)
            made = runner(tool("http://api.example/"), resolver=Names(answers), dial=wire)
            return await ask(made), wire.dialled

    found, dialled = run(work())
    assert isinstance(found, EngineError)
    assert found.code == "denied"
    assert "api.example" in found.message
    assert dialled == []


def test_a_name_server_that_changes_its_mind_reaches_nothing_inside() -> None:
    async def work() -> tuple[Any, ...]:
        async with HttpServer() as server, Canary() as canary:
            wire, names = Wire(server.port), Names([PUBLIC], ["127.0.0.1"])
            made = runner(tool(f"http://api.example:{canary.port}/"), resolver=names, dial=wire)
            first = await ask(made)
            again = await ask(made)  # a new connection, within the seconds for which the checked address is kept
            fresh = await ask(runner(tool(f"http://api.example:{canary.port}/"), resolver=names, dial=wire))
            return first, again, fresh, names.asked, wire.dialled, canary, server.seen

    first, again, fresh, asked, dialled, canary, seen = run(work())
    assert first["target"] == "/"
    assert again["target"] == "/"
    assert isinstance(fresh, EngineError)
    assert fresh.code == "denied"
    assert asked == ["api.example"] * 2
    assert dialled == [(PUBLIC, canary.port)] * 2
    assert canary.hits == 0
    assert seen[0].headers["host"] == f"api.example:{canary.port}"


def test_one_question_for_many_connections_and_the_next_address_when_one_is_dead() -> None:
    async def work() -> tuple[Any, ...]:
        async with HttpServer(lambda seen: Answer("1", delay_s=0.05)) as server:
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                names = Names(["127.0.0.3", "127.0.0.1"])  # nobody listens on the first
                made = runner(tool(f"http://api.example:{server.port}/", loopback=True), resolver=names)
                found = await asyncio.gather(*(ask_open(made) for _ in range(20)))
                await made.close()
        return found, names.asked

    async def ask_open(made: Any) -> Any:
        from halo_sql.tools.protocol import ToolRequest

        return await made.call(ToolRequest("{}"))

    found, asked = run(work())
    assert found == ["1"] * 20
    assert asked == ["api.example"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_inside(status: int) -> None:
    async def work() -> tuple[int, list[str]]:
        reached = []
        target = ""

        def handler(seen: Seen) -> Answer:
            at_start = seen.target == "/start"
            return redirect(target.encode().decode("latin-1"), status) if at_start else json_answer("public")

        async def resolve(host: str, port: int) -> list[str]:
            return [PUBLIC] if host == "api.example" else await system_resolver(host, port)

        async with Canary() as canary, HttpServer(handler) as server:
            hosts = ["127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "[::1]", "192.168.1.1"]
            for url in [*URLS, *(f"//{host}:{{port}}/" for host in HOSTS[:20])]:
                if "\r" in url:
                    continue  # no header can hold it
                target = url.replace("{port}", str(canary.port))
                bound = tool("http://api.example/start", hosts=hosts)
                found = await ask(runner(bound, resolver=resolve, dial=Wire(server.port)))
                if not (isinstance(found, EngineError) and found.code == "denied"):
                    reached.append(f"{url}: {found}")
        return canary.hits, reached

    assert run(work()) == (0, [])


def test_a_redirect_is_followed_by_name_only_to_hosts_that_are_named() -> None:
    async def work(hosts: list[str], location: str) -> Any:
        def handler(seen: Seen) -> Answer:
            return redirect(location) if seen.target == "/" else json_answer(seen.headers["host"])

        async with HttpServer(handler) as server:
            bound = tool("http://api.example/", hosts=hosts)
            return await ask(runner(bound, resolver=Names([PUBLIC]), dial=Wire(server.port)))

    assert run(work([], "http://api.example/x")) == "api.example"
    assert run(work([], "/x")) == "api.example"
    assert run(work(["Other.Example."], "http://other.example:81/x")) == "other.example:81"
    assert run(work(["other.example:81"], "http://other.example:81/x")) == "other.example:81"
    for hosts, location in [
        ([], "http://other.example/x"),
        ([], "http://api.example:81/x"),
        ([], "http://api.example.other.example/x"),
        (["other.example"], "http://sub.other.example/x"),
        (["other.example:81"], "http://other.example/x"),
        ([], "//other.example/x"),
    ]:
        found = run(work(hosts, location))
        assert isinstance(found, EngineError), location
        assert found.code == "denied", location
    with pytest.raises(CatalogError, match="cannot allow the host"):
        runner(tool("http://api.example/", hosts=["a/b@c"]))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> tuple[Any, int]:
        async with HttpServer() as server, Canary() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            found = await ask(runner(tool(server.url + "/direct", loopback=True)))
            return found, proxy.hits

    found, hits = run(work())
    assert found["target"] == "/direct"
    assert hits == 0


def test_what_may_be_reached() -> None:
    public = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
    assert [refusal(ipaddress.ip_address(address), False) for address in public] == [""] * len(public)
    assert refusal(ipaddress.ip_address("127.0.0.1"), True) == ""
    assert refusal(ipaddress.ip_address("169.254.169.254"), True) == "link-local"


def test_every_special_address_python_knows_is_refused() -> None:
    """The tables against ``ipaddress``: nothing that is not global there is allowed here."""
    for start in range(0, 2**32, 2**20 - 3):
        address = ipaddress.IPv4Address(start)
        assert address.is_global or refusal(address, False), address
    for top in range(2**16):
        address6 = ipaddress.IPv6Address((top << 112) + 1)
        assert address6.is_global or refusal(address6, False), address6


@pytest.mark.parametrize(
    ("text", "server", "target"),
    [
        ("HTTP://API.Example:80/a?b#c", "http://api.example", "/a?b"),
        ("https://api.example.", "https://api.example", "/"),
        ("https://bücher.example/ü?x=ü", "https://xn--bcher-kva.example", "/%C3%BC?x=%C3%BC"),
        ("http://[2606:4700:0::1]:8080/", "http://[2606:4700::1]:8080", "/"),
        ("http://my_host:1/%zz", "http://my_host:1", "/%25zz"),
        ("http://api.example?x=/@:", "http://api.example", "/?x=/@:"),
    ],
)
def test_urls_have_one_form(text: str, server: str, target: str) -> None:
    url = parse_url(text)
    assert (url.server, url.target) == (server, target)
    assert parse_url(url.server + url.target) == url


def test_errors_say_what_to_do() -> None:
    async def work() -> tuple[Any, Any]:
        return await ask(runner(tool("http://127.0.0.1:1/"))), await ask(runner(tool("http://10.0.0.1:1/")))

    here, private = run(work())
    assert 'tool "orders" may not connect to 127.0.0.1: it is a loopback address' in here.message
    assert "loopback = true" in here.remedy
    assert "public" in private.remedy

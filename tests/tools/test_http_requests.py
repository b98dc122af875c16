"""HTTP tools: what is sent. A value stays where its hole stands, whatever it holds."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import hypothesis
import pytest
from hypothesis import strategies as st

from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.http_content import BodyTemplate
from halo_sql.tools.http_target import UrlTemplate
from halo_sql.tools.http_template import read_arguments, text_of
from halo_sql.tools.protocol import ToolRequest

from .http_server import Answer, HttpServer, Seen, ask, echo, exchanged, redirect, run, runner, tool

BASE = "https://api.example"


def target(template: str, **arguments: object) -> str:
    return UrlTemplate(BASE + template, list(arguments), "tool").render(read_arguments(json.dumps(arguments))).target


@pytest.mark.parametrize(
    ("template", "value", "sent"),
    [
        ("/o/{{a}}", "x1-._~", "/o/x1-._~"),
        ("/o/{{ A }}/x", "a/b", "/o/a%2Fb/x"),
        ('/o/{{"a"}}', "a b+c", "/o/a%20b%2Bc"),
        ("/o/{{a}}", "?x=1#y", "/o/%3Fx%3D1%23y"),
        ("/o/{{a}}", "%2e%2e", None),
        ("/o/{{a}}", "%2fadmin", "/o/%252fadmin"),
        ("/o/{{a}}", "@evil.example:80\\", "/o/%40evil.example%3A80%5C"),
        ("/o/{{a}}", "\r\nx: y\0", "/o/%0D%0Ax%3A%20y%00"),
        ("/o/{{a}}", "ü😀", "/o/%C3%BC%F0%9F%98%80"),
        ("/o/{{a}}", "{{b}}", "/o/%7B%7Bb%7D%7D"),
        ("/o/{{a}}.json", "..", "/o/...json"),
        ("/o/v{{a}}", "1", "/o/v1"),
        ("/o/{{a}}", 1.10, "/o/1.1"),
        ("/o/{{a}}", True, "/o/true"),
        ("/o/{{a}}", [1, "b c"], "/o/%5B1%2C%22b%20c%22%5D"),
        ("/o/{{a}}", ".", None),
        ("/o/{{a}}", "..", None),
        ("/o/{{a}}/x", "..", None),
        ("/o/.{{a}}", ".", None),
        ("/o/{{a}}{{a}}", ".", None),
        ("/o/%2e{{a}}", ".", None),
        ("/o/{{a}}", "../admin", None),
        ("/o/{{a}}", "x/../../admin", None),
        ("/o/{{a}}", "..\\admin", None),
        ("/o/{{a}}", "..;x", None),
        ("/o/{{a}}", "%2e%2e%2fadmin", None),
        ("/o/{{a}}", "", None),
        ("/o/{{a}}", None, None),
        ("/o/{{a}}", "\ud800", None),
        ("/o/{{a}}", "x" * 20_000, None),
        ("?q={{a}}", "a&b=c#d e+f%20/?", "/?q=a%26b%3Dc%23d%20e%2Bf%2520%2F%3F"),
        ("?q={{a}}", "..", "/?q=.."),
        ("?q={{a}}", "", "/?q="),
        ("?q={{a}}", None, "/"),
        ("?q={{a}}&r=1", None, "/?r=1"),
        ("?p=1&q={{a}}&r=1", None, "/?p=1&r=1"),
        ("?p=1&{{a}}", None, "/?p=1"),
        ("?p=1&{{a}}", "x=1", "/?p=1&x%3D1"),
        ("?q=a{{a}}", None, None),
        ("?q={{a}}b", None, None),
        ("/ü x?ü=ä#frag{{a}}", "z", "/%C3%BC%20x?%C3%BC=%C3%A4"),
        ("/x{{{{y?{{a}}", "z", "/x%7B%7By?z"),
    ],
)
def test_a_value_in_the_url(template: str, value: object, sent: str | None) -> None:
    if sent is not None:
        assert target(template, a=value) == sent
        return
    with pytest.raises(EngineError) as caught:
        target(template, a=value)
    assert (caught.value.code, caught.value.retryable) == ("rejected", False)


@hypothesis.given(st.text(), st.text())
def test_no_value_leaves_its_place(first: str, second: str) -> None:
    try:
        found = target("/a/{{x}}/b?y={{y}}&z=1", x=first, y=second)
    except EngineError:
        return
    path, _, query = found.partition("?")
    assert [unquote(part) for part in path.split("/")] == ["", "a", first, "b"]
    assert [unquote(part) for part in query.split("&")] == [f"y={second}", "z=1"]
    assert found.isascii()
    assert "#" not in found


@pytest.mark.parametrize(
    "url",
    [
        "https://{{a}}/x",
        "https://{{a}}.example/x",
        "https://api.example{{a}}/x",
        "https://api.example:{{a}}/x",
        "https://api.example{{a}}",
        "{{a}}://api.example/",
        "{{a}}",
        "https:{{a}}",
        "https://user:pw@api.example/{{a}}",
        "https://{{{{/x",
        "ftp://api.example/{{a}}",
        "https://api.example/{{b}}",
        "https://api.example/{{a",
        "https://api.example/{{a.b}}",
        "https://api.example/{{ 'a' }}",
        "https://api.example/{{}}",
    ],
)
def test_urls_that_no_tool_can_have(url: str) -> None:
    with pytest.raises(CatalogError):
        runner(tool(url, parameters=["a"]))


@pytest.mark.parametrize(
    ("body", "arguments", "sent"),
    [
        ('{"a": {{a}}}', {"a": "x"}, '{"a": "x"}'),
        ('{"a": {{a}}}', {"a": 1.5}, '{"a": 1.5}'),
        ('{"a": {{a}}}', {"a": None}, '{"a": null}'),
        ('{"a": {{a}}}', {"a": {"b": [1, "c d"]}}, '{"a": {"b":[1,"c d"]}}'),
        (
            '{"a":{"b":{{a}}}}',
            {"a": 'x", "admin": true, "y": "'},
            '{"a":{"b":"x\\", \\"admin\\": true, \\"y\\": \\""}}',
        ),
        ('{"a": "Dear {{a}}!"}', {"a": 'x"\\\n'}, '{"a": "Dear x\\"\\\\\\n!"}'),
        ('{"a": "n = {{a}}"}', {"a": [1, "b"]}, '{"a": "n = [1,\\"b\\"]"}'),
        ('{"a": "\\"{{a}}\\""}', {"a": "x"}, '{"a": "\\"x\\""}'),
        ('{"a": "\\\\", "b": {{a}}}', {"a": "x"}, '{"a": "\\\\", "b": "x"}'),
        ('{{{{"', {}, None),
        ('{"a": "Dear {{a}}!"}', {"a": None}, EngineError),
        ("{ {{a}}: 1}", {"a": "x"}, '{ "x": 1}'),
        ("{ {{a}}: 1}", {"a": 5}, EngineError),
        ('{"a": {{a}}}', {"a": "\ud800"}, '{"a": "\\ud800"}'),
        ('{"a": "{{a}}"}', {"a": "\ud800"}, EngineError),
        ("{{a}}", {"a": "x"}, '"x"'),
        ('{"a": 1{{a}}}', {"a": 1}, None),
        ('{"a": {{a}}', {"a": 1}, None),
    ],
)
def test_a_value_in_a_json_body(body: str, arguments: dict[str, Any], sent: object) -> None:
    if sent is None:
        with pytest.raises(CatalogError):
            BodyTemplate(body, "", list(arguments), "tool")
        return
    made = BodyTemplate(body, "", list(arguments), "tool")
    given = read_arguments(json.dumps(arguments))
    if isinstance(sent, str):
        assert made.render(given, "").decode() == sent
        assert made.content_type == "application/json"
        return
    with pytest.raises(EngineError):
        made.render(given, "")


@hypothesis.given(st.text(), st.text())
def test_a_json_body_has_the_shape_of_its_template(first: str, second: str) -> None:
    made = BodyTemplate('{"a": {{a}}, "b": ["x {{b}} y", {{b}}]}', "application/json", ["a", "b"], "tool")
    body = made.render(read_arguments(json.dumps({"a": first, "b": second})), "")
    assert json.loads(body) == {"a": first, "b": [f"x {second} y", second]}


@pytest.mark.parametrize(
    ("kind", "body", "value", "sent"),
    [
        ("application/x-www-form-urlencoded", "a={{a}}&b=1", "x&y=z ü", "a=x%26y%3Dz%20%C3%BC&b=1"),
        ("application/x-www-form-urlencoded", "a={{a}}&b=1", None, "b=1"),
        ("application/x-www-form-urlencoded", None, "x&y", "a=x%26y"),
        ("application/x-www-form-urlencoded", None, None, ""),
        ("text/plain; charset=utf-8", "Dear {{a}}", "<ü>", "Dear <ü>"),
        ("text/xml", "<a b='{{a}}'/>", "<'&\">", "<a b='&lt;&apos;&amp;&quot;&gt;'/>"),
        ("application/soap+xml", "<a>{{a}}</a>", "]]></a>", "<a>]]&gt;&lt;/a&gt;</a>"),
        ("application/vnd.api+json", '{"a": {{a}}}', "x", '{"a": "x"}'),
    ],
)
def test_a_value_in_another_body(kind: str, body: str | None, value: object, sent: str) -> None:
    options = {} if body is None else {"body": body}
    _, seen = exchanged(echo, method="POST", arguments={"a": value}, headers={"Content-Type": kind}, **options)
    assert seen[0].body.decode() == sent
    assert seen[0].headers["content-type"] == kind


def test_a_post_without_a_body_sends_its_arguments() -> None:
    _, seen = exchanged(echo, method="POST", arguments={"a": "ü", "b": None, "c": [1]})
    assert json.loads(seen[0].body) == {"a": "ü", "b": None, "c": [1]}
    assert seen[0].headers["content-type"] == "application/json"
    assert seen[0].headers["content-length"] == str(len(seen[0].body))


def test_headers_key_and_method() -> None:
    headers = {"X-Fixed": "f", "X-Id": "id {{ a }}", "X-Null": "{{b}}", "X-Wide": "{{c}}", "X-Latin": "{{d}}"}
    _, seen = exchanged(
        echo, "/x", arguments={"a": 7, "b": None, "c": "ü → 😀", "d": "é"}, key="key-1", headers=headers
    )
    found = seen[0].headers
    assert seen[0].method == "GET"
    assert seen[0].body == b""
    assert (found["x-fixed"], found["x-id"], found["idempotency-key"]) == ("f", "id 7", "key-1")
    assert (found["x-latin"], found["x-wide"]) == ("é", "%C3%BC %E2%86%92 %F0%9F%98%80")
    assert "x-null" not in found
    assert "cookie" not in found
    assert "idempotency-key" not in exchanged(echo)[1][0].headers


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b", "\x7f", "\x1b[0m"])
def test_no_value_breaks_a_header(value: str) -> None:
    found, seen = exchanged(echo, arguments={"a": value}, headers={"X-A": "{{a}}"})
    assert found.code == "rejected"
    assert seen == []


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Host": "other.example"}},
        {"headers": {"content-length": "3"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Proxy-Authorization": "x"}},
        {"headers": {"a b": "x"}},
        {"headers": {"a": "x\r\ny: z"}},
        {"headers": {"a": {"b": 1}}},
        {"headers": {"a": "{{nothing}}"}},
        {"headers": {"content-type": "{{a}}"}},
        {"headers": "no object"},
        {"body": "{}"},
        {"path": "items"},
        {"path": "$.items["},
        {"redirects": 4},
        {"redirects": -1},
        {"max_bytes": 0},
        {"loopback": "maybe"},
        {"hosts": "api.example"},
    ],
)
def test_options_that_no_tool_can_have(options: dict[str, object]) -> None:
    with pytest.raises(CatalogError):
        runner(tool(BASE, parameters=["a"], **options))


def test_bodies_that_no_tool_can_have() -> None:
    for kind in ("multipart/form-data", "application/octet-stream"):
        with pytest.raises(CatalogError):
            runner(tool(BASE, method="POST", headers={"content-type": kind}, body="x"))
    with pytest.raises(CatalogError, match="needs the option body"):
        runner(tool(BASE, method="POST", headers={"content-type": "text/plain"}))


def test_arguments_keep_their_spelling() -> None:
    text = '{ "A" : 1.10 , "b": 1e400, "c": [ 1.0, {"x" : "a , b"} ], "d": 123456789012345678901234567890, "e": null}'
    assert read_arguments(text) == {
        "a": "1.10",
        "b": "1e400",
        "c": '[1.0,{"x":"a , b"}]',
        "d": "123456789012345678901234567890",
        "e": "null",
    }
    assert text_of('"a\\u00e9"') == "aé"


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", '{"a"}', '{"a":}', '{"a":1,}', '{"a":NaN}', '{"a":1} x', "{a:1}", "{1:1}", "[" * 9999]
)
def test_arguments_that_are_none(text: str) -> None:
    with pytest.raises(EngineError, match="no JSON object"):
        read_arguments(text)


def test_redirects_keep_or_drop_the_body_as_browsers_do() -> None:
    def last(method: str, status: int) -> Seen:
        def handler(seen: Seen) -> Answer:
            return redirect("/there?x=1", status) if seen.path == "/here" else echo(seen)

        options = {"body": '{"a": 1}'} if method == "POST" else {}
        found, seen = exchanged(handler, "/here", method=method, key="k", headers={"X-Own": "1"}, **options)
        assert found["target"] == "/there?x=1"
        return seen[-1]

    for status in (301, 302, 303):
        seen = last("POST", status)
        assert (seen.method, seen.body, "content-type" in seen.headers) == ("GET", b"", False)
        assert seen.headers["x-own"] == "1"
    for status in (307, 308):
        seen = last("POST", status)
        assert (seen.method, seen.body) == ("POST", b'{"a": 1}')
        assert seen.headers["idempotency-key"] == "k"
    assert {last("GET", status).method for status in (301, 302, 303, 307, 308)} == {"GET"}


@pytest.mark.parametrize(
    ("most", "hops", "ends"), [(None, 3, "ok"), (None, 4, "denied"), (0, 1, "denied"), (1, 1, "ok")]
)
def test_how_many_redirects_are_followed(most: int | None, hops: int, ends: str) -> None:
    def handler(seen: Seen) -> Answer:
        at = int(seen.path[1:])
        return redirect(f"/{at + 1}") if at < hops else echo(seen)

    found, seen = exchanged(handler, "/0", **({} if most is None else {"redirects": most}))
    assert (found.code if isinstance(found, EngineError) else "ok") == ends
    assert len(seen) == min(hops, 3 if most is None else most) + 1


def test_connections_are_kept() -> None:
    async def work() -> tuple[int, int]:
        async with HttpServer() as server:
            made = runner(tool(server.url, loopback=True))
            for _ in range(20):
                await made.call(ToolRequest("{}"))
            await made.close()
            await made.close()
            again = await ask(made)  # a closed runner opens again
            assert again["target"] == "/"
        return server.connections, len(server.seen)

    assert run(work()) == (2, 21)

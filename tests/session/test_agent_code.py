"""What text of a model never becomes, written queries included: a file, code, SQL, something for the next row."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import halo_sql
from tests.agents.attacks import CANARY
from tests.tools.test_sandbox_attacks import ATTACKS

from .agents_support import add_model, answer, calls, connect, data, results, rows, served, totals, turn

PATHS = [
    "{dir}/secret.csv", "{dir}/./secret.csv", "{dir}/../{name}/secret.csv", "{dir}//secret.csv", "{dir}/link.csv",
    "{dir}/*.csv", "{dir}/s?cret.csv", "{dir}/[s]ecret.csv", "file://{dir}/secret.csv", "file:{dir}/secret.csv",
    "./secret.csv", "secret.csv", "../../../../../../../{dir}/secret.csv", "/proc/self/environ", "/proc/self/cwd/x",
    "/proc/self/fd/3", "/dev/fd/3", "/dev/stdin", "~/secret.csv", "{dir}/secret.csv\\0.txt", "{dir}/%73ecret.csv",
]  # fmt: skip
READERS = ["FROM '{}'", "FROM read_text('{}')", "FROM read_csv('{}')", "FROM read_blob('{}')", "FROM glob('{}')"]


def test_56_no_file_is_read_whatever_its_path_is_spelled_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.csv").write_text(f"a,b\n1,{CANARY}\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "secret.csv")
    monkeypatch.setenv("CANARY", CANARY)
    paths = [path.replace("{dir}", str(tmp_path)).replace("{name}", tmp_path.name) for path in PATHS]
    asked = [f"SELECT * {reader.format(path)}" for path in paths for reader in READERS]
    with connect() as con:
        con.execute("CREATE TABLE orders AS SELECT 1 AS id")
        con.execute("CREATE TOOL ask(query VARCHAR) RETURNS JSON AS SQL '$query' WITH (tables = [orders])")
        found = rows(con, "SELECT TOOL(ask, q, on_error => 'struct') FROM (SELECT unnest(?::VARCHAR[]) AS q)", [asked])
        assert len(found) == len(asked) > 100
        assert all(item["value"] is None and item["error"] for (item,) in found)
        assert CANARY not in re.sub(r"/\S+", "", str(found))


def test_53_one_select_and_nothing_is_kept_for_the_next_row() -> None:
    """Queries of one statement, of which every second one tries to leave something for the one behind it."""
    tries = [
        text for text in ATTACKS["denied"] if re.match("(?i)(create|insert|set|pragma|prepare|begin|with d)", text)
    ]
    tries += [
        "CREATE TEMP TABLE x AS SELECT 1",
        "SET VARIABLE x = 1",
        "SELECT 1; CREATE TABLE x AS SELECT 1",
        "ROLLBACK",
    ]
    sees = "SELECT count(*) AS n, sum(id) AS s FROM orders WHERE status LIKE 's%'"
    asked = [text for attempt in tries for text in (attempt, sees, "SELECT * FROM x")]
    with connect() as con:
        con.execute("CREATE TABLE orders AS SELECT range AS id, 's' || range AS status FROM range(5)")
        con.execute("CREATE TOOL ask(query VARCHAR) RETURNS JSON VOLATILE AS SQL '$query' WITH (tables = [orders])")
        found = rows(con, "SELECT TOOL(ask, q, on_error => 'struct') FROM (SELECT unnest(?::VARCHAR[]) AS q)", [asked])
        values = [item["value"] for (item,) in found]
        assert values[1::3] == ['[{"n":5,"s":10}]'] * len(tries)
        assert set(values[0::3] + values[2::3]) == {None}
        assert totals(con)["tool_calls"] == len(asked) > 40
        assert rows(con, "SELECT count(*), sum(id) FROM orders") == [(5, 10)]


SQL_TEXTS = [
    "'; DROP TABLE t; --", "' OR '1' = '1", "') UNION SELECT body FROM t --", "$v", "$$", "$v$", "$1", "?", "{{ v }}",
    "\\'; DROP TABLE t; --", "'' OR TRUE --", "/* */", "--", ";", "x'; ATTACH 'evil.db'; --",
    "'||(SELECT max(body) FROM t)||'", "\"", "`", "\n'); DROP TABLE t;\n--", "E'\\x27'", "CAST(1 AS INTEGER)", "NULL",
    "DEFAULT", "🦆'", "%", "_", "%27",
]  # fmt: skip


def test_60_arguments_never_become_sql() -> None:
    with connect() as con:
        con.execute("CREATE TABLE t AS SELECT 'private' AS body, 'a' AS name")
        con.execute("CREATE TABLE kept (v VARCHAR)")
        con.execute("CREATE TOOL same(v VARCHAR) RETURNS VARCHAR AS SQL 'SELECT $v'")
        con.execute(
            "CREATE TOOL named(v VARCHAR) RETURNS TABLE (body VARCHAR) AS SQL 'SELECT body FROM t WHERE name = $v'"
        )
        model = add_model(
            con,
            lambda messages: calls(("same", {"v": data(messages)["v"]}), ("named", {"v": data(messages)["v"]})),
            lambda messages: answer(results(messages)[0]["result"]),
        )
        con.execute("CREATE AGENT g WITH (tools = [same, named])")
        given = "(SELECT unnest(?::VARCHAR[]) AS v)"
        found = rows(con, f"SELECT v, AGENT(g, 'Repeat {{{{ v }}}}') FROM {given}", [SQL_TEXTS])
        assert found == [(text, text) for text in SQL_TEXTS]
        brought = [results(messages) for messages in model.prompts if turn(messages) == 1]
        assert [item[1]["result"] for item in brought] == [[]] * len(SQL_TEXTS)
        con.execute(f"INSERT INTO kept SELECT AGENT(g, 'Repeat {{{{ v }}}}') FROM {given}", [SQL_TEXTS])
        assert sorted(value for (value,) in rows(con, "FROM kept")) == sorted(SQL_TEXTS)
        assert rows(con, "SELECT count(*) FROM t") == [(1,)]
        assert not Path("evil.db").exists()


TAKES = {"shown": "text", "base": "p", "ask": "query", "page": "q"}


def test_57_code_that_a_model_writes_never_runs(tmp_path: Path) -> None:
    """Whatever it is given to: a function, a query, a server, the name of a tool."""
    made = tmp_path / "made"
    codes = [
        f"__import__('os').system('touch {made}')", f"open({str(made)!r}, 'w')",
        f"import os; os.mkdir({str(made)!r})", f"$(touch {made})", f"`touch {made}`", f"; touch {made}",
        f"| touch {made}", f"{{{{ open({str(made)!r}, 'w') }}}}", f"<script>touch {made}</script>",
        f"!!python/object/apply:os.system ['touch {made}']", f"COPY t TO '{made}'",
    ]  # fmt: skip

    def shown(text: str) -> str:
        return text

    with served() as server, connect() as con:
        con.execute("CREATE TABLE t AS SELECT 1 AS id")
        con.create_tool("shown", shown, egress=False)
        con.execute("CREATE TOOL base(p VARCHAR) RETURNS VARCHAR AS PYTHON 'posixpath:basename' WITH (egress = false)")
        con.execute("CREATE TOOL ask(query VARCHAR) RETURNS JSON AS SQL '$query' WITH (tables = [t])")
        con.execute(
            f"CREATE TOOL page(q VARCHAR) RETURNS JSON AS HTTP POST '{server.url}/x' "
            "WITH (loopback = true, egress = false)"
        )
        add_model(
            con,
            lambda messages: calls(
                *((name, {key: data(messages)["v"]}) for name, key in TAKES.items()),
                ("eval", {"text": data(messages)["v"]}),
                (data(messages)["v"], {}),
            ),
            lambda messages: answer(json.dumps(results(messages))),
        )
        con.execute("CREATE TEMP AGENT g WITH (tools = [shown, base, ask, page])")
        found = rows(con, "SELECT v, AGENT(g, 'Run {{ v }}') FROM (SELECT unnest(?::VARCHAR[]) AS v)", [codes])
        for text, shown_results in found:
            first, base, asked, page, evaluated, own = json.loads(shown_results)
            assert first["result"] == text
            assert base["result"] == os.path.basename(text)  # noqa: PTH119 - what the function gives
            assert "error" in asked
            assert json.loads(page["result"]["body"]) == {"q": text}
            assert "there is no tool" in evaluated["error"]
            assert "there is no tool" in own["error"]
        assert not made.exists()
        for name in ("builtins:eval", "builtins:exec", "builtins:__import__", "os:system('x')", "lambda x: x"):
            with pytest.raises(halo_sql.Error):
                define_and_call(con, name.replace("'", "''"))


def define_and_call(con: halo_sql.Connection, function: str) -> None:
    con.execute(f"CREATE OR REPLACE TOOL e(x VARCHAR) RETURNS JSON AS PYTHON '{function}'")
    con.execute("SELECT TOOL(e, '1')").fetchall()

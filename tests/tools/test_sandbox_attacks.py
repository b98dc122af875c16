"""SQL written by a hostile model: no file, no socket, no change, no secret, always a typed error."""

import asyncio
import json
import os
import re
import socket
import threading

import pytest

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.tools.protocol import BoundTool, ToolRequest
from halo_sql.tools.sandbox import SandboxRunner
from halo_sql.tools.sandbox_gate import DeniedError, check_tree

CANARY = "canary-7d1f-secret"
#: code of the error -> texts; {dir} holds the canary, {port} is a server of ours
ATTACKS = {
    "denied": [
        "SELECT * FROM '{dir}/secret.csv'",
        "SELECT * FROM \"{dir}/secret.csv\"",
        "FROM '{dir}/secret.csv'",
        "TABLE \"{dir}/secret.csv\"",
        "SELECT * FROM orders, '{dir}/secret.csv'",
        "SELECT * FROM orders JOIN '{dir}/secret.csv' ON true",
        "SELECT * FROM read_csv('{dir}/secret.csv')",
        "SELECT * FROM read_csv_auto('{dir}/secret.csv')",
        "SELECT * FROM read_text('{dir}/secret.csv')",
        "SELECT * FROM read_blob('{dir}/secret.csv')",
        "SELECT * FROM read_json('{dir}/secret.csv')",
        "SELECT * FROM read_ndjson_objects('{dir}/*')",
        "SELECT * FROM read_parquet('{dir}/secret.csv')",
        "SELECT * FROM parquet_scan('{dir}/secret.csv')",
        "SELECT * FROM parquet_kv_metadata('{dir}/secret.csv')",
        "SELECT * FROM read_duckdb('{dir}/own.db')",
        "SELECT * FROM sniff_csv('{dir}/secret.csv')",
        "SELECT * FROM glob('{dir}/*')",
        "SELECT * FROM SYSTEM.MAIN.READ_TEXT('{dir}/secret.csv')",
        "SELECT * FROM \"read_text\"('{dir}/secret.csv')",
        "SELECT (SELECT content FROM read_text('{dir}/secret.csv'))",
        "SELECT 1 WHERE EXISTS (FROM read_text('{dir}/secret.csv'))",
        "WITH x AS (FROM read_text('{dir}/secret.csv')) SELECT * FROM x",
        "SELECT * FROM orders UNION ALL SELECT 1, content FROM read_text('{dir}/secret.csv')",
        "SELECT * FROM orders ORDER BY (SELECT content FROM read_text('{dir}/secret.csv'))",
        "SELECT * FROM orders LIMIT (SELECT count(*) FROM glob('{dir}/*'))",
        "SELECT * FROM query('SELECT * FROM read_text(''{dir}/secret.csv'')')",
        "SELECT * FROM query_table('orders')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT json_execute_serialized_sql('x')",
        "SELECT * FROM read_csv('http://127.0.0.1:{port}/x')",
        "SELECT * FROM 'http://127.0.0.1:{port}/x.parquet'",
        "SELECT * FROM read_text('https://127.0.0.1:{port}/x')",
        "SELECT * FROM read_parquet('s3://127.0.0.1:{port}/x')",
        "SELECT getenv('HOME')",
        "SELECT getvariable('x')",
        "SELECT current_setting('secret_directory')",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_logs",
        "SELECT * FROM duckdb_databases()",
        "SELECT * FROM which_secret('s3://x', 's3')",
        "SELECT * FROM pragma_database_size()",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM pg_catalog.pg_class",
        "SELECT * FROM hidden",
        "SELECT * FROM main.hidden",
        "SELECT * FROM memory.main.hidden",
        "WITH hidden AS (SELECT 1) SELECT * FROM main.hidden",
        "SELECT pg_get_viewdef('hidden')",
        "SELECT nextval('s')",
        "SELECT setseed(0.5)",
        "SELECT write_log('x')",
        "SELECT sleep_ms(100000)",
        "SELECT pg_sleep(100)",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT * FROM pandas_scan(140000000)",
        "SELECT * FROM python_map_function(1)",
        "SELECT finalize('x'::BLOB)",
        "SELECT * FROM checkpoint()",
        "SELECT * FROM enable_logging('QueryLog', storage := 'file')",
        "WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d",
        "WITH d AS (INSERT INTO orders VALUES (1, 'x') RETURNING *) SELECT * FROM d",
        "WITH d AS (UPDATE orders SET id = 1 RETURNING *) SELECT * FROM d",
        "DELETE FROM orders",
        "DROP TABLE orders",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO orders VALUES (1, 'x')",
        "ATTACH '{dir}/new.db'",
        "COPY orders TO '{dir}/new.csv'",
        "COPY (SELECT 1) TO '{dir}/new.csv'",
        "EXPORT DATABASE '{dir}/new'",
        "INSTALL httpfs",
        "LOAD '{dir}/evil.duckdb_extension'",
        "SET enable_external_access = true",
        "RESET ALL",
        "PRAGMA enable_profiling",
        "PRAGMA temp_directory = '{dir}'",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE SELECT 1",
        "PREPARE p AS SELECT 1",
        "BEGIN",
        "USE system",
        "VACUUM",
        "CREATE FUNCTION f() AS 1",
        "SELECT 1; SELECT 2",
        "SELECT 1; ATTACH '{dir}/new.db'",
        "SELECT 1;; COPY orders TO '{dir}/new.csv';",
        "SELECT 1) AS a; COPY orders TO '{dir}/new.csv'; SELECT * FROM (SELECT 1",
        "SELECT * FROM (DESCRIBE orders)",
        "SELECT * FROM (SHOW ALL TABLES)",
        "SELECT * FROM (SUMMARIZE orders)",
        "SELECT $1",
        "",
        "   -- nothing",
    ],
    "rejected": [
        "SELECT 1) AS a, (SELECT 2",
        "SELECT 1) UNION ALL SELECT content FROM read_text('{dir}/secret.csv') -- ",
        "SELECT 1 /*",
        "SELECT 1 FROM orders -- {dir}\n)",
        "SELECT $$x",
        "SELECT id, nope FROM orders",
        "SELECT open('{dir}/secret.csv')",
        "SELECT load_extension('{dir}/evil')",
        "SELECT * FROM orders AT (VERSION => 1)",
        "SELECT " + "x" * 20_000,
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "- " * 5000 + "1",
        "SELECT \ud800",
    ],
    "too_large": [
        "SELECT range FROM range(100000)",
        "SELECT repeat('x', 70000)",
        "SELECT list(range) FROM range(100000)",
        "SELECT {'a': repeat('x', 100000)}",
    ],
    "tool": [
        "SELECT length(repeat('x', 4000000000))",
        "SELECT CAST('many' AS INTEGER)",
        "SELECT error('x')::INTEGER",
    ],
    "tool or timeout": [  # whichever limit comes first
        "WITH " + "a AS (WITH " * 30,
        "SELECT sum(length(x)) FROM (SELECT repeat('x', 100000000) || range AS x FROM range(100))",
        "SELECT count(DISTINCT repeat(range::VARCHAR, 300)) FROM range(3000000)",
        "SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(4000)",
        "SELECT [[repeat('x', 1000000) FOR a IN range(100)] FOR b IN range(100)] IS NULL",
    ],
    "": [  # harmless
        "SELECT '{dir}/secret.csv' AS path, 'read_text(' AS text",
        "SELECT 1 -- ; DROP TABLE orders",
        "WITH sqlite_master AS (SELECT 1 AS a) SELECT * FROM sqlite_master",
        "SELECT id FROM orders ORDER BY id LIMIT 1;",
        "SELECT current_date IS NOT NULL",
        "SELECT 1 AS \"x' || version() || '\"",
        "SELECT 1 AS \"a\"\" FROM read_text('{dir}/secret.csv') -- \"",
        "SELECT session_user FROM (SELECT 1 AS session_user)",
    ],
}  # fmt: skip


class World:
    """A user's connection with a sandbox, a folder with a secret and a server that no one should call."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "secret.csv").write_text(f"a,b\n1,{CANARY}\n")
        Duck.connect(str(folder / "own.db"), False, {}).close()
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()
        self.duck = Duck.connect(":memory:", False, {})
        self.duck.execute("CREATE TABLE orders AS SELECT i AS id, 's' || i AS status FROM range(5) t(i)")
        self.duck.execute(f"CREATE TABLE hidden AS SELECT '{CANARY}' AS secret")
        self.duck.execute("CREATE SEQUENCE s")
        self.catalog = self.seen()
        self.loop = asyncio.Runner()
        text = self.duck.sql_type("VARCHAR")
        definition = ToolDef(
            "ask", "sql", "$query", (Parameter("query", "VARCHAR"),), returns="JSON", options={"tables": ["orders"]}
        )
        tool = BoundTool(definition, (("query", text),), self.duck.sql_type("JSON"))
        self.runner = SandboxRunner(tool, self._on_connection)

    async def _on_connection(self, work):
        return await asyncio.to_thread(work, self.duck)

    def _accept(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def seen(self):
        tables = self.duck.rows("SELECT table_name, sql, estimated_size FROM duckdb_tables() ORDER BY ALL")
        return tables, self.duck.rows("FROM orders ORDER BY ALL"), self.duck.rows("FROM duckdb_sequences()")

    def ask(self, sql):
        request = ToolRequest(json.dumps({"query": sql}))
        return self.loop.run(self.runner.call_many([request]))[0]

    def close(self):
        self.loop.run(self.runner.close())
        self.loop.close()
        self.duck.close()
        self.server.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    os.environ["CANARY"] = CANARY
    opened = World(tmp_path_factory.mktemp("canary"))
    yield opened
    opened.close()
    del os.environ["CANARY"]


CASES = [(code, text) for code, texts in ATTACKS.items() for text in texts]


@pytest.mark.parametrize(("code", "text"), CASES, ids=[f"{code or 'ok'}-{text[:60]}" for code, text in CASES])
def test_an_attack_gets_a_typed_error_and_nothing_else(world, code, text):
    sql = text.replace("{dir}", str(world.folder)).replace("{port}", str(world.port))
    outcome = world.ask(sql)
    if code:
        assert isinstance(outcome, EngineError), outcome[:200]
        assert outcome.code in code.split(" or "), outcome.message
        assert 'tool "ask"' in outcome.message
        assert len(outcome.message) < 1000
    else:
        assert isinstance(outcome, str), outcome
        assert isinstance(json.loads(outcome), list)
    assert CANARY not in str(outcome)
    assert {path.name: path.read_bytes() for path in world.folder.iterdir()} == world.files
    assert world.connections == 0
    assert world.seen() == world.catalog


def test_the_sandbox_still_answers_after_all_that(world):
    assert world.ask("SELECT count(*) AS n FROM orders") == '[{"n":5}]'
    assert world.ask("SELECT * FROM orders WHERE id = 2") == '[{"id":2,"status":"s2"}]'


def test_there_are_more_than_sixty_attacks():
    assert len([code for code, _ in CASES if code]) > 60


#: names that sound like the outside world, looked at one by one: they compute values of their arguments
LOOKED_AT = frozenset(
    (
        "json_copy_strftime_if_date", "json_copy_strftime_if_timestamp", "parse_dirname", "parse_dirpath",
        "parse_filename", "parse_path", "path_join", "json_extract_path", "json_extract_path_text", "url_decode",
        "url_encode",
    )
)  # fmt: skip
OUTSIDE = re.compile(
    "read|write|file|env|secret|http|url|load|setting|_log|exec|sql|query|sleep|pragma|duckdb|glob|attach|copy|path|scan"
    "|checkpoint|seed|nextval|currval|setval|variable|extern|pointer"
)


def test_functions_of_this_duckdb_that_reach_outside_are_denied(world):
    """A DuckDB with new functions fails here until someone has looked at them."""
    functions = world.duck.rows(
        "SELECT DISTINCT function_name, function_type FROM duckdb_functions() WHERE internal "
        "AND function_type <> 'pragma'"  # only PRAGMA calls these
    )
    passed = set()
    for name, kind in functions:
        called = f'"{name}"(1)'
        query = f"SELECT * FROM {called}" if kind.startswith("table") else f"SELECT {called}"
        (text,) = world.duck.rows("SELECT json_serialize_sql($1)", [query])[0]
        try:
            check_tree(json.loads(text), {"orders"})
        except DeniedError:
            continue
        passed.add((name, kind.startswith("table")))
    assert {name for name, table in passed if table} == {
        "generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest",
    }  # fmt: skip
    assert {name for name, _ in passed if OUTSIDE.search(name)} - LOOKED_AT == set()

"""A connection under random statements: it shows what a model of it says, and nothing but our errors comes out."""

from __future__ import annotations

import contextlib
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import halo_sql

NAMES = st.sampled_from(["a", "b", "c"])
#: (examples, steps): HALO_FUZZ_EXAMPLES=500 HALO_FUZZ_STEPS=50 for a long run
EXAMPLES = int(os.environ.get("HALO_FUZZ_EXAMPLES", "12"))
STEPS = int(os.environ.get("HALO_FUZZ_STEPS", "20"))


class ConnectionMachine(RuleBasedStateMachine):
    """Tables, MODEL objects and transactions, next to dictionaries that say what there must be.

    tables   name -> its rows, in order
    models   names of the models made
    saved    both as they were at BEGIN; None outside a transaction
    """

    @initialize()
    def connect(self) -> None:
        self.connection = halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo", "threads": 1})
        self.tables: dict[str, list[str]] = {}
        self.models: set[str] = set()
        self.saved: tuple[dict[str, list[str]], set[str]] | None = None

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    def _run(self, sql: str, works: bool) -> list[tuple[object, ...]]:
        """The rows, or an error of ours where the model says so; it ends an open transaction."""
        if works:
            return self.connection.execute(sql).fetchall()
        try:
            self.connection.execute(sql).fetchall()
        except halo_sql.Error:
            if self.saved is not None:
                self._rollback()
            return []
        raise AssertionError(f"should have failed: {sql}")

    def _rollback(self) -> None:
        assert self.saved is not None
        with contextlib.suppress(halo_sql.Error):
            self.connection.execute("ROLLBACK").fetchall()
        self.tables, self.models = self.saved
        self.saved = None

    @rule(name=NAMES, texts=st.lists(st.sampled_from(["x", "", "é", "it's"]), max_size=3))
    def create_table(self, name: str, texts: list[str]) -> None:
        values = ", ".join("('" + text.replace("'", "''") + "')" for text in [*texts, "end"])
        fresh = name not in self.tables
        self._run(f"CREATE TABLE {name} AS SELECT LLM_MAP('{{{{ v }}}}') AS v FROM (VALUES {values}) AS x(v)", fresh)
        if fresh:
            self.tables[name] = [*texts, "end"]

    @rule(name=NAMES)
    def drop_table(self, name: str) -> None:
        there = name in self.tables
        self._run(f"DROP TABLE {name}", there)
        if there:
            del self.tables[name]

    @rule(name=NAMES, other=NAMES)
    def insert_answers(self, name: str, other: str) -> None:
        both = name in self.tables and other in self.tables
        self._run(f"INSERT INTO {name} SELECT LLM_MAP('{{{{ v }}}}!') FROM {other}", both)
        if both:
            self.tables[name] = self.tables[name] + [value + "!" for value in self.tables[other]]

    @rule(name=NAMES)
    def insert_that_fails_midway(self, name: str) -> None:
        self._run(f"INSERT INTO {name} SELECT LLM_MAP('{{{{ error(v) }}}}') FROM {name}", False)

    @rule(name=NAMES)
    def create_model(self, name: str) -> None:
        fresh = name not in self.models
        self._run(f"CREATE MODEL {name} FROM 'echo' USING echo", fresh)
        self.models.add(name)

    @rule(name=NAMES)
    def drop_model(self, name: str) -> None:
        there = name in self.models
        self._run(f"DROP MODEL {name}", there)
        self.models.discard(name)

    @rule(name=NAMES, model=NAMES)
    def ask(self, name: str, model: str) -> None:
        works = name in self.tables and model in self.models
        rows = self._run(f"SELECT LLM_MAP('{{{{ v }}}}', model => {model}) FROM {name}", works)
        if works:
            assert [row[0] for row in rows] == self.tables[name]

    @rule(
        text=st.sampled_from(
            ["SELECT LLM_MAP('{{ nope }}')", "SELECT LLM_MAP(", "SELEC 1", "FROM nix", "SET halo_x = 1"]
        )
    )
    def nonsense(self, text: str) -> None:
        self._run(text, False)

    @rule()
    def begin(self) -> None:
        if self.saved is None:
            self._run("BEGIN", True)
            self.saved = ({name: list(rows) for name, rows in self.tables.items()}, set(self.models))

    @rule()
    def commit(self) -> None:
        if self.saved is not None:
            self._run("COMMIT", True)
            self.saved = None

    @rule()
    def rollback(self) -> None:
        if self.saved is not None:
            self._rollback()

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        if not hasattr(self, "connection"):
            return
        rows = self.connection.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'").fetchall()
        assert {name for (name,) in rows if not name.startswith("halo")} == set(self.tables)
        for name, values in self.tables.items():
            assert [value for (value,) in self.connection.execute(f"SELECT v FROM {name}").fetchall()] == values
        shown = {name for (name, *_) in self.connection.execute("SELECT name FROM halo_models()").fetchall()}
        assert shown & {"a", "b", "c"} == self.models


TestConnection = ConnectionMachine.TestCase
TestConnection.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize="HALO_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

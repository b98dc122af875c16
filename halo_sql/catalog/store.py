"""MODEL and PROMPT objects as rows of the user's database.

Persistent objects lie in table ``halo_catalog.objects`` of the current default database, temporary ones in
``temp.halo_objects`` of the connection. Both tables are append-only: a CREATE OR REPLACE adds the next version, a
DROP adds a tombstone (a version, too), the latest version counts. Versions are never used twice, so two connections
that create the same object at the same time conflict on the primary key instead of overwriting each other. All of
it happens in the user's transaction, if there is one: ROLLBACK undoes it.

Nothing here relies on catching DuckDB errors, because an error aborts the transaction it happens in: what exists is
asked first. Tables are made by the first CREATE; reading never writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from halo_sql.catalog.definitions import TOMBSTONE, Definition, decode, encode
from halo_sql.catalog.objects import BUILT_IN_MODELS, ModelDef, PromptDef, Snapshot
from halo_sql.catalog.secrets import refuse_secrets
from halo_sql.errors import CatalogError, did_you_mean
from halo_sql.ir.expr import quote

SCHEMA = "halo_catalog"
TEMP_TABLE = "temp.main.halo_objects"
_COLUMNS = (
    "(kind VARCHAR NOT NULL, name VARCHAR NOT NULL, version INTEGER NOT NULL, definition VARCHAR NOT NULL, "
    "created TIMESTAMP NOT NULL, PRIMARY KEY (kind, name, version))"
)


class Database(Protocol):
    """What the catalog needs of a DuckDB connection (``halo_sql.duck.Duck`` has it)."""

    def rows(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement and fetch everything."""
        ...


class Catalog:
    """The objects one connection sees. One Catalog per connection: it knows whether it made the temporary table.

    In a snapshot temporary objects hide ``registered`` models (the session's Python callables), these hide
    persistent objects of the same name, and these hide built-in ones.
    """

    def __init__(self, duck: Database, registered: Mapping[str, ModelDef] | None = None) -> None:
        self._duck = duck
        self._registered = {} if registered is None else registered  # live: may grow
        self._temp_used = False  # whether this connection ever made the temporary table

    def create_model(self, model: ModelDef, *, or_replace: bool = False, if_not_exists: bool = False) -> bool:
        """Add a model (``model.temp``: for this connection only); True when it was added, False when it was kept.

        ``model.version`` is ignored, the next one is taken. Raises CatalogError when it exists, when an option would
        store a secret in clear, and when the database is read-only.
        """
        refuse_secrets(model)
        return self._create("model", model, or_replace, if_not_exists)

    def create_prompt(self, prompt: PromptDef, *, or_replace: bool = False, if_not_exists: bool = False) -> bool:
        """Add a prompt; as ``create_model``."""
        return self._create("prompt", prompt, or_replace, if_not_exists)

    def drop(self, kind: str, name: str, *, if_exists: bool = False) -> bool:
        """Drop a 'model' or 'prompt', the temporary one first; True when one was dropped.

        Raises CatalogError for a built-in one, and for a missing one unless ``if_exists``.
        """
        database, tables = self._tables()
        for table in reversed(tables):  # temporary before persistent
            version, definition = self._latest(table, kind, name)
            if definition is not None and definition != TOMBSTONE:
                if table != TEMP_TABLE:
                    self._check_writable(database, f"DROP {kind.upper()}", "Reopen it with read_only=False.")
                self._insert(table, kind, name, version + 1, TOMBSTONE)
                return True
        if kind == "model" and name.lower() in BUILT_IN_MODELS:
            raise CatalogError(
                f'Model "{name}" is built in and cannot be dropped',
                remedy="CREATE MODEL with the same name hides it.",
            )
        if if_exists:
            return False
        raise self.missing(kind, name)

    def snapshot(self) -> Snapshot:
        """All objects the connection sees now, its own uncommitted ones included; two short queries.

        Raises CatalogError for a definition this version of HaloSQL cannot read.
        """
        models: dict[str, ModelDef] = dict(BUILT_IN_MODELS)
        prompts: dict[str, PromptDef] = {}
        for table in self._tables()[1]:
            latest: dict[tuple[str, str], tuple[int, str]] = {}
            for kind, name, version, text in self._duck.rows(f"SELECT kind, name, version, definition FROM {table}"):
                if version > latest.get((kind, name), (0, ""))[0]:
                    latest[kind, name] = version, text
            for (kind, name), (version, text) in latest.items():
                found = decode(kind, name, version, text, table == TEMP_TABLE) if kind in ("model", "prompt") else None
                if isinstance(found, ModelDef):
                    models[name] = found
                elif isinstance(found, PromptDef):
                    prompts[name] = found
        for name, model in self._registered.items():
            if name not in models or not models[name].temp:
                models[name] = model
        return Snapshot(models, prompts)

    def objects(self, kind: str) -> Mapping[str, Definition]:
        """The visible objects of a kind by lower-case name."""
        now = self.snapshot()
        return now.models if kind == "model" else now.prompts

    def created(self, kind: str, definition: Definition) -> datetime | None:
        """When this version was created (UTC, without zone); None for a built-in one."""
        found: list[tuple[Any, ...]] = []
        for table in self._tables()[1]:
            if (table == TEMP_TABLE) == definition.temp:
                found += self._duck.rows(
                    f"SELECT created FROM {table} WHERE kind = ? AND name = ? AND version = ?",
                    [kind, definition.name.lower(), definition.version],
                )
        return found[0][0] if found else None

    def missing(self, kind: str, name: str) -> CatalogError:
        """The error for a name that does not exist, with the nearest one that does."""
        known = [definition.name for definition in self.objects(kind).values()]
        return CatalogError(f'{kind.capitalize()} "{name}" does not exist', remedy=did_you_mean(name, known))

    def _create(self, kind: str, definition: Definition, or_replace: bool, if_not_exists: bool) -> bool:
        database, tables = self._tables()
        table = TEMP_TABLE if definition.temp else f"{quote(database)}.{SCHEMA}.objects"
        made = table in tables
        version, existing = self._latest(table, kind, definition.name) if made else (0, None)
        what = kind.upper()
        if existing is not None and existing != TOMBSTONE and not or_replace:
            if if_not_exists:
                return False
            raise CatalogError(
                f'{kind.capitalize()} "{definition.name}" already exists',
                remedy=f"Use CREATE OR REPLACE {what}, CREATE {what} IF NOT EXISTS, or DROP {what} first.",
            )
        text = encode(definition)
        if not definition.temp:
            self._check_writable(database, f"CREATE {what}", f"Use CREATE TEMP {what}.")
        with self._atomic():
            if not made:
                self._make(table, database)
            self._insert(table, kind, definition.name, version + 1, text)
        return True

    def _tables(self) -> tuple[str, list[str]]:
        """The current database, and the tables that exist: the persistent one first."""
        # duckdb_schemas() and not duckdb_tables(): the latter reads every table of the database
        [(database, stored)] = self._duck.rows(
            "SELECT current_database(), count(*) FROM duckdb_schemas() "
            f"WHERE schema_name = '{SCHEMA}' AND database_name = current_database()"
        )
        tables = [f"{quote(database)}.{SCHEMA}.objects"] if stored else []
        if self._temp_used and self._duck.rows(  # a ROLLBACK may have taken it back
            "SELECT 1 FROM duckdb_tables() WHERE database_name = 'temp' AND table_name = 'halo_objects'"
        ):
            tables.append(TEMP_TABLE)
        return database, tables

    def _latest(self, table: str, kind: str, name: str) -> tuple[int, str | None]:
        """Latest version (0: none) and its definition text."""
        found = self._duck.rows(
            f"SELECT version, definition FROM {table} WHERE kind = ? AND name = ? ORDER BY version DESC LIMIT 1",
            [kind, name.lower()],
        )
        return found[0] if found else (0, None)

    def _make(self, table: str, database: str) -> None:
        if table == TEMP_TABLE:
            self._duck.rows(f"CREATE TEMP TABLE halo_objects {_COLUMNS}")
            self._temp_used = True
        else:
            self._duck.rows(f"CREATE SCHEMA {quote(database)}.{SCHEMA}")
            self._duck.rows(f"CREATE TABLE {table} {_COLUMNS}")

    def _insert(self, table: str, kind: str, name: str, version: int, text: str) -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        self._duck.rows(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", [kind, name.lower(), version, text, now])

    def _check_writable(self, database: str, statement: str, remedy: str) -> None:
        if self._duck.rows("SELECT 1 FROM duckdb_databases() WHERE database_name = ? AND readonly", [database]):
            raise CatalogError(f'{statement}: database "{database}" is read-only', remedy=remedy)

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        """Makes what is inside one transaction unless the user has one open (which then decides)."""
        first, second = (self._duck.rows("SELECT txid_current()") for _ in range(2))
        if first == second:  # in autocommit every statement has an id of its own
            yield
            return
        self._duck.rows("BEGIN")
        try:
            yield
        except BaseException:
            self._duck.rows("ROLLBACK")
            raise
        self._duck.rows("COMMIT")

"""MODEL, PROMPT, TOOL and AGENT objects as rows of the user's database.

Persistent objects lie in table ``halo_catalog.objects`` of the current default database, temporary ones in
``temp.halo_objects`` of the connection. Both tables are append-only: a CREATE OR REPLACE or ALTER adds the next
version, a DROP adds a tombstone (a version, too), the latest version counts; RENAME ends one history and begins (or
goes on with) another. Versions are never used twice, so two connections
that create the same object at the same time conflict on the primary key instead of overwriting each other. All of
it happens in the user's transaction, if there is one: ROLLBACK undoes it.

Nothing here relies on catching DuckDB errors, because an error aborts the transaction it happens in: what exists is
asked first. Tables are made by the first CREATE; reading never writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from halo_sql.catalog.definitions import TOMBSTONE, decode, encode
from halo_sql.catalog.dependencies import dependents, refuse
from halo_sql.catalog.objects import (
    BUILT_IN_MODELS,
    KINDS,
    AgentDef,
    Definition,
    ModelDef,
    PromptDef,
    Snapshot,
    ToolDef,
    kind_of,
)
from halo_sql.catalog.secrets import refuse_secrets
from halo_sql.errors import CatalogError, Error, did_you_mean
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

    def probe(self, query: str) -> list[tuple[str, Any]]:
        """Names and types of a query's result columns; CatalogError when it names what does not exist."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of an object as ``Catalog.history`` lists it; ``created`` in UTC, None for a built-in one."""

    definition: Definition
    created: datetime | None
    current: bool  # what the name means now


class Catalog:
    """The objects one connection sees. One Catalog per connection: it knows whether it made the temporary table.

    In a snapshot temporary objects hide ``registered`` models and tools (the session's Python callables), these hide
    persistent objects of the same name, and these hide built-in ones.
    """

    def __init__(
        self,
        duck: Database,
        registered: Mapping[str, ModelDef] | None = None,
        registered_tools: Mapping[str, ToolDef] | None = None,
    ) -> None:
        self._duck = duck
        self._registered = {} if registered is None else registered  # live: may grow
        self._registered_tools = {} if registered_tools is None else registered_tools
        self._temp_used = False  # whether this connection ever made the temporary table

    def create_model(self, model: ModelDef, *, or_replace: bool = False, if_not_exists: bool = False) -> bool:
        """``create`` of a model."""
        return self.create(model, or_replace=or_replace, if_not_exists=if_not_exists)

    def create_prompt(self, prompt: PromptDef, *, or_replace: bool = False, if_not_exists: bool = False) -> bool:
        """``create`` of a prompt."""
        return self.create(prompt, or_replace=or_replace, if_not_exists=if_not_exists)

    def create(self, definition: Definition, *, or_replace: bool = False, if_not_exists: bool = False) -> bool:
        """Add an object (``definition.temp``: for this connection only); True when it was added, False when kept.

        ``definition.version`` is ignored, the next one is taken. Raises CatalogError when it exists, when an option
        would store a secret in clear, and when the database is read-only.
        """
        refuse_secrets(definition)
        return self._create(kind_of(definition), definition, or_replace, if_not_exists)

    def drop(self, kind: str, name: str, *, if_exists: bool = False, cascade: bool = False) -> bool:
        """Drop an object (``kind``: a key of KINDS), the temporary one first; True when one was dropped.

        Raises CatalogError for a built-in one, for a missing one unless ``if_exists``, and for one that agents use
        unless ``cascade`` (which drops them, too) or another object of its name takes its place.
        """
        found = self._find(kind, name)
        if found is None:
            self._refuse_fixed(kind, name, "dropped")
            if if_exists:
                return False
            raise self.missing(kind, name)
        table, version, definition = found
        self._check_table(table, f"DROP {kind.upper()}")
        users = [] if self._remains(kind, name, table) else dependents(self._agents(), kind, name)
        if not cascade:
            refuse(users, kind, definition.name, "drop", f"Use DROP {kind.upper()} … CASCADE to drop all dependents.")
        with self._atomic():
            self._insert(table, kind, name, version + 1, TOMBSTONE)
            for agent in users:
                self.drop("agent", agent.name)
        return True

    def alter(self, kind: str, name: str, change: Callable[[Any], Definition], *, if_exists: bool = False) -> bool:
        """Make the next version of an object, the temporary one first: what ``change`` gives for the current one.

        A new name renames it. True when it was altered. Raises CatalogError as ``create`` and ``drop`` do.
        """
        found = self._find(kind, name)
        if found is None:
            self._refuse_fixed(kind, name, "altered")
            if if_exists:
                return False
            raise self.missing(kind, name)
        table, version, definition = found
        changed = change(definition)
        refuse_secrets(changed)
        text = encode(changed)
        self._check_table(table, f"ALTER {kind.upper()}")
        taken = version
        renamed = changed.name.lower() != name.lower()
        if renamed:
            taken, existing = self._latest(table, kind, changed.name)
            if existing is not None and existing != TOMBSTONE:
                raise CatalogError(
                    f'{kind.capitalize()} "{changed.name}" already exists',
                    remedy=f"Choose another name, or DROP {kind.upper()} first.",
                )
            if not self._remains(kind, name, table):
                remedy = "Change what depends on it first: CREATE OR REPLACE AGENT, or ALTER AGENT … SET (…)."
                refuse(dependents(self._agents(), kind, name), kind, definition.name, "rename", remedy)
        with self._atomic():
            if renamed:
                self._insert(table, kind, name, version + 1, TOMBSTONE)
            self._insert(table, kind, changed.name, taken + 1, text)
        return True

    def snapshot(self) -> Snapshot:
        """All objects the connection sees now, its own uncommitted ones included; two short queries.

        Raises CatalogError for a definition this version of HaloSQL cannot read.
        """
        found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        found["model"].update(BUILT_IN_MODELS)
        for table in self._visible():
            latest: dict[tuple[str, str], tuple[int, str]] = {}
            for kind, name, version, text in self._duck.rows(f"SELECT kind, name, version, definition FROM {table}"):
                if version > latest.get((kind, name), (0, ""))[0]:
                    latest[kind, name] = version, text
            for (kind, name), (version, text) in latest.items():
                definition = decode(kind, name, version, text, table == TEMP_TABLE) if kind in KINDS else None
                if definition is not None:
                    found[kind][name] = definition
        models = found["model"]
        for name, model in self._registered.items():
            if name not in models or not models[name].temp:
                models[name] = model
        for name, tool in self._registered_tools.items():
            if name not in found["tool"] or not found["tool"][name].temp:
                found["tool"][name] = tool
        return Snapshot(models, found["prompt"], found["tool"], found["agent"])

    def objects(self, kind: str) -> Mapping[str, Definition]:
        """The visible objects of a kind by lower-case name."""
        return self.snapshot().of(kind)

    def history(self, kind: str) -> list[Entry]:
        """All versions of all objects of a kind, those of dropped and hidden ones included; by name and version."""
        visible = self.objects(kind)
        entries = []
        for table in self._tables()[1]:
            rows = self._duck.rows(f"SELECT name, version, definition, created FROM {table} WHERE kind = ?", [kind])
            for name, version, text, created in rows:
                definition = decode(kind, name, version, text, table == TEMP_TABLE)
                if definition is not None:
                    entries.append(Entry(definition, created, visible.get(name) == definition))
        stored = {entry.definition.name.lower() for entry in entries if entry.current}
        entries += [Entry(item, None, True) for name, item in visible.items() if name not in stored]
        return sorted(entries, key=_order)

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

    def _find(self, kind: str, name: str) -> tuple[str, int, Definition] | None:
        """The object a statement of this connection changes: its table, version, definition."""
        for table in reversed(self._tables()[1]):  # temporary before persistent
            version, text = self._latest(table, kind, name)
            if text is not None and text != TOMBSTONE:
                return table, version, _readable(kind, name, version, text, table == TEMP_TABLE)
        return None

    def _remains(self, kind: str, name: str, dropped: str) -> bool:
        """Whether the name still means something without the object of it in table ``dropped``."""
        if kind == "model" and (name.lower() in BUILT_IN_MODELS or name.lower() in self._registered):
            return True
        if kind == "tool" and name.lower() in self._registered_tools:
            return True
        others = (self._latest(table, kind, name)[1] for table in self._tables()[1] if table != dropped)
        return any(text is not None and text != TOMBSTONE for text in others)

    def _agents(self) -> list[AgentDef]:
        """The visible agents, by name; those that cannot be read use nothing."""
        found: dict[str, AgentDef | None] = {}
        for table in self._tables()[1]:
            names = self._duck.rows(f"SELECT DISTINCT name FROM {table} WHERE kind = 'agent'")
            for (name,) in names:
                version, text = self._latest(table, "agent", name)
                if text is not None and text != TOMBSTONE:
                    readable = _readable("agent", name, version, text, table == TEMP_TABLE)
                    found[name] = readable if isinstance(readable, AgentDef) else None
        return [agent for _, agent in sorted(found.items()) if agent is not None]

    def _refuse_fixed(self, kind: str, name: str, what: str) -> None:
        """CatalogError for a model or tool that no statement made."""
        if kind == "tool" and name.lower() in self._registered_tools:
            raise CatalogError(
                f'Tool "{name}" is a Python object of this connection and cannot be {what}',
                remedy="create_tool() with the same name replaces it.",
            )
        if kind != "model":
            return
        if name.lower() in self._registered:
            raise CatalogError(
                f'Model "{name}" is a Python callable of this connection and cannot be {what}',
                remedy="create_model() with the same name replaces it.",
            )
        if name.lower() in BUILT_IN_MODELS:
            raise CatalogError(
                f'Model "{name}" is built in and cannot be {what}',
                remedy="CREATE MODEL with the same name hides it.",
            )

    def _check_table(self, table: str, statement: str) -> None:
        if table != TEMP_TABLE:
            database = self._duck.rows("SELECT current_database()")[0][0]
            self._check_writable(database, statement, "Reopen it with read_only=False.")

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

    def _visible(self) -> list[str]:
        """The tables of ``_tables``. A database in which nothing was ever created is not asked for its schemas: binding
        a name that is not there takes a fifth of that."""
        if not self._temp_used:
            try:
                self._duck.probe(f"FROM {SCHEMA}.objects")
            except CatalogError:
                return []
            except Error:  # two of that name: DuckDB does not choose
                pass
        return self._tables()[1]

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


def _readable(kind: str, name: str, version: int, text: str, temp: bool) -> Definition:
    """The definition; one that cannot be read stands for itself, so that it can be dropped."""
    try:
        found = decode(kind, name, version, text, temp)
    except CatalogError:
        found = None
    return PromptDef(name, "", version=version, temp=temp) if found is None else found


def _order(entry: Entry) -> tuple[str, bool, bool, int]:
    """By name; built-in before persistent before temporary; by version."""
    definition = entry.definition
    return definition.name.lower(), entry.created is not None, definition.temp, definition.version

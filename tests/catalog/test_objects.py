"""TOOL and AGENT objects, ALTER, dependencies, histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.catalog.definitions import decode, encode
from halo_sql.catalog.objects import AgentDef, Definition, ModelDef, Parameter, PromptDef, ToolDef, kind_of
from halo_sql.catalog.script import script
from halo_sql.catalog.store import Catalog
from halo_sql.duck import Duck
from halo_sql.errors import CatalogError, DatabaseError

TOOL = ToolDef("T", "sql", "SELECT $a", (Parameter("a", "INTEGER", "1"),), "INTEGER", comment="c")
TABLE = ToolDef("u", "http", "https://h/", columns=(("x y", "VARCHAR"),), method="GET", options={"timeout_s": 1})
AGENT = AgentDef("a", (Parameter("x", "DATE"),), "DATE", {"tools": ["t", "U"], "model": "m"})
MODEL = ModelDef("m", "echo", "echo")


@pytest.fixture
def duck() -> Iterator[Duck]:
    connection = Duck.connect(":memory:", False, {})
    yield connection
    connection.close()


@pytest.fixture
def catalog(duck: Duck) -> Catalog:
    return Catalog(duck)


def fill(catalog: Catalog) -> None:
    for definition in (MODEL, TOOL, TABLE, AGENT):
        catalog.create(definition)


def test_all_kinds_are_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    first = Duck.connect(path, False, {})
    fill(Catalog(first))
    first.close()
    second = Duck.connect(path, True, {})
    now = Catalog(second).snapshot()
    assert now.tools == {"t": TOOL, "u": TABLE}
    assert now.agents == {"a": AGENT}
    for change in (lambda: Catalog(second).drop("agent", "a"), lambda: Catalog(second).alter("agent", "a", named("b"))):
        with pytest.raises(CatalogError, match="read-only"):
            change()
    second.close()


def named(name: str) -> Any:
    return lambda definition: replace(definition, name=name)


def test_drop_of_what_an_agent_uses(catalog: Catalog, duck: Duck) -> None:
    fill(catalog)
    for kind, name in (("tool", "t"), ("tool", "U"), ("model", "M")):
        with pytest.raises(CatalogError, match='agent "a" depends on it') as caught:
            catalog.drop(kind, name)
        assert caught.value.kind == "Dependency Error"
        assert "CASCADE" in caught.value.remedy
        with pytest.raises(CatalogError, match='agent "a" depends on it'):
            catalog.alter(kind, name, named("other"))
    duck.execute("BEGIN")
    assert catalog.drop("tool", "t", cascade=True)
    assert catalog.snapshot().agents == {}
    duck.execute("ROLLBACK")
    assert catalog.snapshot().agents == {"a": AGENT}
    catalog.drop("agent", "a")
    assert catalog.drop("model", "m")


def test_a_refused_drop_leaves_the_transaction_usable(catalog: Catalog, duck: Duck) -> None:
    fill(catalog)
    duck.execute("BEGIN")
    with pytest.raises(CatalogError):
        catalog.drop("tool", "t")
    catalog.drop("agent", "a")
    catalog.drop("tool", "t")
    duck.execute("COMMIT")
    assert catalog.snapshot().tools == {"u": TABLE}


def test_what_takes_the_place_of_a_dropped_one_is_no_loss(catalog: Catalog) -> None:
    fill(catalog)
    catalog.create(replace(TOOL, temp=True))
    assert catalog.drop("tool", "t")
    assert catalog.snapshot().tools["t"] == TOOL
    catalog.create(ModelDef("echo", "mine", "echo"))
    catalog.create(AgentDef("b", options={"model": "echo"}))
    assert catalog.drop("model", "echo")


def test_rename_ends_one_history_and_begins_another(catalog: Catalog) -> None:
    catalog.create(PromptDef("p", "one"))
    catalog.create(PromptDef("q", "other"))
    with pytest.raises(CatalogError, match='Prompt "Q" already exists'):
        catalog.alter("prompt", "p", named("Q"))
    catalog.drop("prompt", "q")
    assert catalog.alter("prompt", "P", named("q"))
    assert catalog.snapshot().prompts == {"q": PromptDef("q", "one", version=3)}
    assert catalog.alter("prompt", "q", named("Q"))
    assert catalog.snapshot().prompts == {"q": PromptDef("Q", "one", version=4)}
    assert [
        (entry.definition.name, entry.definition.version, entry.current) for entry in catalog.history("prompt")
    ] == [
        ("p", 1, False),
        ("q", 1, False),
        ("q", 3, False),
        ("Q", 4, True),
    ]


def test_alter_of_what_is_not_there(catalog: Catalog) -> None:
    catalog.create(TOOL)
    with pytest.raises(CatalogError, match='Tool "tt" does not exist') as caught:
        catalog.alter("tool", "tt", named("x"))
    assert caught.value.remedy == 'Did you mean "T"?'
    assert not catalog.alter("tool", "tt", named("x"), if_exists=True)
    with pytest.raises(CatalogError, match="built in"):
        catalog.alter("model", "echo", named("x"))


def test_registered_callables_are_no_objects_of_the_database(duck: Duck) -> None:
    registered = {"f": ModelDef("f", "f", "python", temp=True)}
    catalog = Catalog(duck, registered)
    for change in (lambda: catalog.drop("model", "F"), lambda: catalog.alter("model", "F", named("g"))):
        with pytest.raises(CatalogError, match="Python callable") as caught:
            change()
        assert "create_model()" in caught.value.remedy
    catalog.create(ModelDef("f", "x", "echo"))
    assert catalog.drop("model", "f")


def test_alter_may_not_store_a_secret(catalog: Catalog) -> None:
    catalog.create(ModelDef("m", "https://h/v1", "openai"))
    with pytest.raises(CatalogError, match="in clear"):
        catalog.alter("model", "m", lambda model: replace(model, options={"api_key": "hunter2"}))
    assert catalog.snapshot().models["m"].version == 1


def test_two_connections_that_alter_at_once_conflict(tmp_path: Path) -> None:
    one = Duck.connect(str(tmp_path / "a.db"), False, {})
    two = one.duplicate()
    Catalog(one).create(PromptDef("p", "x"))
    one.execute("BEGIN")
    two.execute("BEGIN")
    Catalog(one).alter("prompt", "p", lambda prompt: replace(prompt, text="one"))
    Catalog(two).alter("prompt", "p", lambda prompt: replace(prompt, text="two"))
    one.execute("COMMIT")
    with pytest.raises(DatabaseError):
        two.execute("COMMIT")
    assert Catalog(one).snapshot().prompts["p"].text == "one"
    two.close()
    one.close()


def test_objects_belong_to_the_current_database(duck: Duck) -> None:
    catalog = Catalog(duck)
    catalog.create(PromptDef("p", "memory"))
    duck.execute("ATTACH ':memory:' AS other")
    duck.execute("USE other")
    assert catalog.snapshot().prompts == {}
    catalog.create(PromptDef("p", "other"))
    duck.execute("USE memory")
    assert catalog.snapshot().prompts["p"].text == "memory"


def test_a_script_holds_what_is_persistent_in_an_order_that_runs(catalog: Catalog) -> None:
    fill(catalog)
    catalog.create(PromptDef("brief", "x", temp=True))
    assert [(kind, name) for kind, name, _ in script(catalog.snapshot())] == [
        ("model", "m"),
        ("tool", "T"),
        ("tool", "T"),
        ("tool", "u"),
        ("agent", "a"),
    ]


TEXTS = st.text(max_size=8)
OPTIONS = st.dictionaries(TEXTS, st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS), max_size=3)
PARAMETERS = st.lists(st.builds(Parameter, TEXTS, TEXTS, st.none() | TEXTS), max_size=3).map(tuple)
DEFINITIONS: st.SearchStrategy[Definition] = st.one_of(
    st.builds(ModelDef, TEXTS, TEXTS, TEXTS, OPTIONS, st.integers(1, 9), st.booleans(), st.none() | TEXTS),
    st.builds(PromptDef, TEXTS, TEXTS, st.none() | TEXTS, st.integers(1, 9), st.booleans(), st.none() | TEXTS),
    st.builds(AgentDef, TEXTS, PARAMETERS, TEXTS, OPTIONS, st.integers(1, 9), st.booleans(), st.none() | TEXTS),
    st.builds(
        ToolDef, TEXTS, TEXTS, TEXTS, PARAMETERS, TEXTS, st.lists(st.tuples(TEXTS, TEXTS)).map(tuple), TEXTS, TEXTS,
        TEXTS, OPTIONS, st.integers(1, 9), st.booleans(), st.none() | TEXTS,
    ),
)  # fmt: skip


@given(DEFINITIONS)
def test_definitions_round_trip(definition: Definition) -> None:
    text = encode(definition)
    found = decode(kind_of(definition), definition.name.lower(), definition.version, text, definition.temp)
    assert found == definition

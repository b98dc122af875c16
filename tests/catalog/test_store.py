"""Objects in the database: versions, transactions, scopes, secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.catalog.definitions import decode, encode
from halo_sql.catalog.listing import describe, show
from halo_sql.catalog.objects import BUILT_IN_MODELS, ModelDef, PromptDef
from halo_sql.catalog.secrets import is_secret_name
from halo_sql.catalog.store import Catalog
from halo_sql.duck import Duck
from halo_sql.errors import CatalogError, DatabaseError

M = ModelDef("M", "bundled:x", "vllm", {"a": 1, "b": [True, None, "é"], "c": {"d": 0.5}})
TEMP = ModelDef("m", "echo", "echo", temp=True)
P = PromptDef("p", "Hi {{ a }}", "Be brief")


@pytest.fixture
def duck() -> Iterator[Duck]:
    connection = Duck.connect(":memory:", False, {})
    yield connection
    connection.close()


@pytest.fixture
def catalog(duck: Duck) -> Catalog:
    return Catalog(duck)


def models(catalog: Catalog) -> dict[str, ModelDef]:
    return {name: model for name, model in catalog.snapshot().models.items() if name not in BUILT_IN_MODELS}


def test_an_empty_database_has_the_built_in_models(catalog: Catalog, duck: Duck) -> None:
    now = catalog.snapshot()
    assert now.models == BUILT_IN_MODELS
    assert now.prompts == {}
    assert duck.rows("SELECT count(*) FROM duckdb_schemas() WHERE schema_name = 'halo_catalog'") == [(0,)]


def test_create_and_look_up_by_lower_case_name(catalog: Catalog) -> None:
    assert catalog.create_model(M)
    assert catalog.create_prompt(P)
    assert models(catalog) == {"m": M}
    assert catalog.snapshot().prompts == {"p": P}


@pytest.mark.parametrize("name", ["m", "M"])
def test_create_of_an_existing_one(catalog: Catalog, name: str) -> None:
    catalog.create_model(M)
    with pytest.raises(CatalogError, match=f'Model "{name}" already exists') as caught:
        catalog.create_model(ModelDef(name, "y", "echo"))
    assert "CREATE OR REPLACE MODEL" in caught.value.remedy
    assert not catalog.create_model(ModelDef(name, "y", "echo"), if_not_exists=True)
    assert models(catalog) == {"m": M}


def test_replace_makes_the_next_version_and_keeps_the_old_ones(catalog: Catalog, duck: Duck) -> None:
    catalog.create_model(M, or_replace=True)
    catalog.create_model(ModelDef("m", "y", "echo"), or_replace=True)
    assert models(catalog) == {"m": ModelDef("m", "y", "echo", version=2)}
    assert duck.rows("SELECT kind, name, version FROM halo_catalog.objects ORDER BY version") == [
        ("model", "m", 1),
        ("model", "m", 2),
    ]


def test_kinds_have_their_own_names(catalog: Catalog) -> None:
    catalog.create_model(M)
    catalog.create_prompt(PromptDef("m", "x"))
    assert catalog.drop("prompt", "m")
    assert models(catalog) == {"m": M}
    assert catalog.snapshot().prompts == {}


def test_drop_and_create_again_never_reuses_a_version(catalog: Catalog) -> None:
    catalog.create_model(M)
    assert catalog.drop("model", "m")
    assert models(catalog) == {}
    catalog.create_model(M)
    assert models(catalog)["m"].version > 1


def test_drop_of_a_missing_one(catalog: Catalog) -> None:
    catalog.create_model(ModelDef("sentiment", "x", "echo"))
    with pytest.raises(CatalogError, match='Model "sentimnt" does not exist') as caught:
        catalog.drop("model", "sentimnt")
    assert caught.value.remedy == 'Did you mean "sentiment"?'
    assert not catalog.drop("model", "sentimnt", if_exists=True)
    with pytest.raises(CatalogError, match='Prompt "p" does not exist'):
        catalog.drop("prompt", "p")


@pytest.mark.parametrize("name", BUILT_IN_MODELS)
def test_built_in_models_can_be_hidden_but_not_dropped(catalog: Catalog, name: str) -> None:
    for if_exists in (False, True):
        with pytest.raises(CatalogError, match="built in"):
            catalog.drop("model", name.upper(), if_exists=if_exists)
    mine = ModelDef(name, "mine", "vllm")
    catalog.create_model(mine)
    assert catalog.snapshot().models[name] == mine
    assert catalog.drop("model", name)
    assert catalog.snapshot().models == BUILT_IN_MODELS


def test_temporary_hides_persistent(catalog: Catalog) -> None:
    catalog.create_model(M)
    catalog.create_model(TEMP)
    assert models(catalog) == {"m": TEMP}
    with pytest.raises(CatalogError, match="already exists"):
        catalog.create_model(TEMP)
    catalog.drop("model", "m")
    assert models(catalog) == {"m": M}
    catalog.drop("model", "m")
    assert models(catalog) == {}


def test_temporary_ones_live_with_the_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    first = Duck.connect(path, False, {})
    here, there = Catalog(first), Catalog(first.duplicate())
    here.create_model(TEMP)
    here.create_prompt(P)
    assert set(models(here)) == {"m"}
    assert models(there) == {}
    assert there.snapshot().prompts == {"p": P}
    first.close()


def test_objects_survive_in_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    first = Duck.connect(path, False, {})
    Catalog(first).create_model(M)
    Catalog(first).create_prompt(P)
    first.close()
    second = Duck.connect(path, False, {})
    assert models(Catalog(second)) == {"m": M}
    assert Catalog(second).snapshot().prompts == {"p": P}
    second.close()


@pytest.mark.parametrize("temp", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_rollback_undoes_everything(catalog: Catalog, duck: Duck, temp: bool, before: bool) -> None:
    kept = ModelDef("kept", "x", "echo", temp=temp)
    if before:
        catalog.create_model(kept)
    known = models(catalog)
    duck.execute("BEGIN")
    catalog.create_model(ModelDef("lost", "x", "echo", temp=temp))
    catalog.create_model(ModelDef("kept", "y", "echo", temp=temp), or_replace=True)
    catalog.drop("model", "lost")
    catalog.create_prompt(PromptDef("lost", "x", temp=temp))
    assert models(catalog)["kept"].source == "y"
    assert catalog.snapshot().prompts
    duck.execute("ROLLBACK")
    assert models(catalog) == known
    assert catalog.snapshot().prompts == {}
    catalog.create_model(ModelDef("lost", "z", "echo", temp=temp))
    assert models(catalog)["lost"].source == "z"


def test_commit_keeps_and_others_see_it_only_then(tmp_path: Path) -> None:
    writer = Duck.connect(str(tmp_path / "a.db"), False, {})
    reader = Catalog(writer.duplicate())
    writer.execute("BEGIN")
    Catalog(writer).create_model(M)
    assert models(reader) == {}
    writer.execute("COMMIT")
    assert models(reader) == {"m": M}
    writer.close()


def test_refusals_leave_the_transaction_usable(catalog: Catalog, duck: Duck) -> None:
    duck.execute("BEGIN")
    duck.execute("CREATE TABLE t AS SELECT 1 AS a")
    assert models(catalog) == {}
    for refused in (
        lambda: catalog.drop("model", "nope"),
        lambda: catalog.drop("model", "echo"),
        lambda: catalog.create_model(ModelDef("x", "y", "openai", {"api_key": "k"})),
        lambda: catalog.create_model(ModelDef("x", "y", "python", {"fn": object()})),
        lambda: [catalog.create_model(M), catalog.create_model(M)],
    ):
        with pytest.raises(CatalogError):
            refused()
    duck.execute("COMMIT")
    assert duck.rows("FROM t") == [(1,)]
    assert models(catalog) == {"m": M}


def test_the_same_name_twice_at_once_is_a_conflict(tmp_path: Path) -> None:
    one = Duck.connect(str(tmp_path / "a.db"), False, {})
    two = one.duplicate()
    Catalog(one).create_prompt(P)
    one.execute("BEGIN")
    two.execute("BEGIN")
    Catalog(one).create_model(M)
    Catalog(two).create_model(ModelDef("m", "other", "echo"))
    one.execute("COMMIT")
    with pytest.raises(DatabaseError, match=r"(?i)conflict|constraint|duplicate"):
        two.execute("COMMIT")
    assert models(Catalog(two)) == {"m": M}
    one.close()


def test_a_read_only_database(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    first = Duck.connect(path, False, {})
    Catalog(first).create_model(M)
    first.close()
    readonly = Duck.connect(path, True, {})
    catalog = Catalog(readonly)
    assert models(catalog) == {"m": M}
    with pytest.raises(CatalogError, match="read-only") as caught:
        catalog.create_prompt(P)
    assert "CREATE TEMP PROMPT" in caught.value.remedy
    with pytest.raises(CatalogError, match="read-only"):
        catalog.drop("model", "m")
    catalog.create_model(TEMP)
    assert models(catalog) == {"m": TEMP}
    readonly.close()


def test_objects_belong_to_the_current_database(catalog: Catalog, duck: Duck) -> None:
    duck.execute("""ATTACH ':memory:' AS "an ""other" """)
    catalog.create_model(M)
    duck.execute('USE "an ""other"')
    assert models(catalog) == {}
    catalog.create_prompt(P)
    assert catalog.snapshot().prompts == {"p": P}
    duck.execute("USE memory")
    assert models(catalog) == {"m": M}
    assert catalog.snapshot().prompts == {}


def test_objects_do_not_show_among_the_users_tables(catalog: Catalog, duck: Duck) -> None:
    catalog.create_model(M)
    assert duck.rows("SHOW TABLES") == []


def test_a_table_with_the_temporary_tables_name_is_no_problem(catalog: Catalog, duck: Duck) -> None:
    duck.execute("CREATE TABLE halo_objects (a INTEGER)")
    catalog.create_model(TEMP)
    assert models(catalog) == {"m": TEMP}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": 99}', "newer HaloSQL"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1, "name": "m"}', "damaged"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_can_be_dropped(
    catalog: Catalog, duck: Duck, text: str, words: str
) -> None:
    catalog.create_model(M)
    duck.execute("UPDATE halo_catalog.objects SET definition = ?", [text])
    with pytest.raises(CatalogError, match=words) as caught:
        catalog.snapshot()
    assert '"m"' in str(caught.value)
    assert catalog.drop("model", "m")
    assert models(catalog) == {}


SECRETS = [
    {"api_key": "hunter2"},
    {"API_KEY": "hunter2"},
    {"hf_token": "hunter2"},
    {"password": 1234},
    {"headers": {"Authorization": "hunter2"}},
    {"headers": '{"X-Api-Key": "hunter2"}'},
    {"keys_key": ["hunter2"]},
]
HARMLESS = [
    {"api_key_env": "OPENAI_API_KEY"},
    {"secret": "s"},
    {"max_tokens": 5, "tokenizer": "x", "eos_token": "</s>", "stop_token_ids": [1, 2]},
    {"headers": {"X-Team": "a"}},
    {"headers": "{not json"},
]


@pytest.mark.parametrize("options", SECRETS)
def test_secrets_are_refused(catalog: Catalog, options: dict[str, object]) -> None:
    with pytest.raises(CatalogError, match="secret in clear") as caught:
        catalog.create_model(ModelDef("m", "x", "openai", options))
    assert "hunter2" not in str(caught.value)
    assert "api_key_env" in caught.value.remedy
    assert models(catalog) == {}


@pytest.mark.parametrize("source", ["https://user:hunter2@host/v1", "https://host/v1?api_key=hunter2"])
def test_secrets_in_urls_are_refused(catalog: Catalog, source: str) -> None:
    with pytest.raises(CatalogError, match="secret in clear") as caught:
        catalog.create_model(ModelDef("m", source, "openai"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("options", HARMLESS)
def test_harmless_options_are_kept(catalog: Catalog, options: dict[str, object]) -> None:
    catalog.create_model(ModelDef("m", "https://host/v1?version=1", "openai", options))
    assert models(catalog)["m"].options == options


def test_secret_names() -> None:
    assert all(map(is_secret_name, ["key", "apiKey", "auth_token", "X-Auth-Token", "client_secret", "cookie"]))
    assert not any(map(is_secret_name, ["", "model", "tokens", "max_tokens", "api_key_file", "pad_token", "keyboard"]))


def test_show(catalog: Catalog) -> None:
    catalog.create_model(M)
    catalog.create_model(ModelDef("Zed", "z", "echo", temp=True))
    columns, rows = show(catalog, "model")
    assert [name for name, _ in columns] == ["name", "engine", "source", "options", "version", "scope", "comment"]
    assert [(row[0], row[-2]) for row in rows] == [
        ("echo", "built-in"),
        ("M", "persistent"),
        ("minilm", "built-in"),
        ("smollm2", "built-in"),
        ("Zed", "temporary"),
    ]
    catalog.create_prompt(P)
    columns, rows = show(catalog, "prompt")
    assert dict(zip([name for name, _ in columns], rows[0], strict=True)) == {
        "name": "p",
        "text": "Hi {{ a }}",
        "system": "Be brief",
        "version": 1,
        "scope": "persistent",
        "comment": None,
    }


def test_describe(catalog: Catalog) -> None:
    catalog.create_model(M)
    columns, rows = describe(catalog, "model", "m")
    found = dict(rows)
    assert columns == [("property", "VARCHAR"), ("value", "VARCHAR")]
    assert (found["engine"], found["option a"], found["option b"]) == ("vllm", "1", '[true, null, "é"]')
    assert str(found["created"]).endswith("UTC")
    assert dict(describe(catalog, "model", "echo")[1])["created"] is None
    with pytest.raises(CatalogError, match='Did you mean "smollm2"'):
        describe(catalog, "model", "smollm")


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(NAMES, st.text(), st.dictionaries(st.text(), VALUES | st.lists(VALUES)))
def test_definitions_round_trip(name: str, text: str, options: dict[str, object]) -> None:
    for kind, definition in (
        ("model", ModelDef(name, text, "vllm", options, 3, True)),
        ("prompt", PromptDef(name, text, None, 3, True)),
        ("prompt", PromptDef(name, name, text, 3, True)),
    ):
        assert decode(kind, name.lower(), 3, encode(definition), True) == definition


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("cdrBCR"), st.sampled_from("ab"), st.booleans()), max_size=12))
def test_any_history_is_what_a_dictionary_would_be(steps: list[tuple[str, str, bool]]) -> None:
    """create, drop, replace; Begin, Commit, Rollback; over two names, temporary or not."""
    duck = Duck.connect(":memory:", False, {})
    catalog = Catalog(duck)
    state: dict[tuple[str, bool], int] = {}
    saved: dict[tuple[str, bool], int] | None = None
    for number, (step, name, temp) in enumerate(steps):
        if step == "B" and saved is None:
            duck.execute("BEGIN")
            saved = dict(state)
        elif step in "CR" and saved is not None:
            duck.execute("COMMIT" if step == "C" else "ROLLBACK")
            state, saved = (state if step == "C" else saved), None
        elif step in "cr" and (step == "r" or (name, temp) not in state):
            catalog.create_model(ModelDef(name, str(number), "echo", temp=temp), or_replace=step == "r")
            state[name, temp] = number
        elif step == "d" and catalog.drop("model", name, if_exists=True):
            del state[name, (name, True) in state]
        visible = {key: state.get((key, True), state.get((key, False))) for key in "ab"}
        assert {key: int(model.source) for key, model in models(catalog).items()} == {
            key: value for key, value in visible.items() if value is not None
        }
    duck.close()

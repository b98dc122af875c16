"""Secrets: in memory or in files nobody else can read; never shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from halo_sql.engines.registry import with_secret
from halo_sql.engines.secret_store import Secret, SecretStore, rows
from halo_sql.errors import CatalogError, OperationalError

KEY = "sk-canary-0123456789"


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(lambda: tmp_path / "secrets")


def test_a_persistent_secret_is_a_file_only_its_owner_can_read(store: SecretStore, tmp_path: Path) -> None:
    assert store.create(Secret("My/Key é", KEY, persistent=True))
    [path] = (tmp_path / "secrets").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    other = SecretStore(lambda: tmp_path / "secrets")
    assert other.get("my/key É").api_key == KEY
    assert other.drop("MY/KEY é")
    assert not list((tmp_path / "secrets").iterdir())


def test_a_temporary_secret_leaves_no_trace_on_disk(store: SecretStore, tmp_path: Path) -> None:
    store.create(Secret("s", KEY))
    assert store.get("S").api_key == KEY
    assert not (tmp_path / "secrets").exists()
    assert SecretStore(lambda: tmp_path / "secrets").find("s") is None


def test_nothing_shows_a_key(store: SecretStore) -> None:
    store.create(Secret("s", KEY))
    assert KEY not in repr(store.get("s"))
    assert KEY not in json.dumps(rows(store))
    assert KEY not in store.stamp("s")
    assert rows(store) == [("s", "llm", "memory", None, "redacted", None)]


@pytest.mark.parametrize("persistent", [False, True])
def test_create_of_an_existing_one(store: SecretStore, persistent: bool) -> None:
    store.create(Secret("s", KEY, persistent=persistent))
    with pytest.raises(CatalogError, match="already exists") as caught:
        store.create(Secret("S", "other", persistent=persistent))
    assert "OR REPLACE" in caught.value.remedy
    assert not store.create(Secret("s", "other", persistent=persistent), if_not_exists=True)
    assert store.get("s").api_key == KEY
    before = store.stamp("s")
    assert store.create(Secret("s", "other", persistent=persistent), or_replace=True)
    assert store.get("s").api_key == "other"
    assert store.stamp("s") != before


def test_two_of_a_name(store: SecretStore) -> None:
    store.create(Secret("s", "memory"))
    store.create(Secret("s", "file", persistent=True))
    assert store.get("s").api_key == "memory"
    assert [secret.storage for secret in store.all()] == ["memory", "local_file"]
    with pytest.raises(CatalogError, match="there are two"):
        store.drop("s")
    assert store.drop("s", "temporary")
    assert store.get("s").api_key == "file"
    assert store.drop("s", "persistent")
    with pytest.raises(CatalogError, match="does not exist"):
        store.drop("s")
    assert not store.drop("s", if_exists=True)


def test_a_missing_one_names_the_nearest(store: SecretStore) -> None:
    store.create(Secret("production", KEY))
    with pytest.raises(CatalogError) as caught:
        store.get("prodution")
    assert caught.value.remedy == 'Did you mean "production"?'


def test_a_file_that_others_can_read_is_refused(store: SecretStore, tmp_path: Path) -> None:
    store.create(Secret("s", KEY, persistent=True))
    [path] = (tmp_path / "secrets").iterdir()
    path.chmod(0o644)
    with pytest.raises(OperationalError, match="read by others") as caught:
        store.find("s")
    assert "chmod 600" in caught.value.remedy
    assert store.all() == []
    assert store.has("s")
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(OperationalError, match="cannot be read"):
        store.find("s")
    assert store.create(Secret("other", KEY, persistent=True))
    assert [secret.name for secret in store.all()] == ["other"]


def test_a_key_goes_only_where_its_base_url_says() -> None:
    secret = Secret("s", KEY, base_url="https://h/v1/")
    assert all(map(secret.covers, ["https://h/v1", "https://h/v1/", "https://h/v1/chat"]))
    assert not any(map(secret.covers, ["https://h/v10", "https://h.evil/v1", "http://h/v1", "https://h", ""]))
    assert Secret("s", KEY).covers("https://anything")


class Model:
    name, source, engine, version = "m", "https://h/v1", "openai", 1

    def __init__(self, **options: object) -> None:
        self.options = options


def test_a_models_secret_becomes_its_key(store: SecretStore) -> None:
    store.create(Secret("s", KEY, base_url="https://h"))
    store.create(Secret("e", api_key=None, api_key_env="NAME"))
    resolved = with_secret(Model(secret="s", model="q"), store)
    assert dict(resolved.options) == {"model": "q", "api_key": KEY}
    assert KEY not in repr(resolved)
    assert dict(with_secret(Model(secret="E"), store).options) == {"api_key_env": "NAME"}
    with pytest.raises(CatalogError, match="does not exist"):
        with_secret(Model(secret="nosuch"), store)
    store.create(Secret("s", KEY, base_url="https://other"), or_replace=True)
    with pytest.raises(CatalogError, match="is for https://other, not for https://h/v1") as caught:
        with_secret(Model(secret="s"), store)
    assert KEY not in str(caught.value)


def test_without_a_folder_there_are_no_persistent_secrets() -> None:
    def refused() -> Path:
        raise PermissionError("a home that cannot be made")

    store = SecretStore(refused)
    assert store.find("s") is None
    assert not store.has("s")
    assert store.all() == []
    assert store.create(Secret("s", KEY))
    assert store.has("S")
    assert [secret.name for secret in store.all()] == ["s"]

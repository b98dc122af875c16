"""SECRET objects of TYPE llm: API keys in memory, or in files of the user's that nobody else can read.

They are never part of a database. Persistent ones are ``<folder>/<name>.json``, mode 0600, in a folder of mode 0700.
Neither kind takes part in transactions. All connections of one ``connect`` share a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from halo_sql.errors import CatalogError, OperationalError, did_you_mean

MEMORY, FILE = "memory", "local_file"
_LONGEST = 200  # bytes of a file's name


#: What lists of secrets show.
COLUMNS = ("name", "type", "storage", "base_url", "api_key", "api_key_env")


@dataclass(frozen=True, slots=True)
class Secret:
    """A key, or where it is.

    api_key      the key; never shown
    api_key_env  the environment variable that holds it; one of the two is set
    base_url     it is sent only to URLs that begin with this; '' for any
    """

    name: str
    api_key: str | None = field(repr=False)
    api_key_env: str | None = None
    base_url: str = ""
    persistent: bool = False

    @property
    def storage(self) -> str:
        """'memory' | 'local_file', DuckDB's names."""
        return FILE if self.persistent else MEMORY

    def shown(self) -> tuple[str | None, ...]:
        """What may be shown of it, in the order of COLUMNS."""
        key = None if self.api_key is None else "redacted"
        return self.name, "llm", self.storage, self.base_url or None, key, self.api_key_env

    def key(self) -> str:
        """The key itself; CatalogError when its environment variable holds none."""
        found = self.api_key if self.api_key_env is None else os.environ.get(self.api_key_env)
        if not found:
            raise CatalogError(
                f'the environment variable {self.api_key_env} of secret "{self.name}" holds no key',
                remedy=f"Set {self.api_key_env} before starting, then run the query again.",
            )
        return found

    def covers(self, url: str) -> bool:
        """Whether the key may be sent to this URL."""
        base = self.base_url.rstrip("/")
        return not base or url.rstrip("/") == base or url.startswith(base + "/")


class SecretStore:
    """The secrets of a process. Thread-safe.

    folder  gives the folder of persistent ones; asked when one is needed
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._memory: dict[str, Secret] = {}
        self._lock = threading.RLock()  # an error of drop lists what there is
        self._salt = secrets.token_bytes(16)

    def create(self, secret: Secret, *, or_replace: bool = False, if_not_exists: bool = False) -> bool:
        """Add one; True when it was added, False when it was kept. CatalogError when there is one of its name."""
        name = secret.name.lower()
        with self._lock:
            known = self._read(name) if secret.persistent else self._memory.get(name)
            if known is not None and not or_replace:
                if if_not_exists:
                    return False
                raise CatalogError(
                    f'Secret "{secret.name}" already exists',
                    remedy="Use CREATE OR REPLACE SECRET, CREATE SECRET IF NOT EXISTS, or DROP SECRET first.",
                )
            if secret.persistent:
                self._write(secret)
            else:
                self._memory[name] = secret
        return True

    def drop(self, name: str, scope: str = "", *, if_exists: bool = False) -> bool:
        """Drop one; ``scope`` is '' | 'temporary' | 'persistent'. True when one was dropped.

        CatalogError when it is missing (unless ``if_exists``), or when there are two and no scope is given.
        """
        lowered = name.lower()
        with self._lock:
            places = {"temporary": lowered in self._memory, "persistent": self._path(lowered).exists()}
            if scope:
                places = {scope: places[scope]}
            if sum(places.values()) > 1:
                raise CatalogError(
                    f'there are two secrets "{name}": a temporary and a persistent one',
                    remedy="Say which: DROP TEMPORARY SECRET, or DROP PERSISTENT SECRET.",
                )
            if places.get("temporary"):
                del self._memory[lowered]
            elif places.get("persistent"):
                self._path(lowered).unlink()
            elif not if_exists:
                raise self.missing(name)
            return any(places.values())

    def find(self, name: str) -> Secret | None:
        """The secret of a name, the temporary one first. OperationalError for a file that others may read."""
        lowered = name.lower()
        with self._lock:
            return self._memory.get(lowered) or self._read(lowered)

    def has(self, name: str) -> bool:
        """Whether there is one of this name, readable or not."""
        with self._lock, suppress(OSError):
            return name.lower() in self._memory or self._path(name.lower()).exists()
        return False

    def get(self, name: str) -> Secret:
        """As ``find``; CatalogError when there is none."""
        found = self.find(name)
        if found is None:
            raise self.missing(name)
        return found

    def all(self) -> list[Secret]:
        """All of them by name, the temporary one of two first. Files that cannot be read are left out."""
        with self._lock:
            found = dict(self._memory)
            names, kept = [], []
            with suppress(OSError):  # no folder, no secrets
                names = [unquote(path.stem) for path in sorted(self._folder().glob("*.json"))]
            for name in names:
                with suppress(OperationalError):
                    secret = self._read(name)
                    kept += [] if secret is None else [secret]
        return sorted([*found.values(), *kept], key=lambda secret: (secret.name.lower(), secret.persistent))

    def missing(self, name: str) -> CatalogError:
        """The error for a name that does not exist, with the nearest one that does."""
        near = did_you_mean(name, [secret.name for secret in self.all()])
        return CatalogError(
            f'Secret "{name}" does not exist', remedy=near or f"CREATE SECRET {name} (TYPE llm, API_KEY '…') first."
        )

    def stamp(self, name: str) -> str:
        """Changes whenever what the secret holds does; tells nothing about it. '' when there is none."""
        secret = self.find(name)
        if secret is None:
            return ""
        held = json.dumps([secret.api_key, secret.api_key_env, secret.base_url])
        return hashlib.blake2b(held.encode(), key=self._salt, digest_size=16).hexdigest()

    # --- files

    def _path(self, name: str) -> Path:
        return self._folder() / (quote(name, safe="") + ".json")

    def _read(self, name: str) -> Secret | None:
        try:
            path = self._path(name)
        except OSError:  # no folder can be made: there is nothing in it
            return None
        try:
            mode = path.stat().st_mode
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise OperationalError(
                    f'the file of secret "{name}" can be read by others: {path}', remedy="Run chmod 600 on it."
                )
            body = json.loads(path.read_text(encoding="utf-8"))
            return Secret(str(body["name"]), body["api_key"], body["api_key_env"], str(body["base_url"]), True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise OperationalError(
                f'the file of secret "{name}" cannot be read: {path}',
                remedy="CREATE OR REPLACE PERSISTENT SECRET makes it anew.",
            ) from None

    def _write(self, secret: Secret) -> None:
        path = self._path(secret.name.lower())
        if len(path.name.encode()) > _LONGEST:
            raise CatalogError("the name of a persistent secret is too long", remedy="Choose a shorter one.")
        body = {item: getattr(secret, item) for item in ("name", "api_key", "api_key_env", "base_url")}
        draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
                json.dump(body, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as problem:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise OperationalError(
                f'secret "{secret.name}" cannot be written to {path}: {problem.strerror}',
                remedy="Set HALO_HOME to a folder of yours, or use CREATE SECRET without PERSISTENT.",
            ) from None


def rows(store: SecretStore) -> list[tuple[str | None, ...]]:
    """The secrets as rows of COLUMNS."""
    return [secret.shown() for secret in store.all()]

"""What must not be stored in clear: options whose name says secret, keys inside URLs and JSON texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from halo_sql.catalog.objects import Definition, PromptDef, ToolDef, kind_of
from halo_sql.errors import CatalogError

SECRET_REMEDY = (
    "Put it into an environment variable and name that: api_key_env = 'NAME'. "
    "Or CREATE SECRET s (TYPE llm, API_KEY '…') and name that: secret = s"
)

_ENDINGS = ("key", "secret", "token", "password", "passwd", "passphrase", "credential", "credentials")
_WORDS = frozenset({"authorization", "authorisation", "bearer", "cookie", "pwd"})
_REFERENCES = ("env", "file")  # api_key_env names where the secret is
_TEXT_TOKENS = frozenset({"eos", "bos", "pad", "unk", "mask", "sep", "cls", "stop", "begin", "end", "image"})


def is_secret_name(name: str) -> bool:
    """Whether a value under this name is a secret: ``api_key``, ``hfToken``, ``X-Auth-Token``; not ``api_key_env``,
    ``max_tokens``, ``tokenizer`` or ``eos_token``."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    if not words or words[-1] in _REFERENCES or (words[-1] == "token" and _TEXT_TOKENS & {*words}):
        return False
    return any(word in _WORDS or word.endswith(_ENDINGS) for word in words)


def refuse_secrets(definition: Definition) -> None:
    """CatalogError when the definition holds a secret in clear; the error does not repeat it.

    ``secret = name`` is allowed: it names a SECRET object (the grammar has refused a literal there).
    """
    if isinstance(definition, PromptDef):
        return
    what = f'{kind_of(definition)} "{definition.name}"'
    for key, value in definition.options.items():
        found = key if is_secret_name(key) and key.lower() != "secret" and _is_text(value) else _inside(value)
        if found:
            raise CatalogError(f'option "{found}" of {what} would store a secret in clear', remedy=SECRET_REMEDY)
    source = getattr(definition, "source", "")
    if isinstance(definition, ToolDef) and definition.kind in ("http", "mcp"):
        source = definition.body
    try:
        parts = urlsplit(source)
        given = any(is_secret_name(key) and "{{" not in value for key, value in parse_qsl(parts.query))
        clear = bool(parts.scheme and (parts.password or given))
    except ValueError:  # not a URL
        clear = False
    if clear:
        raise CatalogError(f"the source of {what} holds a secret in clear", remedy=SECRET_REMEDY)


def _is_text(value: object) -> bool:
    """Counts and switches are no secrets (stop_token_ids = [1, 2]), numbers under a password are."""
    if isinstance(value, list):
        return any(isinstance(item, str) for item in value)
    return value is not None and not isinstance(value, bool)


def _inside(value: object) -> str:
    """The first secret name among the keys of a map, or of a JSON text of one (``headers``); '' when none."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ""
    if not isinstance(value, Mapping):
        return ""
    return next((str(key) for key, member in value.items() if is_secret_name(str(key)) and _is_text(member)), "")

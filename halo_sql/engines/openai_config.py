"""The options of an OpenAI-compatible server, checked; where its credentials come from and what they must not cross."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from halo_sql.engines.kinds import DIMENSIONS, EMBEDDING, GENERATE, KIND
from halo_sql.engines.options import Option, resolve
from halo_sql.errors import CatalogError, EngineError

OPTIONS: tuple[Option, ...] = (
    Option("model", "text", None, "The server's name of the model; not needed when it serves only one"),
    Option("api_key", "text", None, "The key itself; better: api_key_env"),
    Option("api_key_env", "text", None, "Environment variable that holds the key"),
    Option("secret", "text", None, "A SECRET that holds the key"),
    Option("headers", "object", {}, "More HTTP headers"),
    Option("timeout_s", "number", 120.0, "Deadline of a request with all its attempts", 0.01, 86_400),
    Option("concurrency", "integer", 64, "Requests in flight", 1, 4096),
    Option("base_urls", "text", None, "More servers with the same model, comma-separated"),
    Option("max_retries", "integer", 4, "Attempts after the first", 0, 4),
    Option("backoff_s", "number", 0.5, "Base of the exponential backoff", 0.0, 60),
    Option("probe_s", "number", 5.0, "Time between probes of a server that is down", 0.01, 60),
    Option("structured", "text", "json_schema", "How answers are constrained", choices=("json_schema", "vllm", "none")),
    Option("tool_calling", "text", "native", "How an agent's tools are offered", choices=("native", "json")),
    Option("price_in", "number", 0.0, "USD per million prompt tokens", 0.0),
    Option("price_out", "number", 0.0, "USD per million output tokens", 0.0),
    Option("extra_body", "object", {}, "More fields of the request body; null removes one"),
    KIND,
    DIMENSIONS,
    Option("batch_size", "integer", 32, "Texts per request to an embedding model", 1, 2048),
)
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"})
_OWN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "accept-encoding"})
_OWN_FIELDS = frozenset({"model", "messages", "input", "stream", "n"})


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """A checked model definition; what may be secret is kept out of ``repr``."""

    url: str
    model: str | None
    api_key: str | None = field(repr=False)
    api_key_env: str | None
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float
    concurrency: int
    attempts: int
    backoff_s: float
    probe_s: float
    structured: str
    tool_calling: str
    extra_body: Mapping[str, Any] = field(repr=False)
    kind: str
    dimensions: int | None
    batch_size: int

    def key(self) -> str | None:
        """The API key, from the definition or the environment; EngineError('auth') when the variable is not set."""
        if self.api_key_env is None:
            return self.api_key
        found = os.environ.get(self.api_key_env, "")
        if not _is_header(found) or not found:
            raise EngineError(
                f"the environment variable {self.api_key_env} holds no API key for {self.url}",
                code="auth",
                remedy=f"Set {self.api_key_env} before starting, then run the query again.",
            )
        return found

    def identity(self, model: str, root: str) -> str:
        """What fixes the answers (part of the response store's key); holds no secret."""
        plain = {name: value for name, value in self.headers.items() if name not in _SECRET_HEADERS}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16] if plain else ""
        extra = json.dumps(self.extra_body, sort_keys=True, default=str)
        parts = ["openai", self.url, model, root, self.structured, extra, digest]
        if self.tool_calling != "native":
            parts.append(self.tool_calling)
        if self.kind == EMBEDDING:
            parts += [EMBEDDING, str(self.dimensions or "")]
        return "|".join(parts)


def sources(source: str, options: Mapping[str, object]) -> list[str]:
    """The base URLs of a model: the source and those of the option ``base_urls``."""
    more = resolve("openai", options, OPTIONS)["base_urls"] or ""
    return [source, *(url.strip() for url in more.split(",") if url.strip())]


def check(source: str, options: Mapping[str, object]) -> OpenAIConfig:
    """The definition as a config; CatalogError names what is wrong with it and the remedy."""
    values = resolve("openai", options, OPTIONS)
    url = source.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CatalogError(
            "the source of an openai model is the base URL of a server",
            remedy="For example: CREATE MODEL m FROM 'http://127.0.0.1:8000/v1' USING openai WITH (model = '…').",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise CatalogError(
            f"the URL of server {parts.hostname} holds credentials, a query or a fragment",
            remedy="Give the base URL only and the key as api_key_env = 'NAME_OF_VARIABLE'.",
        )
    given = [name for name in ("api_key", "api_key_env", "secret") if values[name] is not None]
    if len(given) > 1:
        raise CatalogError(f"{given[0]} and {given[1]} exclude each other", remedy=f"Keep {given[1]}.")
    if values["api_key"] is not None and not _is_header(values["api_key"]):
        raise CatalogError('option "api_key" of engine openai has a wrong value', remedy="A key is printable ASCII.")
    headers = _headers(values["headers"])
    secret = given or _SECRET_HEADERS & headers.keys()
    if secret and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise CatalogError(
            f"an API key would travel unencrypted to {parts.hostname}",
            remedy="Use https, or a server on this machine.",
        )
    reserved = sorted(_OWN_FIELDS & values["extra_body"].keys())
    if reserved:
        raise CatalogError(
            f'"{reserved[0]}" cannot be given in extra_body', remedy="It is set by the query or by its own option."
        )
    return OpenAIConfig(
        url=url,
        model=values["model"],
        api_key=values["api_key"],
        api_key_env=values["api_key_env"],
        headers=headers,
        timeout_s=values["timeout_s"],
        concurrency=values["concurrency"],
        attempts=1 + values["max_retries"],
        backoff_s=values["backoff_s"],
        probe_s=values["probe_s"],
        structured=values["structured"],
        tool_calling=values["tool_calling"],
        extra_body=values["extra_body"],
        kind=values["kind"] or GENERATE,
        dimensions=values["dimensions"],
        batch_size=values["batch_size"],
    )


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine without asking a name server."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _headers(given: Mapping[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in given.items():
        usable = isinstance(value, str) and _is_header(value) and re.fullmatch(r"[A-Za-z0-9_-]+", name)
        if not usable or name.lower() in _OWN_HEADERS:
            raise CatalogError(
                'option "headers" of engine openai has an entry that cannot be sent',
                remedy="Names and values are printable ASCII; Host, Content-* and encodings are set by the engine.",
            )
        headers[name.lower()] = value
    return headers


def _is_header(text: str) -> bool:
    return text.isascii() and text.isprintable()

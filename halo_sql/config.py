"""Settings: typed, ranged, described; and the folders HaloSQL keeps on disk.

A setting's value comes from, in this order: ``SET`` of the connection, ``SET GLOBAL`` of any connection of the same
``connect``, ``connect(config=…)``, the environment (``HALO_STORE=off`` for ``halo_store``), the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halo_sql.errors import NotSupportedError, SettingError, did_you_mean

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    kind     'text' | 'integer' | 'number' | 'boolean' | 'list' (comma-separated names)
    minimum  smallest allowed number
    choices  allowed texts; empty: any
    fixed    cannot be changed once connected
    """

    name: str
    kind: str
    default: Value
    help: str
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    @property
    def range(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind == "boolean":
            return "true, false"
        return "" if self.minimum is None else f"{self.minimum:g} and more"


SETTINGS: tuple[Setting, ...] = (
    Setting("halo_default_model", "text", "smollm2", "Model of calls that name none"),
    Setting("halo_default_embedding_model", "text", "minilm", "Model of LLM_EMBED calls that name none"),
    Setting("halo_store", "text", "", "Response store: a file, '' for the one in HALO_HOME, or 'off'"),
    Setting("halo_optimizer", "text", "on", "'off' runs statements as written", choices=("on", "off")),
    Setting("halo_disabled_rules", "list", "", "Optimizer rules not to use, comma-separated"),
    Setting("halo_verify", "boolean", False, "Check schema and tree after every optimizer rule"),
    Setting("halo_objective", "text", "makespan", "What plans are chosen by", choices=("makespan", "usd", "tokens")),
    Setting("halo_max_concurrency", "integer", 0, "Requests in flight per model; 0: the engine's own", 0),
    Setting("halo_max_calls", "integer", 100_000, "LLM calls one statement may make; 0: no limit", 0),
    Setting("halo_max_tokens", "integer", 0, "Prompt and output tokens one statement may use; 0: no limit", 0),
    Setting("halo_max_usd", "number", 0.0, "Money one statement may spend; 0: no limit", 0),
    Setting("halo_max_seconds", "number", 0.0, "Seconds one statement may take; 0: no limit", 0),
    Setting("halo_max_recursion", "integer", 1000, "Times the calls in a recursive query may be asked", 1),
    Setting("halo_on_error", "text", "fail", "on_error of calls that name none", choices=("fail", "null", "struct")),
    Setting("halo_approximate", "boolean", False, "Let filters with a quality be decided by a proxy in part"),
    Setting("halo_learn", "boolean", True, "Learn from finished calls what the next ones will take, and plan with it"),
    Setting("halo_trace_text", "boolean", False, "Keep prompts and answers for halo_calls()"),
    Setting("halo_virtual_time", "boolean", False, "Run on a virtual clock (for emulated models)", fixed=True),
    Setting("halo_progress", "boolean", True, "Show progress of LLM operators in the shell"),
)
BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


def find(name: str) -> Setting:
    """The setting of this name (case ignored); SettingError with the nearest name otherwise."""
    setting = BY_NAME.get(name.lower())
    if setting is None:
        raise SettingError(f'unrecognized setting "{name}"', remedy=did_you_mean(name, list(BY_NAME)))
    return setting


def check(setting: Setting, value: object) -> Value:
    """``value`` as the setting's type, or SettingError that names the setting, the value and what is allowed."""
    if setting.kind == "boolean":
        word = str(value).strip().lower()
        if word in ("true", "on", "1", "yes", "t"):
            return True
        if word in ("false", "off", "0", "no", "f"):
            return False
        raise _refuse(setting, value, "true or false")
    if setting.kind in ("integer", "number"):
        try:
            number = int(str(value)) if setting.kind == "integer" else float(str(value))
        except ValueError:
            raise _refuse(setting, value, f"an {setting.kind}" if setting.kind == "integer" else "a number") from None
        if setting.minimum is not None and not number >= setting.minimum:
            raise _refuse(setting, value, f"at least {setting.minimum:g}")
        return number
    text = "" if value is None else str(value)
    if setting.choices and text.lower() not in setting.choices:
        raise _refuse(setting, value, " or ".join(repr(choice) for choice in setting.choices))
    return text.lower() if setting.choices else text


def _refuse(setting: Setting, value: object, allowed: str) -> SettingError:
    return SettingError(f"{setting.name} cannot be {value!r}", remedy=f"It takes {allowed}.")


def _changeable(setting: Setting) -> None:
    if setting.fixed:
        raise SettingError(
            f"{setting.name} cannot be changed while connected",
            remedy=f"Give it to connect(config={{'{setting.name}': …}}), or set {setting.name.upper()} before.",
        )


class Settings:
    """The settings of one connection."""

    def __init__(self, config: Mapping[str, object] | None = None) -> None:
        self._base: dict[str, tuple[Value, str]] = {}  # what connect started with, and where it came from
        for setting in SETTINGS:
            variable = setting.name.upper()
            given = os.environ.get(variable)
            if given is None:
                self._base[setting.name] = setting.default, "default"
                continue
            try:
                self._base[setting.name] = check(setting, given), "environment"
            except SettingError as problem:
                problem.message += f" (environment variable {variable})"
                raise
        for name, value in (config or {}).items():
            setting = find(name)
            self._base[setting.name] = check(setting, value), "config"
        self._shared: dict[str, Value] = {}  # SET GLOBAL: the same for all connections of this connect
        self._own: dict[str, Value] = {}  # SET

    def set(self, name: str, value: object, scope: str = "") -> None:
        """Change a setting; ``scope`` is '' | 'session' | 'global'. SettingError when unknown or out of range,
        NotSupportedError for 'local'."""
        setting = find(name)
        _changeable(setting)
        self._scope(scope)[setting.name] = check(setting, value)

    def reset(self, name: str, scope: str = "") -> None:
        """Take back what ``set`` did in this scope."""
        setting = find(name)
        _changeable(setting)
        self._scope(scope).pop(setting.name, None)

    def _scope(self, scope: str) -> dict[str, Value]:
        if scope == "local":  # as DuckDB has it
            raise NotSupportedError("SET LOCAL is not implemented.", remedy="Use SET, or SET GLOBAL.")
        return self._shared if scope == "global" else self._own

    def get(self, name: str) -> Value:
        """The current value."""
        return self._find(name)[0]

    def source(self, name: str) -> str:
        """Where the current value comes from: 'set' | 'global' | 'config' | 'environment' | 'default'."""
        return self._find(name)[1]

    def _find(self, name: str) -> tuple[Value, str]:
        known = find(name).name
        if known in self._own:
            return self._own[known], "set"
        if known in self._shared:
            return self._shared[known], "global"
        return self._base[known]

    def text(self, name: str) -> str:
        """The current value as text."""
        return str(self.get(name))

    def integer(self, name: str) -> int:
        """The current value as an integer."""
        return int(str(self.get(name)))

    def number(self, name: str) -> float:
        """The current value as a number."""
        return float(str(self.get(name)))

    def flag(self, name: str) -> bool:
        """The current value as a boolean."""
        return bool(self.get(name))

    def names(self, name: str) -> frozenset[str]:
        """The current value of a 'list' setting."""
        return frozenset(word.strip() for word in self.text(name).split(",") if word.strip())

    def copy(self) -> Settings:
        """An independent copy (cursors share values, and what SET GLOBAL changes)."""
        other = Settings.__new__(Settings)
        other._base, other._shared, other._own = self._base, self._shared, dict(self._own)
        return other


def home() -> Path:
    """The folder of store, models and history: ``HALO_HOME``, else the user's cache folder. Created 0700."""
    given = os.environ.get("HALO_HOME")
    if given:
        folder = Path(given).expanduser()
    else:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("halo_sql", appauthor=False))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def store_path(settings: Settings) -> Path | None:
    """The response store's file; None when it is off."""
    value = settings.text("halo_store")
    if value.lower() == "off":
        return None
    return Path(value).expanduser() if value else home() / "responses.sqlite"

"""Calibrations on disk: a small file each. Whatever is wrong with one, runs go on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, TypeVar

from halo_sql.engines.protocol import EngineInfo
from halo_sql.engines.speed import Speed, key_of

FORMAT = 1
#: What ``halo_calibrations()`` shows: (name, DuckDB type); ``row`` gives the values.
COLUMNS = (
    *((name, "VARCHAR") for name in ("model", "engine", "device", "dtype")),
    *((name, "DOUBLE") for name in ("prefill_tok_per_s", "decode_step_s", "decode_seq_s", "kv_read_s", "request_s")),
    ("load_s", "DOUBLE"),
    *((name, "BIGINT") for name in ("batch_requests", "kv_capacity_tok", "kv_tok_bytes", "weight_bytes")),
    *((name, "BIGINT") for name in ("memory_bytes", "probes", "probe_tok")),
    ("error", "DOUBLE"),
    ("pace", "DOUBLE"),
    ("queries", "BIGINT"),
    ("created", "TIMESTAMP"),
)
T = TypeVar("T")


class Definition(Protocol):
    """What is asked of a model definition, see ``registry.Definition``."""

    @property
    def name(self) -> str:
        """As created."""
        ...

    @property
    def engine(self) -> str:
        """The engine's name."""
        ...

    @property
    def source(self) -> str:
        """Where the model is."""
        ...

    @property
    def options(self) -> Mapping[str, object]:
        """WITH (…) options."""
        ...


class Speeds:
    """The calibrations of a folder. Thread-safe; no method raises for what the disk does.

    warnings  what went wrong so far, a sentence each
    """

    def __init__(self, folder: Path) -> None:
        self.warnings: list[str] = []
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp = -1  # the folder's time of change when it was read
        self._known: list[Speed] = []

    def all(self) -> list[Speed]:
        """All of them, by model and device."""
        with self._lock:
            self._read()
            return list(self._known)

    def find(self, model: Definition, info: EngineInfo | None) -> Speed | None:
        """The calibration of an engine; of one that has not run here (``info`` None) by its definition."""
        known = self.all()
        if not known:
            return None
        if info is not None:
            return next((speed for speed in known if speed.of(info)), None)
        wanted = definition_of(model)[1:]
        found = [speed for speed in known if (speed.engine, speed.source, speed.options) == wanted]
        return max(found, key=lambda speed: speed.created_s, default=None)

    def put(self, speed: Speed) -> bool:
        """Keep a calibration in place of an older one of the same engine; False when the disk refuses."""
        digest = hashlib.sha256(json.dumps([FORMAT, key_of(speed.info)], ensure_ascii=False).encode()).hexdigest()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(speed), file)
            Path(name).replace(self._folder / f"{digest[:32]}.json")
        except OSError as problem:
            self._warn(f"a calibration of model {speed.model} could not be kept: {problem.strerror}")
            return False
        with self._lock:
            self._stamp = -1
        return True

    def _read(self) -> None:
        """Read the folder when it has changed (files are only ever replaced, which changes it)."""
        try:
            stamp = self._folder.stat().st_mtime_ns
        except OSError:
            self._known, self._stamp = [], -1
            return
        if stamp == self._stamp:
            return
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(_parse(path.read_text(encoding="utf-8")))
            except FileNotFoundError:  # replaced at this moment
                continue
            except (OSError, ValueError, TypeError, KeyError):
                self._warn(f"the calibration {path} cannot be read: run CALIBRATE MODEL again, or delete it")
        self._known, self._stamp = sorted(found, key=lambda speed: (speed.model.lower(), speed.info.device)), stamp

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def row(speed: Speed) -> tuple[Any, ...]:
    """The values of ``COLUMNS``."""
    created = datetime.fromtimestamp(speed.created_s, UTC).replace(tzinfo=None)
    own, said = asdict(speed), asdict(speed.info)
    return tuple(created if name == "created" else own.get(name, said.get(name)) for name, _ in COLUMNS)


def definition_of(model: Definition) -> tuple[str, str, str, str]:
    """Name, engine and source of a model, and a digest of its options (they may name secrets)."""
    options = json.dumps(dict(model.options), sort_keys=True, default=repr)
    return model.name, model.engine, model.source, hashlib.sha256(options.encode()).hexdigest()[:32]


def _parse(text: str) -> Speed:
    """A calibration as ``put`` writes it; ValueError, TypeError or KeyError for anything else."""
    made = json.loads(text)
    speed = Speed(**{**made, "info": _sound(EngineInfo(**made["info"]))})
    if not (speed.prefill_tok_per_s > 0 and speed.pace > 0 and speed.chars_per_tok > 0):
        raise ValueError("no speed")
    return _sound(speed)


def _sound(made: T) -> T:
    """The same, its numbers finite and not negative, its texts texts."""
    for item in fields(made):  # type: ignore[arg-type]  # a dataclass
        value = getattr(made, item.name)
        if item.type in ("int", "float") and not (isfinite(value) and value >= 0):
            raise ValueError(item.name)
        if item.type == "str" and not isinstance(value, str):
            raise TypeError(item.name)
    return made

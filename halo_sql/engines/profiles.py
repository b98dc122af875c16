"""Profiles of emulated models: what a model and its device take, from ``profiles.toml``, a file, or a calibration."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from halo_sql import config
from halo_sql.engines.protocol import EngineInfo
from halo_sql.engines.speed import Speed
from halo_sql.engines.speeds import Speeds
from halo_sql.errors import CatalogError, did_you_mean

BUNDLED = Path(__file__).with_name("profiles.toml")
CALIBRATED = "calibrated:"


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on a device. Rates are per second, sizes in bytes, a zero costs nothing.

    prefill_tok_per_s, decode_step_s, decode_seq_s, kv_read_s, request_s  as in ``Speed``
    kv_capacity_tok  tokens of its KV cache; 0: what the device's memory leaves
    start_s, load_s  of the engine's process, and of a load besides its bytes
    link_bytes_per_s name of a link -> its rate
    """

    name: str
    weight_bytes: int = 0
    kv_tok_bytes: int = 0
    memory_bytes: int = 0
    kv_capacity_tok: int = 0
    block_tok: int = 16
    context_tok: int = 32_768
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    prefill_tok_per_s: float = 1e9
    decode_step_s: float = 0.0
    decode_seq_s: float = 0.0
    kv_read_s: float = 0.0
    request_s: float = 0.0
    start_s: float = 0.0
    load_s: float = 0.0
    load_bytes_per_s: float = 1e18
    wake_bytes_per_s: float = 1e18
    link_bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    chars_per_tok: float = 4.0
    bare_tok: float = 5.0
    system_tok: float = 4.0

    def loading_s(self) -> float:
        """Seconds to load the weights from host memory."""
        return self.load_s + self.weight_bytes / self.load_bytes_per_s

    def waking_s(self) -> float:
        """Seconds to wake from sleep, and to fall asleep."""
        return self.weight_bytes / self.wake_bytes_per_s

    def speed(self, definition: tuple[str, str, str, str], info: EngineInfo) -> Speed:
        """The figures as a calibration would give them, for the model of ``speeds.definition_of``."""
        return Speed(
            *definition,
            info,
            prefill_tok_per_s=self.prefill_tok_per_s,
            decode_step_s=self.decode_step_s,
            decode_seq_s=self.decode_seq_s,
            kv_read_s=self.kv_read_s,
            request_s=self.request_s,
            load_s=self.loading_s(),
            chars_per_tok=self.chars_per_tok,
            bare_tok=self.bare_tok,
            system_tok=self.system_tok,
        )


def find(source: str) -> Profile:
    """The profile that ``CREATE MODEL … FROM source USING emulated`` names: one of ``profiles.toml``, 'FILE.toml#name',
    or 'calibrated:model' of a model that CALIBRATE MODEL has measured here. CatalogError with a remedy otherwise."""
    if source.lower().startswith(CALIBRATED):
        return _calibrated(source[len(CALIBRATED) :])
    path, hash_sign, name = source.rpartition("#")
    known = _read(Path(path).expanduser()) if hash_sign else _bundled()
    profile = known.get((name if hash_sign else source).lower())
    if profile is None:
        remedy = did_you_mean(name, list(known)) or (
            f"Profiles are {', '.join(known)}; your own is 'FILE.toml#name', a calibrated model's 'calibrated:model'."
        )
        raise CatalogError(f"there is no profile {source!r} of an emulated model", remedy=remedy)
    return profile


def from_speed(speed: Speed, **other: Any) -> Profile:
    """The profile of a calibrated model; ``other`` fields are those that a calibration does not tell."""
    info, pace = speed.info, speed.pace
    known: dict[str, Any] = {
        "name": speed.model,
        "weight_bytes": info.weight_bytes,
        "kv_tok_bytes": info.kv_tok_bytes,
        "memory_bytes": info.memory_bytes,
        "kv_capacity_tok": info.kv_capacity_tok,
        "block_tok": info.block_tok or 16,
        "context_tok": info.context_tok or 32_768,
        "max_num_seqs": info.batch_requests or info.window_requests,
        "max_num_batched_tokens": info.step_tok or 2048,
        "prefill_tok_per_s": speed.prefill_tok_per_s / pace,
        "decode_step_s": speed.decode_step_s * pace,
        "decode_seq_s": speed.decode_seq_s * pace,
        "kv_read_s": speed.kv_read_s * pace,
        "request_s": speed.request_s * pace,
        "load_s": speed.load_s,
        "chars_per_tok": speed.chars_per_tok,
        "bare_tok": speed.bare_tok,
        "system_tok": speed.system_tok,
    }
    return Profile(**(known | other))


def _calibrated(model: str) -> Profile:
    known = Speeds(config.home() / "calibrations").all()
    found = [speed for speed in known if speed.model.lower() == model.lower() and speed.engine != "emulated"]
    if not found:
        raise CatalogError(f'model "{model}" has not been calibrated', remedy=f"Run CALIBRATE MODEL {model} first.")
    return from_speed(max(found, key=lambda speed: speed.created_s))


@cache
def _bundled() -> dict[str, Profile]:
    return _read(BUNDLED)


def _read(path: Path) -> dict[str, Profile]:
    """The profiles of a file by lower-case name; those that only others are ``like`` (no rate) are left out."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CatalogError(f"the profiles in {str(path)!r} cannot be read: {problem}") from None
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise CatalogError(f'{str(path)!r} has "{name}" outside a [profile]')
        values: dict[str, Any] = {}
        base = table.get("like")
        if base is not None:
            values |= tables.get(base, {})
        values |= {key: value for key, value in table.items() if key != "like"}
        if "prefill_tok_per_s" in values:
            found[name.lower()] = _checked(path, name, values)
    return found


def _checked(path: Path, name: str, values: Mapping[str, Any]) -> Profile:
    known = {item.name: item.type for item in fields(Profile)}
    for key, value in values.items():
        where = f'"{key}" of profile "{name}" in {str(path)!r}'
        if key not in known or key == "name":
            raise CatalogError(f"there is no {where}", remedy=did_you_mean(key, list(known)))
        numbers = list(value.values()) if key == "link_bytes_per_s" and isinstance(value, dict) else [value]
        whole = known[key] == "int"
        if not all(_is_number(number, whole) for number in numbers):
            raise CatalogError(
                f"{where} has a wrong value", remedy=f"It takes {'an integer' if whole else 'a number'} of at least 0."
            )
    return Profile(name, **values)


def _is_number(value: object, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return isfinite(value) and value >= 0

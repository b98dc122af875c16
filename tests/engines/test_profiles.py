"""Profiles and definitions of emulated models: checked, what the bundled ones say, the speed they state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from halo_sql.engines.calibrate import calibrate
from halo_sql.engines.profiles import find, from_speed
from halo_sql.engines.protocol import GenRequest
from halo_sql.engines.registry import check_model, create, stated_speed
from halo_sql.engines.speed import Speed
from halo_sql.errors import CatalogError
from halo_sql.virtual_time import VirtualTimeLoop

PROFILES = """
[base]
block_tok = 4
context_tok = 4000
memory_bytes = 1_000_000
weight_bytes = 100_000
kv_tok_bytes = 100
link_bytes_per_s = { nvlink = 1000.0 }

[toy]
like = "base"
prefill_tok_per_s = 1000.0
"""


@dataclass
class Model:
    """A definition, see ``registry.Definition``."""

    source: str
    options: dict[str, object]
    name: str = "m"
    engine: str = "emulated"
    version: int = 1


def test_definitions_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PROFILES)
    for source, options, message in [
        ("dense-15b", {}, "no profile"),
        ("calibrated:nothing", {}, "not been calibrated"),
        (f"{tmp_path}/none.toml#x", {}, "cannot be read"),
        ("dense-14b", {"devize": "gpu1"}, 'no option "devize"'),
        ("dense-14b", {"link": "rope"}, "no link"),
        ("dense-14b", {"gpu_memory_utilization": 0.1}, "weights"),
        (f"{path}#toy", {"max_model_len": 9000}, "holds 7996 tokens"),
        (f"{path}#toy", {"kv_cache_gib": 0.0001, "block_size": 4000}, "holds 0 tokens"),
    ]:
        with pytest.raises(CatalogError, match=message):
            check_model(Model(source, dict(options)))
    check_model(Model("sparse-20b", {"device": "gpu2", "max_model_len": 8192}))
    for line, message in [("speed = 1.0", 'no "speed"'), ("block_tok = 1.5", "wrong value"), ("load_s = -1", "wrong")]:
        path.write_text(f"[p]\nprefill_tok_per_s = 1.0\n{line}\n")
        with pytest.raises(CatalogError, match=message):
            check_model(Model(f"{path}#p", {}))


def test_the_bundled_profiles_say_what_their_comments_say() -> None:
    for name, active, head, layers, weights in [
        ("dense-14b", 14e9, 128, 40, 28e9),
        ("sparse-20b", 3.6e9, 64, 24, 13e9),
        ("dense-32b", 32e9, 128, 64, 64e9),
    ]:
        profile = find(name)
        assert profile.prefill_tok_per_s == pytest.approx(0.5 * 788e12 / (2 * active), rel=0.02)
        assert profile.kv_tok_bytes == layers * 8 * head * 2 * 2
        assert profile.kv_read_s == pytest.approx(profile.kv_tok_bytes / (0.7 * 4.3e12), rel=0.001)
        assert profile.weight_bytes == weights
    assert find("Dense-14B").decode_step_s == pytest.approx(28e9 / (0.7 * 4.3e12), rel=0.001)
    assert find("dense-32b").decode_step_s == pytest.approx(64e9 / (0.7 * 4.3e12), rel=0.02)


def test_its_speed_is_known_without_calibration_and_a_calibration_finds_it() -> None:
    options = {"tokenizer": "words", "preloaded": True}
    model = Model("dense-14b", options)
    stated = stated_speed(model)
    assert stated is not None
    assert stated.load_s == pytest.approx(2 + 28 / 25)
    assert stated_speed(Model("echo", {}, engine="echo")) is None

    async def measure() -> Speed:
        engine = create(model, {"m": lambda _: "a " * 40})
        loop = asyncio.get_running_loop()
        return await calibrate(engine, await engine.start(), ("m", "emulated", "", ""), clock=loop.time)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(measure())
    assert found.prefill_tok_per_s == pytest.approx(14_000, rel=0.1)
    assert found.decode_step_s == pytest.approx(0.0093, rel=0.05)
    assert found.error < 0.02
    again = from_speed(found)
    assert (again.max_num_seqs, again.max_num_batched_tokens) == (256, 8192)
    assert again.prefill_tok_per_s == found.prefill_tok_per_s


def test_on_a_real_clock_it_takes_real_seconds() -> None:
    async def one() -> float:
        loop = asyncio.get_running_loop()
        engine = create(Model("dense-14b", {"tokenizer": "words", "preloaded": True}), {"m": lambda _: "a b c"})
        await engine.start()
        began_s, done = loop.time(), asyncio.Event()
        engine.submit([GenRequest(0, "hi")], lambda results: done.set())
        await done.wait()
        return loop.time() - began_s

    assert asyncio.run(one()) >= 4 * find("dense-14b").decode_step_s

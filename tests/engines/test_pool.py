"""The registry of engines and the pool that keeps them warm."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from halo_sql.catalog.objects import BUILT_IN_MODELS, ModelDef
from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.emulated import EmulatedEngine
from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.pool import EnginePool
from halo_sql.engines.protocol import Engine, EngineInfo, GenRequest, GenResult
from halo_sql.engines.python import PythonEngine
from halo_sql.engines.registry import ENGINES, check_model, create, price
from halo_sql.engines.replay import ReplayEngine
from halo_sql.errors import CatalogError, EngineError, InterfaceError

from .helpers import in_virtual_time

ECHO = BUILT_IN_MODELS["echo"]
URL = "http://127.0.0.1:8000/v1"


class Slow(EchoEngine):
    """An engine that takes a while to start, and counts what happens to it."""

    def __init__(self, fail: int = 0) -> None:
        super().__init__()
        self.starts = self.closes = 0
        self.fail = fail

    async def start(self) -> EngineInfo:
        self.starts += 1
        await asyncio.sleep(0.01)
        if self.fail >= self.starts:
            raise EngineError("no luck", code="unavailable")
        return await super().start()

    async def describe(self) -> EngineInfo | None:
        return None

    async def close(self) -> None:
        self.closes += 1


def with_pool(main: Callable[[EnginePool, list[Slow]], Any], fail: Sequence[int] = ()) -> None:
    made: list[Slow] = []

    def make(model: ModelDef, functions: Any) -> Engine:
        made.append(Slow(fail[len(made)] if len(made) < len(fail) else 0))
        return made[-1]

    async def run() -> None:
        pool = EnginePool(asyncio.get_running_loop(), create=make)
        try:
            await main(pool, made)
        finally:
            await pool.close()
        assert [engine.closes for engine in made] == [1] * len(made)

    in_virtual_time(run())


# --- the registry ---


def test_engines_by_name() -> None:
    functions = {"f": lambda messages: "x"}
    assert isinstance(create(ECHO), EchoEngine)
    assert isinstance(create(ModelDef("r", "answers.jsonl", "replay")), ReplayEngine)
    assert isinstance(create(ModelDef("o", URL, "openai", {"model": "m"})), OpenAIEngine)
    assert isinstance(create(ModelDef("p", "module:function", "python", {"concurrency": 2})), PythonEngine)
    assert isinstance(create(ModelDef("F", "f", "python"), functions), PythonEngine)
    assert isinstance(create(ModelDef("e", "dense-14b", "emulated"), functions), EmulatedEngine)
    assert set(ENGINES) == {"vllm", "openai", "python", "echo", "replay", "emulated"}


@pytest.mark.parametrize(
    ("model", "message", "remedy"),
    [
        (ModelDef("m", "x", "ray"), "not available in this version", "openai"),
        (ModelDef("m", "x", "opena"), 'unknown engine "opena"', 'Did you mean "openai"?'),
        (ModelDef("m", URL, "openai", {"modell": "x"}), 'no option "modell"', 'Did you mean "model"?'),
        (ModelDef("m", URL, "openai", {"timeout_s": "long"}), '"timeout_s"', "a number"),
        (ModelDef("m", "x", "openai"), "base URL", "CREATE MODEL"),
        (ModelDef("m", "x", "echo", {"temperature": 1}), 'no option "temperature"', "Known: dimensions, kind"),
        (ModelDef("m", "", "replay"), "no recording", "JSONL"),
        (ModelDef("m", "not a function", "python"), "Python function", "module:function"),
        (ModelDef("m", "a:b", "python", {"concurrency": 0}), '"concurrency"', "at least 1"),
    ],
)
def test_wrong_definitions(model: ModelDef, message: str, remedy: str) -> None:
    for check in (check_model, create):
        if check is create and model.source == "not a function":
            continue  # said with other words
        with pytest.raises(CatalogError) as caught:
            check(model)
        assert message in caught.value.message
        assert remedy in caught.value.remedy


def test_right_definitions_pass() -> None:
    for model in (
        ECHO,
        ModelDef("m", URL, "openai", {"MODEL": "x", "structured": "VLLM", "extra_body": '{"top_k": 1}'}),
        ModelDef("m", "pkg.mod:Class.method", "python"),
        ModelDef("m", "m", "python"),
        ModelDef("m", "answers.jsonl", "replay"),
    ):
        check_model(model)
        assert model.name


def test_prices_are_options() -> None:
    assert price(ModelDef("m", URL, "openai", {"price_in": 2, "price_out": 8})).usd(1_000_000, 500_000) == 6
    assert price(ModelDef("m", URL, "openai")).usd(1, 1) == price(ECHO).usd(1, 1) == 0


def test_a_callable_must_be_registered() -> None:
    with pytest.raises(CatalogError, match="not registered") as caught:
        create(ModelDef("bot", "bot", "python"))
    assert 'create_model("bot"' in caught.value.remedy


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom halo_sql.catalog.objects import ModelDef\nfrom halo_sql.engines.registry import check_model\n"
        f"check_model(ModelDef('m', {URL!r}, 'openai'))\ncheck_model(ModelDef('e', 'echo', 'echo'))\n"
        "check_model(ModelDef('v', 'bundled:smollm2', 'vllm'))\n"
        "heavy = {'httpx', 'pyarrow', 'vllm', 'torch', 'transformers', 'tokenizers', 'duckdb'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- the pool ---


def test_one_engine_and_one_start_for_all() -> None:
    async def main(pool: EnginePool, made: list[Slow]) -> None:
        pool.start(ECHO)
        await asyncio.sleep(0)
        first, second = pool.get(ECHO), pool.get(ModelDef("ECHO", "echo", "echo"))
        assert first is second
        infos = await asyncio.gather(*(handle.start() for handle in (first, second, first)))
        pool.start(ECHO)
        await asyncio.sleep(0)
        assert infos[0].identity == "echo"
        assert [engine.starts for engine in made] == [1]
        results: list[GenResult] = []
        first.submit([GenRequest(3, "q")], results.extend)
        first.abort([3])
        await first.close()
        assert (results[0].text, made[0].closes, first.count_tok(GenRequest(0, "q"))) == ("q", 0, 1)

    with_pool(main)


def test_a_cancelled_waiter_leaves_the_start_to_the_others() -> None:
    async def main(pool: EnginePool, made: list[Slow]) -> None:
        handle = pool.get(ECHO)
        impatient = asyncio.create_task(handle.start())
        await asyncio.sleep(0)
        patient = asyncio.create_task(handle.start())
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).identity == "echo"
        assert impatient.cancelled()
        assert made[0].starts == 1

    with_pool(main)


def test_a_replaced_version_closes_when_its_last_user_lets_go() -> None:
    async def main(pool: EnginePool, made: list[Slow]) -> None:
        old = pool.get(ECHO)
        new = pool.get(ModelDef("echo", "echo", "echo", version=2))
        await asyncio.sleep(0.01)
        assert old is not new
        assert [engine.closes for engine in made] == [0, 0]
        del old
        gc.collect()
        await asyncio.sleep(0.01)
        assert [engine.closes for engine in made] == [1, 0]
        del new  # idle, but the current one: stays warm
        await asyncio.sleep(0.01)
        assert [engine.closes for engine in made] == [1, 0]
        pool.get(ModelDef("echo", "echo", "echo", {"a": 1}, version=2))  # an idle one goes at once
        await asyncio.sleep(0.01)
        assert [engine.closes for engine in made] == [1, 1, 0]

    with_pool(main)


def test_a_failed_start_is_told_once_and_then_tried_again() -> None:
    async def main(pool: EnginePool, made: list[Slow]) -> None:
        pool.start(ECHO)
        await asyncio.sleep(0.05)  # failed in the background
        handle = pool.get(ECHO)
        for _ in range(2):
            with pytest.raises(EngineError, match="no luck"):
                await handle.start()
        assert [engine.starts for engine in made] == [1]
        assert (await pool.get(ECHO).start()).identity == "echo"
        assert [engine.starts for engine in made] == [1, 1]

    with_pool(main, fail=[1])


def test_an_engine_that_ended_itself_is_replaced() -> None:
    async def main(pool: EnginePool, made: list[Slow]) -> None:
        handle = pool.get(ECHO)
        made[0].failed = EngineError("refused", code="auth")  # type: ignore[attr-defined]
        assert pool.get(ECHO) is not handle
        assert len(made) == 2

    with_pool(main)


def test_start_from_another_thread_and_after_the_end() -> None:
    pools = []

    async def main(pool: EnginePool, made: list[Slow]) -> None:
        pools.append(pool)
        await asyncio.to_thread(pool.start, ECHO)
        await asyncio.sleep(0.05)
        assert [engine.starts for engine in made] == [1]
        await pool.close()
        pool.start(ECHO)
        await asyncio.sleep(0)
        with pytest.raises(InterfaceError):
            pool.get(ECHO)

    with_pool(main)
    pools[0].start(ECHO)  # its loop is closed: nothing to do
    assert pools[0].loop.is_closed()


def test_closing_during_a_start() -> None:
    async def main(pool: EnginePool, made: list[Slow]) -> None:
        pool.start(ECHO)
        while not (made and made[0].starts):  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0.001)
        await pool.close()
        assert (made[0].starts, made[0].closes) == (1, 1)

    with_pool(main)


def test_wrong_definitions_show_up_at_get() -> None:
    async def main() -> None:
        pool = EnginePool(asyncio.get_running_loop())
        wrong = ModelDef("m", "x", "openai")
        pool.start(wrong)
        await asyncio.sleep(0)
        with pytest.raises(CatalogError, match="base URL"):
            pool.get(wrong)
        await pool.close()

    asyncio.run(main())


def test_registering_another_callable_makes_another_engine() -> None:
    async def main() -> None:
        functions: dict[str, Any] = {"bot": lambda messages: "one"}
        pool = EnginePool(asyncio.get_running_loop(), functions)
        model = ModelDef("Bot", "bot", "python")
        first = pool.get(model)
        assert pool.get(model) is first
        functions["bot"] = lambda messages: "two"
        second = pool.get(model)
        assert second is not first
        results: list[GenResult] = []
        for handle in (first, second):
            await handle.start()
            done = asyncio.Event()
            handle.submit([GenRequest(0, "q")], lambda found, done=done: (results.extend(found), done.set()))  # type: ignore[misc]
            await asyncio.wait_for(done.wait(), 60)
        assert [result.text for result in results] == ["one", "two"]
        await pool.close()

    asyncio.run(main())

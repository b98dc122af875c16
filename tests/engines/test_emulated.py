"""The emulated engine on a virtual clock: seconds by hand, devices, sleep, transfers, aborts, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from halo_sql.engines.emulated import EmulatedEngine, Reply
from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, YES_NO, Answer, GenRequest, GenResult
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling
from halo_sql.virtual_time import VirtualTimeLoop

PROFILES = """
[toy]
block_tok = 4
context_tok = 4000
max_num_seqs = 8
max_num_batched_tokens = 100
prefill_tok_per_s = 1000.0
decode_step_s = 0.01
memory_bytes = 1_000_000
weight_bytes = 100_000
kv_tok_bytes = 100
start_s = 40.0
load_s = 2.0
load_bytes_per_s = 50_000.0
wake_bytes_per_s = 100_000.0
link_bytes_per_s = { nvlink = 1000.0, pcie = 100.0 }

[fast]
like = "toy"
link_bytes_per_s = { nvlink = 400_000.0, pcie = 90_000.0 }

[rich]
like = "toy"
decode_seq_s = 0.001
kv_read_s = 0.0001
request_s = 0.5
"""


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., EmulatedEngine]:
    path = tmp_path / "profiles.toml"
    path.write_text(PROFILES)

    def make(
        profile: str = "toy", name: str = "m", function: Any = None, worker: int = 0, **options: object
    ) -> EmulatedEngine:
        options = {"tokenizer": "words", "preloaded": True} | options
        return EmulatedEngine(name, f"{path}#{profile}", options, function, worker=worker)

    return make


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def words(count: int, word: str = "a") -> str:
    """A prompt of so many tokens: 3 are around the words (begin, end, begin of the answer)."""
    return " ".join([word] * (count - 3))


def answer_of(tok: int) -> Callable[[Any], Reply]:
    return lambda _: Reply("x", tok)


def now_s() -> float:
    return round(asyncio.get_running_loop().time(), 9)


async def ask(engine: EmulatedEngine, requests: Sequence[GenRequest]) -> list[tuple[float, GenResult]]:
    """When each was answered, and what, in the order of the requests."""
    found: dict[int, tuple[float, GenResult]] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        for result in results:
            assert result.id not in found, "delivered once"
            found[result.id] = (now_s(), result)
        if len(found) == len(requests):
            done.set()

    engine.submit(requests, deliver)
    await done.wait()
    return [found[request.id] for request in requests]


def requests(*tok: int, first: int = 0, word: str = "a") -> list[GenRequest]:
    return [GenRequest(first + number, words(size, word)) for number, size in enumerate(tok)]


def times(answers: list[tuple[float, GenResult]]) -> list[float]:
    return [at_s for at_s, _ in answers]


# --- seconds


def test_one_request(made: Callable[..., EmulatedEngine]) -> None:
    async def one() -> None:
        engine = made(function=answer_of(5))
        ((at_s, result),) = await ask(engine, requests(50))
        assert at_s == 0.05 + 5 * 0.01
        assert (result.text, result.finish) == ("x", "stop")
        assert (result.prompt_tok, result.prompt_tok_cached, result.output_tok) == (50, 0, 5)
        assert [(round(begin, 9), round(end, 9)) for begin, end in engine.times.busy] == [(0.0, 0.1)]

    run(one())


def test_all_that_a_profile_tells(made: Callable[..., EmulatedEngine]) -> None:
    async def one() -> None:
        engine = made("rich", function=answer_of(3))
        ((at_s, _),) = await ask(engine, requests(20))
        assert at_s == round(0.02 + 0.5 + 3 * (0.01 + 0.001) + (20 + 21 + 22) * 0.0001, 9)

    run(one())


def test_a_batch_shares_its_steps(made: Callable[..., EmulatedEngine]) -> None:
    async def two() -> None:
        engine = made(function=answer_of(5), enable_prefix_caching=False)
        assert times(await ask(engine, requests(30, 40))) == [0.12, 0.12]  # 70 tokens, 5 steps

    run(two())


def test_what_is_cached_is_not_computed(made: Callable[..., EmulatedEngine]) -> None:
    async def two() -> None:
        engine = made(function=answer_of(5))
        answers = await ask(engine, requests(30, 30))
        assert [result.prompt_tok_cached for _, result in answers] == [0, 28]
        assert times(answers) == [0.082, 0.082]  # 32 tokens, 5 steps
        assert times(await ask(engine, requests(30, first=7))) == [0.082 + 0.002 + 0.05]

    run(two())


def test_a_long_prompt_takes_several_steps_and_others_join(made: Callable[..., EmulatedEngine]) -> None:
    async def two() -> None:
        engine = made(function=answer_of(2), enable_prefix_caching=False)
        # 100 | 50 and 10, first tokens | second tokens
        assert times(await ask(engine, requests(150, 10))) == [0.19, 0.19]

    run(two())


def test_a_newcomer_joins_at_the_next_step(made: Callable[..., EmulatedEngine]) -> None:
    async def two() -> list[float]:
        engine = made(function=lambda messages: Reply("x", 101 if len(messages[0]["content"]) > 100 else 2))
        long = asyncio.ensure_future(ask(engine, requests(90)))  # 0.1 s with its first token, then 100 steps
        await asyncio.sleep(0.505)
        short = await ask(engine, requests(10, first=5, word="b"))
        return [*times(short), *times(await long)]

    # it waits for the step that ends at 0.51; the next takes 0.02, and one more
    assert run(two()) == [0.54, 1.11]


def test_models_on_one_device_take_turns_and_on_two_they_do_not(made: Callable[..., EmulatedEngine]) -> None:
    async def both(other: str) -> list[float]:
        a = made(name="a", function=answer_of(11), kv_cache_gib=0.0003)
        b = made(name="b", function=answer_of(11), kv_cache_gib=0.0003, device=other)
        answers = await asyncio.gather(ask(a, requests(10)), ask(b, requests(10)))
        return [answer[0][0] for answer in answers]

    assert run(both("gpu1")) == [0.12, 0.12]
    assert run(both("GPU0")) == [0.23, 0.24]


# --- loads, sleep, transfers


def test_a_start_takes_the_process_and_the_weights(made: Callable[..., EmulatedEngine]) -> None:
    async def one() -> None:
        engine = made(preloaded=False, function=answer_of(1))
        answers, info = await asyncio.gather(ask(engine, requests(20)), engine.start())
        assert times(answers) == [40 + 2 + 2 + 0.02 + 0.01]
        assert info == await engine.describe()
        assert info.timed
        assert not info.storable
        assert (info.device, info.memory_bytes, info.weight_bytes) == ("gpu0", 1_000_000, 100_000)
        assert info.kv_capacity_tok == (900_000 - 100_000) // 400 * 4

    run(one())


def test_memory_holds_one_of_them_and_the_idle_one_makes_room(made: Callable[..., EmulatedEngine]) -> None:
    async def swap(sleep_mode: bool) -> list[float]:
        a, b = (made(name=name, function=answer_of(1), sleep_mode=sleep_mode, preloaded=False) for name in "ab")
        first = await ask(a, requests(20))
        second = await ask(b, requests(20))
        third = await ask(a, requests(20, first=5))
        assert third[0][1].prompt_tok_cached == 0, "the KV cache is gone"
        assert [len(engine.times.loads) for engine in (a, b)] == [2, 1]
        return [*times(first), *times(second), *times(third)]

    started, work = 44.0, 0.03
    assert run(swap(True)) == [started + work, 2 * (started + work) + 1, 2 * started + 3 * work + 1 + 1 + 1]
    assert run(swap(False)) == [started + work, 2 * (started + work), 2 * started + 3 * work + 4]


def test_a_busy_model_is_not_sent_away(made: Callable[..., EmulatedEngine]) -> None:
    async def both() -> None:
        a, b = (made(name=name, function=answer_of(100)) for name in "ab")
        one, other = await asyncio.gather(ask(a, requests(20)), ask(b, requests(20)))
        assert times(one) == [0.02 + 1.0]
        assert times(other) == [0.02 + 1.0 + 1.0 + 0.02 + 1.0]  # asleep in a second, loaded in none

    run(both())


def test_sleep_and_wake(made: Callable[..., EmulatedEngine]) -> None:
    async def one() -> None:
        engine = made(function=answer_of(1))
        await ask(engine, requests(20))
        await engine.sleep()
        assert now_s() == 1.03
        await engine.sleep()
        assert now_s() == 1.03
        await engine.wake()
        assert now_s() == 2.03
        ((_, result),) = await ask(engine, requests(20, first=3))
        assert result.prompt_tok_cached == 0
        answer = asyncio.ensure_future(ask(engine, requests(20, first=4)))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="in flight"):
            await engine.sleep()
        await answer

    run(one())


def test_blocks_come_over_a_link_where_that_is_cheaper(made: Callable[..., EmulatedEngine]) -> None:
    async def move(link: str) -> tuple[list[float], list[int], float]:
        options = {"kv_sharing": "link", "link": link, "device": "gpu0, gpu1"}
        there, here = (made("fast", function=answer_of(1), worker=worker, **options) for worker in (0, 1))
        assert (there.info().device, here.info().device) == ("gpu0", "gpu1")
        await asyncio.gather(here.start(), there.start())
        await ask(there, requests(82))
        before_s = now_s()
        # the second wants the same blocks, the third one more prefix that nobody has
        answers = await ask(here, [*requests(82, 82), *requests(42, first=5, word="b")])
        stats = await here.stats()
        cached = [result.prompt_tok_cached for _, result in answers]
        return [round(at_s - before_s, 6) for at_s in times(answers)], cached, stats["transferred_tok"]

    # 80 tokens of 100 bytes in 0.02 s; then the other prompt's step is under way: until 0.052, 2 + 2 tokens behind it
    assert run(move("nvlink")) == ([0.066, 0.066, 0.052], [80, 80, 0], 80)
    # over the slow one they would take longer than their computing: 82 + 2 tokens, 16 of the third; 26 and the rest
    seconds, cached, moved = run(move("pcie"))
    assert (cached, moved) == ([0, 80, 0], 0)
    assert seconds == [0.11, 0.11, 0.146]


def test_requests_that_wait_for_blocks_can_be_aborted(made: Callable[..., EmulatedEngine]) -> None:
    async def some() -> None:
        options = {"kv_sharing": "link", "device": "a,b", "function": answer_of(1)}
        there, here = (made("fast", worker=worker, **options) for worker in (0, 1))
        await asyncio.gather(here.start(), there.start())
        await ask(there, requests(82))
        task = asyncio.ensure_future(ask(here, requests(82)))
        await asyncio.sleep(0.01)
        assert (await here.stats())["waiting"] == 1
        here.abort([0])
        ((_, result),) = await task
        assert result.error is not None
        assert result.error.code == "cancelled"
        await asyncio.sleep(1.0)
        stats = await here.stats()
        assert (stats["in_flight"], stats["waiting"], stats["running"], stats["transferred_tok"]) == (0, 0, 0, 80)

    run(some())


# --- answers


def test_without_a_function_it_answers_as_echo(made: Callable[..., EmulatedEngine]) -> None:
    async def some() -> list[GenResult]:
        engine = made()
        forms = [TEXT, SCORE, YES_NO, Answer("choice", choices=("ab", "ac")), EMBEDDING]
        texts = ["a b c", "0.25", " yes", "ac", "x"]
        asked = [
            GenRequest(number, text, answer=form) for number, (text, form) in enumerate(zip(texts, forms, strict=True))
        ]
        return [result for _, result in await ask(engine, asked)]

    text, score, yes, label, vector = run(some())
    assert (text.text, text.output_tok) == ("a b c", 4)
    assert (score.text, score.output_tok) == ("0.25", 1)
    assert (yes.text, yes.output_tok) == ("yes", 1)
    assert (label.text, label.output_tok) == ("ac", 1)
    assert vector.error is not None
    assert vector.error.code == "rejected"


def test_functions_get_messages_and_their_mistakes_are_the_request_s(made: Callable[..., EmulatedEngine]) -> None:
    def speak(messages: list[dict[str, str]]) -> str:
        word = messages[-1]["content"]
        if word == "bad":
            raise ValueError("no")
        return messages[0]["content"] + word if word != "none" else None  # type: ignore[return-value]

    async def some() -> list[GenResult]:
        engine = made(function=speak)
        asked = [GenRequest(number, text, "s") for number, text in enumerate(("hi", "bad", "none"))]
        return [result for _, result in await ask(engine, asked)]

    good, bad, none = run(some())
    assert good.text == "shi"
    assert bad.error is not None
    assert "ValueError: no" in bad.error.message
    assert none.error is not None
    assert none.error.code == "invalid_output"


def test_max_tokens_bounds_what_is_computed(made: Callable[..., EmulatedEngine]) -> None:
    async def one() -> None:
        engine = made(function=lambda _: "a b c d e f g h")
        ((at_s, result),) = await ask(engine, [GenRequest(0, words(10), sampling=Sampling(max_tokens=3))])
        assert (result.output_tok, at_s) == (3, 0.04)

    run(one())


def test_too_long_prompts_and_aborted_requests_are_delivered(made: Callable[..., EmulatedEngine]) -> None:
    async def some() -> None:
        engine = made(function=answer_of(50), max_num_seqs=1, max_model_len=600)
        asked = [*requests(20, 20, 20), GenRequest(9, words(590))]
        task = asyncio.ensure_future(ask(engine, asked))
        await asyncio.sleep(0.1)
        engine.abort([0, 1, 77])
        answers = await task
        codes = [None if result.error is None else result.error.code for _, result in answers]
        assert codes == ["cancelled", "cancelled", None, "context"]
        stats = await engine.stats()
        assert (stats["in_flight"], stats["running"], stats["waiting"], stats["kv_used"]) == (0, 0, 0, 0)
        assert stats["requests"] == 1
        assert await engine.reset_prefix_cache()

    run(some())


def test_closing_delivers_what_is_open(made: Callable[..., EmulatedEngine]) -> None:
    async def some() -> None:
        engine, other = made(name="a", function=answer_of(50)), made(name="b", function=answer_of(1))
        task = asyncio.ensure_future(ask(engine, requests(20, 20)))
        waits = asyncio.ensure_future(ask(other, requests(20)))
        await asyncio.sleep(0.1)
        await engine.close()
        await engine.close()
        assert all(result.error is not None and result.error.code == "cancelled" for _, result in await task)
        assert (await waits)[0][1].error is None  # the memory is free
        with pytest.raises(EngineError, match="closed"):
            await engine.start()
        ((_, refused),) = await ask(engine, requests(20))
        assert refused.error is not None

    run(some())


def test_a_model_too_large_for_its_device_says_so(made: Callable[..., EmulatedEngine]) -> None:
    async def start() -> None:
        engine = made(kv_cache_gib=0.001)
        with pytest.raises(EngineError, match=r"takes 0\.00117 GB .* has 0\.001 GB"):
            await engine.start()
        ((_, result),) = await ask(engine, requests(20))
        assert result.error is not None

    run(start())


def test_an_imported_function_answers(made: Callable[..., EmulatedEngine]) -> None:
    async def one() -> None:
        engine = made(answers="json:dumps")
        ((_, result),) = await ask(engine, [GenRequest(0, "a")])
        assert result.text == '[{"role": "user", "content": "a"}]'
        assert engine.info().identity.endswith("json:dumps")
        missing = made(name="b", answers="json:nothing")
        ((_, result),) = await ask(missing, [GenRequest(0, "a")])
        assert result.error is not None
        assert result.error.code == "unavailable"

    run(one())

"""Static parts of prompts in tokens: what stays whatever a hole holds, and that nothing is started for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.emulated import EmulatedEngine
from halo_sql.engines.emulated_text import WordTexts
from halo_sql.engines.protocol import GenRequest
from halo_sql.engines.static_tok import StaticCounter
from halo_sql.engines.vllm import VllmEngine
from halo_sql.engines.workers import WorkerGroup
from halo_sql.errors import EngineError
from halo_sql.ir.static_tok import StaticTok

WORDS = {"tokenizer": "words", "preloaded": True}


class Spelt:
    """A tokenizer of pairs of characters in a frame of two and three tokens."""

    def __init__(self) -> None:
        self.asked = 0

    def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
        self.asked += len(requests)
        return [
            [-1, *self._ids(request.system or ""), -2, *self._ids(request.user), -3, -4, -5] for request in requests
        ]

    def _ids(self, text: str) -> list[int]:
        return [hash(text[place : place + 2]) % 10**9 for place in range(0, len(text), 2)]


def counter(engine: object) -> StaticCounter:
    return StaticCounter(engine)  # type: ignore[arg-type]


def test_the_head_ends_where_a_value_changes_tokens() -> None:
    count = counter(Spelt())
    assert count(None, "abcd", "abcd") == StaticTok(2 + 2, 3, 2 + 2 + 3)
    assert count(None, "abcde", "abcdeyz") == StaticTok(2 + 2, 3, 2 + 4 + 3), "e and the value are one token"
    assert count("abc", "", "xy") == StaticTok(2 + 2, 3, 2 + 2 + 1 + 3), "the frame's end is no part of the head"


def test_each_text_is_counted_once() -> None:
    engine = Spelt()
    count = counter(engine)
    assert count(None, "ab", "abc") == count(None, "ab", "abc")
    first = engine.asked
    assert count("s", "ab", "abc") is not None
    assert engine.asked == 2 * first


def test_what_is_kept_is_bounded() -> None:
    engine = Spelt()
    count = counter(engine)
    for number in range(3000):
        count(None, str(number), str(number))
    assert len(count._known) <= 1024


def test_nothing_is_known_without_a_tokenizer() -> None:
    class Refuses(Spelt):
        def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
            return [[] for _ in requests]

    class Fails(Spelt):
        def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
            raise EngineError("no template for this")

    engines = [EchoEngine(), VllmEngine("bundled:smollm2"), EmulatedEngine("m", "dense-14b", WORDS), Refuses(), Fails()]
    for engine in [*engines, WorkerGroup([EchoEngine()])]:
        assert counter(engine)(None, "ab", "ab") is None


def test_an_emulated_model_counts_from_its_start_on() -> None:
    async def run() -> None:
        engines = [EmulatedEngine("m", "dense-14b", WORDS, worker=number) for number in range(2)]
        group = WorkerGroup(engines)  # type: ignore[arg-type]
        count = counter(group)
        assert count(None, "Tell of ", "Tell of  now") is None
        await group.start()
        # begin, Tell, of | end, begin of the answer; the blank goes with the word behind it
        assert count(None, "Tell of ", "Tell of  now") == StaticTok(3, 2, 3 + 2 + 2)
        request = GenRequest(0, "Tell of  now")
        assert group.count_tok(request) == 7
        await group.close()

    asyncio.run(run())


def test_words_are_numbered_alike_in_several_threads() -> None:
    texts = WordTexts()
    made: list[list[list[int]]] = []
    words = [f"w{number} v{number}" for number in range(2000)]

    def work() -> None:
        made.append(texts.answers(words))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == made[0] for ids in made)
    ids = [number for line in made[0] for number in line]
    assert len(set(ids)) == len(ids)


@pytest.mark.vllm
def test_the_bundled_model(bundled_model: object) -> None:
    from pathlib import Path

    from halo_sql.engines.chat import ChatTokenizer

    assert isinstance(bundled_model, Path)
    chat = ChatTokenizer.load(bundled_model)

    class Loaded:
        def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
            return chat.render_batch(requests)

    found = counter(Loaded())(None, "Tell a long story of ", "Tell a long story of  and so on")
    assert found is not None
    for value in ("storm harbour 7", "1", "é", "a\nb"):
        (ids,) = chat.render_batch([GenRequest(0, f"Tell a long story of {value} and so on")])
        (other,) = chat.render_batch([GenRequest(0, "Tell a long story of <x> and so on")])
        alike = next(place for place, (one, two) in enumerate(zip(ids, other, strict=False)) if one != two)
        assert found.head <= alike <= found.head + 1
        assert ids[-found.tail :] == other[-found.tail :]

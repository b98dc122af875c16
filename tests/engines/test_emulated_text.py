"""Texts of emulated engines: lines encoded one by one are what the tokenizer makes of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.emulated_text import Lines, WordTexts, packed, texts_of
from halo_sql.engines.plain_text import PlainText
from halo_sql.engines.protocol import YES_NO, Dialogue, GenRequest

PIECES = st.sampled_from(
    ["\n", "\n\n", " ", "\t", "a", "word", " two", "1", "23", "#", "## ", "'s", "{", "é", "漢", "🙂", "\r"]
)


@pytest.fixture(scope="module")
def tokenizers(bundled_model: Path) -> tuple[Lines, PlainText]:
    text = (bundled_model / "tokenizer.json").read_text(encoding="utf-8")
    return Lines(text), PlainText(text)


@pytest.mark.vllm
@settings(max_examples=300)
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=3))
def test_lines_are_encoded_as_in_the_whole_text(tokenizers: tuple[Lines, PlainText], texts: list[str]) -> None:
    by_line, plain = tokenizers
    assert by_line._by_line
    assert by_line.encode(texts) == plain.encode(texts)


@pytest.mark.vllm
def test_prompts_are_those_of_the_model(bundled_model: Path) -> None:
    chat, texts = ChatTokenizer.load(bundled_model), texts_of("bundled")
    requests = [
        GenRequest(0, "## q\nhow?\n\n## a\n1\n 2\n\n\n3", "Be brief.\n\nNow."),
        GenRequest(1, Dialogue(["one\ntwo", "three", "four\n\nfive"])),
        GenRequest(2, "<|im_start|>\nno control token"),
    ]
    assert texts.prompts(requests) == chat.render_batch(requests)
    assert texts.decides(YES_NO.choices)
    assert not texts.decides(("negative", "neutral"))


def test_words() -> None:
    texts = WordTexts()
    (ids,) = texts.answers(["a bc  abcdefgh\n\nx, y"])
    # a| bc| | abcde.. : a blank goes with the word behind it, six letters at most
    assert len(ids) == 10
    (again, other) = texts.answers(["a bc", "x, y"])
    assert again == ids[:2]
    assert len(other) == 3
    prompts = texts.prompts([GenRequest(0, "a bc", "x"), GenRequest(1, Dialogue(["a", "bc", "x"]))])
    assert [len(prompt) for prompt in prompts] == [8, 10]
    assert prompts[0][3] == 3
    assert texts.decides(("ab", "ac"))
    assert not texts.decides(("ab c", "ab d"))
    assert packed([1, 2]) == b"\1\0\0\0\2\0\0\0"

"""Texts for embedding models as token ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halo_sql.engines.protocol import GenRequest
from halo_sql.engines.text_tokenizer import TextTokenizer
from halo_sql.errors import EngineError

WORDS = ["[UNK]", "[CLS]", "[SEP]", "hello", "world", "[", "]", "sep", "cls"]


def tokenizer(framed: bool = True, **changes: object) -> str:
    """A WordPiece tokenizer as of BERT models, which cuts at 4 tokens and fills up by itself."""
    special = [
        {"id": n, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for n, word in enumerate(WORDS[:3])
    ]
    frame = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            word: {"id": word, "ids": [WORDS.index(word)], "tokens": [word]} for word in ("[CLS]", "[SEP]")
        },
    }
    data: dict[str, object] = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": frame if framed else None,
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
        | {"pad_type_id": 0, "pad_token": "[UNK]"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        | {"max_input_chars_per_word": 100, "vocab": {word: n for n, word in enumerate(WORDS)}},
    }
    return json.dumps(data | changes)


def ids(tokens: TextTokenizer, text: str) -> list[str]:
    return [WORDS[number] for number in tokens.render_batch([GenRequest(0, text)])[0]]


def test_texts_are_framed_and_neither_cut_nor_filled_up() -> None:
    tokens = TextTokenizer(tokenizer())
    assert ids(tokens, "Hello") == ["[CLS]", "hello", "[SEP]"]
    assert ids(tokens, "hello world " * 3) == ["[CLS]", *["hello", "world"] * 3, "[SEP]"]
    assert ids(tokens, "") == ["[CLS]", "[SEP]"]
    assert tokens.count(GenRequest(0, "hello world")) == 4


def test_what_the_vocabulary_does_not_have_is_unknown_once() -> None:
    tokens = TextTokenizer(tokenizer())
    assert ids(tokens, "hello \N{SNOWMAN} goodbye [UNK]") == (
        ["[CLS]", "hello", *["[UNK]"] * 2, "[", "[UNK]", "]", "[SEP]"]
    )


def test_a_control_token_in_a_text_is_text() -> None:
    tokens = TextTokenizer(tokenizer())
    assert ids(tokens, "[SEP] hello [CLS]") == ["[CLS]", "[", "sep", "]", "hello", "[", "cls", "]", "[SEP]"]


def test_a_cut_text_keeps_its_frame() -> None:
    tokens = TextTokenizer(tokenizer())
    [whole] = tokens.render_batch([GenRequest(0, "hello world hello")])
    assert [WORDS[number] for number in tokens.cut(whole, 4)] == ["[CLS]", "hello", "world", "[SEP]"]
    assert tokens.cut(whole, 5) == whole
    bare = TextTokenizer(tokenizer(framed=False))
    [whole] = bare.render_batch([GenRequest(0, "hello world hello")])
    assert [WORDS[number] for number in bare.cut(whole, 2)] == ["hello", "world"]


def test_the_identity_is_that_of_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer())
    assert TextTokenizer.load(tmp_path).identity == TextTokenizer(tokenizer()).identity
    assert TextTokenizer(tokenizer(framed=False)).identity != TextTokenizer(tokenizer()).identity


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_an_unreadable_tokenizer_is_said_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(EngineError, match="cannot be read") as caught:
        TextTokenizer.load(tmp_path)
    assert caught.value.code == "unavailable"

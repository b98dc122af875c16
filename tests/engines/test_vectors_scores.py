"""Scores and vectors as texts, and the token ids that stand for yes and no."""

from __future__ import annotations

import json
import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines.plain_text import PlainText
from halo_sql.engines.scores import read_score, score, side
from halo_sql.engines.vectors import decode_vector, dimensions_of, encode_vector, hashed_vector, read_vector

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, min_size=1, max_size=50))
def test_vectors_survive_the_way(values: list[float]) -> None:
    text = encode_vector(values)
    assert decode_vector(text) == array("f", values)
    assert dimensions_of(text) == len(values)
    assert read_vector(json.dumps(values)) == text


def test_the_bytes_are_little_endian() -> None:
    assert encode_vector([1.0]) == "AACAPw=="


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 1.0], [1e39]])
def test_what_is_no_vector_is_not_encoded(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        encode_vector(values)


@pytest.mark.parametrize("text", ["", "AAA=", "AACAPw", "AACAPw==!", "é", "AADAfw==", "AACAfw=="])
def test_what_is_no_vector_is_not_decoded(text: str) -> None:
    with pytest.raises(ValueError, match="vector"):
        decode_vector(text)


def test_the_hash_of_a_text_is_fixed() -> None:
    assert hashed_vector("hello", 2) == hashed_vector("hello", 2) != hashed_vector("hello ", 2)
    assert [round(value, 6) for value in decode_vector(hashed_vector("hello", 3))] == [-0.95282, -0.303502, 0.00449]


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_a_score_is_the_share_of_yes(yes: float, no: float) -> None:
    found = float(score([yes], [no]) or "nan")
    assert found == pytest.approx(math.exp(yes) / (math.exp(yes) + math.exp(no)), rel=1e-9)
    assert float(score([yes, yes], [no, no]) or "nan") == pytest.approx(found, rel=1e-9)


def test_scores_at_the_edges() -> None:
    assert score([-1e4], [-2e4]) == "1.0"
    assert float(score([-2e4], [-1e4]) or "nan") == 0.0
    assert score([-1e9], [-1e9]) == "0.5"
    assert (score([-0.1], []), score([], [-0.1]), score([], [])) == ("1.0", "0.0", None)
    assert score([-math.inf], [-1.0]) == "0.0"
    assert score([-math.inf], [-math.inf]) is None


def test_spellings() -> None:
    assert [side(token) for token in ("yes", " Yes", "▁NO", "Ġno", '"no', "YES.", "no\n")] == (
        ["yes", "yes", "no", "no", "no", "yes", "no"]
    )
    assert not any(map(side, ["", " ", "y", "n", "not", "yesterday", "##no", "nope", "é"]))


@given(st.text())
def test_any_text_is_a_score_or_none(text: str) -> None:
    found = read_score(text)
    assert found is None or 0.0 <= float(found) <= 1.0


def vocabulary(words: list[str]) -> PlainText:
    """A tokenizer of whole words and of the bytes, as in byte-level BPE."""
    letters = sorted({letter for word in words for letter in word} | set("yesno"))
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            pair = [word[: end - 1], word[end - 1]]
            if pair not in merges:
                merges.append(pair)
    pieces = letters + ["".join(pair) for pair in merges]
    model = {"type": "BPE", "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": merges}
    return PlainText(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))


def spelled(text: PlainText) -> tuple[list[str], list[str]]:
    names = {number: token for token, number in text.standard.get_vocab().items()}
    yes, no = text.yes_no
    return sorted(names[number] for number in yes), sorted(names[number] for number in no)


def test_the_tokens_of_a_vocabulary_that_spell_yes_and_no() -> None:
    text = vocabulary(["yes", "Yes", "Ġyes", "yesterday", "no", "ĠNo", "not"])
    assert spelled(text) == (["Yes", "yes", "Ġyes"], ["no", "ĠNo"])
    assert text.yes_no is text.yes_no


def test_a_vocabulary_without_the_words_gives_how_they_begin() -> None:
    assert spelled(vocabulary(["ye"])) == (["ye"], ["n"])
    assert spelled(vocabulary(["Ġyes"])) == (["y"], ["n"])  # both sides are measured alike


def byte_level(pieces: list[str], added: str = "") -> PlainText:
    model = {"type": "BPE", "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": []}
    special = [{"id": pieces.index(added), "content": added, "special": True, **_AS_IS}] if added else []
    data = {"version": "1.0", "added_tokens": special, "model": model, "decoder": {"type": "ByteLevel", **_BYTES}}
    return PlainText(json.dumps(data))


_AS_IS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_BYTES = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def test_a_first_token_decides_when_no_choice_shares_it() -> None:
    text = byte_level(["y", "yes", "n", "no", "not", "Ġno", "red", "redĠ", "t", "æ", "æĹ"])
    assert text.deciding(("yes", "no")) == {0: 0, 1: 0, 2: 1, 3: 1}
    assert text.deciding(("red wine", "tea")) == {6: 0, 7: 0, 8: 1}  # a space is a letter of its own
    assert text.deciding(("日", "tea")) == {9: 0, 10: 0, 8: 1}  # the first bytes of a character
    assert text.deciding(("no", "not")) == {}  # the one begins like the other
    assert text.deciding(("yes", "blue")) == {}  # no token begins the other
    assert text.deciding(("yes", "")) == {}


def test_control_tokens_and_other_vocabularies_decide_nothing() -> None:
    assert byte_level(["y", "yes", "n"], added="yes").deciding(("yes", "n")) == {0: 0, 2: 1}
    assert vocabulary(["yes", "no"]).deciding(("yes", "no")) == {}

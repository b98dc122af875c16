"""The echo engine: the prompt is the answer."""

from __future__ import annotations

import asyncio
import time

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines import ranking
from halo_sql.engines.echo import BOOLEANS, EchoEngine
from halo_sql.engines.protocol import EMBEDDING, SCORE, YES_NO, Answer, GenRequest, GenResult, estimate_tok
from halo_sql.engines.vectors import decode_vector
from halo_sql.ir.prompt import Sampling


def answers(requests: list[GenRequest]) -> list[GenResult]:
    delivered: list[GenResult] = []
    EchoEngine().submit(requests, delivered.extend)
    return delivered


@given(st.lists(st.text()))
def test_text_and_json_are_the_prompt_itself(prompts: list[str]) -> None:
    shapes = [Answer(), Answer("json", schema='{"type":"integer"}')]
    results = answers([GenRequest(number, prompt, answer=shapes[number % 2]) for number, prompt in enumerate(prompts)])
    assert [result.text for result in results] == prompts
    assert [result.id for result in results] == list(range(len(prompts)))
    assert all(result.error is None and result.finish == "stop" for result in results)


@pytest.mark.parametrize("word", ["true", "FALSE", "t", "F", "yes", "No", "y", "n", "1", "0"])
def test_booleans_are_read_as_duckdb_casts_them(word: str) -> None:
    connection = duckdb.connect()
    (value,) = connection.execute("SELECT CAST(? AS BOOLEAN)", [word]).fetchone() or (None,)
    connection.close()
    [result] = answers([GenRequest(0, f"  {word}\n", answer=YES_NO)])
    assert result.text == ("yes" if value else "no")
    assert BOOLEANS[word.lower()] == result.text


@pytest.mark.parametrize("text", ["", "maybe", "2", "on", "true false"])
def test_other_text_is_no_boolean(text: str) -> None:
    [result] = answers([GenRequest(7, text, answer=YES_NO)])
    assert (result.id, result.text, result.finish) == (7, "", "error")
    assert result.error is not None
    assert result.error.code == "invalid_output"
    assert repr(text) in result.error.message


def test_a_choice_is_the_first_one_that_the_prompt_contains() -> None:
    answer = Answer("choice", choices=("red", "green"))
    prompts = ["green then red", "only green", "blue " * 100]
    first, second, third = answers([GenRequest(n, prompt, answer=answer) for n, prompt in enumerate(prompts)])
    assert (first.text, second.text) == ("red", "green")
    assert third.error is not None
    assert third.error.code == "invalid_output"
    assert len(third.error.message) < 200


def test_counts_are_estimates() -> None:
    request = GenRequest(0, "u" * 40, system="s" * 80)
    [result] = answers([request])
    assert result.prompt_tok == EchoEngine().count_tok(request) == estimate_tok("u" * 40) + estimate_tok("s" * 80)
    assert result.output_tok == estimate_tok("u" * 40)


def test_start_says_not_storable() -> None:
    info = asyncio.run(EchoEngine().start())
    assert (info.storable, info.window_requests) == (False, 2048)


def test_it_is_cheap() -> None:
    requests = [GenRequest(number, f"row {number}") for number in range(20_000)]
    best_s = 1e9
    for _ in range(5):
        start_s = time.process_time()
        assert len(answers(requests)) == len(requests)
        best_s = min(best_s, time.process_time() - start_s)
    assert best_s < 0.5  # it takes 0.03 s


@pytest.mark.parametrize("text", ["0", "1", "0.25", " .5\n", "1e-3", "1.0"])
def test_a_score_is_the_number_as_it_is(text: str) -> None:
    [result] = answers([GenRequest(0, text, answer=SCORE)])
    assert (result.text, result.error) == (text, None)


def test_a_score_is_read_from_true_and_false() -> None:
    words = ["true", " YES\n", "t", "False", "no", "f"]
    results = answers([GenRequest(number, word, answer=SCORE) for number, word in enumerate(words)])
    assert [result.text for result in results] == ["1.0"] * 3 + ["0.0"] * 3


@pytest.mark.parametrize("text", ["", "1.01", "-0.1", "nan", "inf", "0_1", "maybe", "0.5 or so", "0x1"])
def test_other_text_is_no_score(text: str) -> None:
    [result] = answers([GenRequest(0, text, answer=SCORE)])
    assert result.error is not None
    assert result.error.code == "invalid_output"
    assert repr(text) in result.error.message


def vectors(texts: list[str], **options: object) -> list[list[float]]:
    delivered: list[GenResult] = []
    requests = [GenRequest(number, text, answer=EMBEDDING) for number, text in enumerate(texts)]
    EchoEngine(options).submit(requests, delivered.extend)
    assert {(result.output_tok, result.error) for result in delivered} == {(0, None)}
    return [list(decode_vector(result.text)) for result in delivered]


def test_an_embedding_is_the_list_that_the_prompt_spells() -> None:
    assert vectors(["[1, 2.5, -3e2]", " [0.0] ", "[1.0, 0.5]"]) == [[1, 2.5, -300], [0], [1, 0.5]]


@pytest.mark.parametrize(
    "text", ["", "hello", "[]", "[1, null]", "[NaN]", "[1e999]", "[true]", "[[1]]", "[1", "\ud800"]
)
def test_any_other_text_gives_a_unit_vector_of_its_own(text: str) -> None:
    [first], [again], [other] = vectors([text]), vectors([text]), vectors([text + "."])
    assert len(first) == 8
    assert first == again != other
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-5)
    assert len(vectors([text], dimensions=300)[0]) == 300


def test_an_echo_model_of_one_kind_refuses_the_other() -> None:
    for kind, answer in (("embedding", SCORE), ("generate", EMBEDDING), ("embedding", Answer())):
        delivered: list[GenResult] = []
        EchoEngine({"kind": kind}).submit([GenRequest(0, "x", answer=answer)], delivered.extend)
        assert delivered[0].error is not None
        assert (delivered[0].error.code, delivered[0].error.fatal) == ("rejected", True)
        assert delivered[0].error.remedy


def test_a_context_refuses_longer_prompts() -> None:
    engine = EchoEngine({"max_model_len": 30})
    assert asyncio.run(engine.start()).context_tok == 30
    delivered: list[GenResult] = []
    sampling = Sampling(max_tokens=10)
    requests = [GenRequest(0, "x" * 76, sampling=sampling), GenRequest(1, "x" * 80, sampling=sampling)]
    engine.submit(requests, delivered.extend)
    assert [None if result.error is None else result.error.code for result in delivered] == [None, "context"]


def test_grades_are_numbers_of_the_prompt_and_comparisons_follow_them() -> None:
    texts = ["urgent 3 of 10?", "7", "none", "7.0"]
    found = answers([GenRequest(number, text, answer=ranking.GRADE) for number, text in enumerate(texts)])
    assert [result.text for result in found] == ["10.0", "7.0", "0.0", "7.0"]
    most, least = (
        GenRequest(number, ranking.comparison(texts[1:], number == 0), answer=ranking.choice(3)) for number in (0, 1)
    )
    assert [result.text for result in answers([most, least])] == ["A", "B"]


def test_letters_in_any_other_prompt_are_a_plain_choice() -> None:
    [result] = answers([GenRequest(0, "B or A", answer=ranking.choice(2))])
    assert result.text == "A"

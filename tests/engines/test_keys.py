"""Keys of requests: every field counts, spelling and order do not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from halo_sql.engines.keys import KEY_BYTES, RequestKeys, canonical
from halo_sql.engines.protocol import Answer
from halo_sql.ir.prompt import Sampling

SAMPLING = Sampling(0.5, 0.9, 64, 7, ("\n", "END"))
ANSWER = Answer("json", '{"type":"string"}', ("yes", "no"))


def key(
    identity: str = "vllm/m@1",
    system: str | None = "Be short.",
    sampling: Sampling = SAMPLING,
    answer: Answer = ANSWER,
    user: str = "hello",
) -> bytes:
    return RequestKeys(identity, system, sampling, answer).key(user)


def test_every_field_counts() -> None:
    variants = [
        key(),
        key(identity="vllm/m@2"),
        key(identity="openai/m@1"),
        key(identity=""),
        key(system=None),
        key(system=""),
        key(system="Be short"),
        key(system="be short."),
        key(sampling=replace(SAMPLING, temperature=0.0)),
        key(sampling=replace(SAMPLING, temperature=0.25)),
        key(sampling=replace(SAMPLING, top_p=0.8)),
        key(sampling=replace(SAMPLING, max_tokens=65)),
        key(sampling=replace(SAMPLING, seed=None)),
        key(sampling=replace(SAMPLING, seed=0)),
        key(sampling=replace(SAMPLING, stop=())),
        key(sampling=replace(SAMPLING, stop=("END", "\n"))),
        key(sampling=replace(SAMPLING, stop=("\nEND",))),
        key(answer=replace(ANSWER, kind="text")),
        key(answer=replace(ANSWER, kind="choice")),
        key(answer=replace(ANSWER, kind="score")),
        key(answer=replace(ANSWER, kind="embedding")),
        key(answer=replace(ANSWER, schema="{}")),
        key(answer=replace(ANSWER, choices=("no", "yes"))),
        key(answer=replace(ANSWER, choices=())),
        key(user=""),
        key(user="hello "),
        key(user="Hello"),
        key(user="hello\0"),
        key(user="hell\ud800"),
    ]
    assert len(set(variants)) == len(variants)
    assert all(len(found) == KEY_BYTES for found in variants)


def test_equal_requests_have_equal_keys() -> None:
    assert key(sampling=Sampling(temperature=0)) == key(sampling=Sampling(temperature=-0.0, stop=()))
    assert canonical({"b": 1, "a": (1.0, None)}) == canonical({"a": [1, None], "b": 1.0})


def test_one_prefix_serves_many_messages() -> None:
    keys = RequestKeys("e", None, Sampling(), Answer())
    assert keys.key("a") == keys.key("a") == RequestKeys("e", None, Sampling(), Answer()).key("a")
    assert keys.key("a") != keys.key("b")


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_no_two_pairs_meet(left: tuple[str, str], right: tuple[str, str]) -> None:
    same = key(system=left[0], user=left[1]) == key(system=right[0], user=right[1])
    assert same == (left == right)

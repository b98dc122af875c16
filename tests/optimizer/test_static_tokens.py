"""Static tokens of prompts in the cost model: exact first parts, what lies between, each text counted once, dumps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from halo_sql.ir.call_key import call_key
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.prompt import Prompt
from halo_sql.ir.static_tok import StaticTok, static_texts
from halo_sql.optimizer.cardinality import Known, Profile
from halo_sql.optimizer.codec import decode, encode
from halo_sql.optimizer.context import CallProfile, EngineProfile, OptimizerContext
from halo_sql.optimizer.cost import blocks_tok, call_levels, llm_estimate, trie_tok
from halo_sql.optimizer.static_tokens import StaticTokens, static_key

from .plans import T, call, context, llm_map, plan_of, reduced, template

ROWS = Profile(10.0, {ColumnId(3): Known(10.0, 12.0), ColumnId(4): Known(2.0, 40.0)})
STATIC = StaticTok(33, 5, 38)


def known(made: Any, static: StaticTok = STATIC, **more: Any) -> OptimizerContext:
    return OptimizerContext(static={static_key(made): static}, **more)


def ends(made: Any, options: OptimizerContext) -> list[float]:
    return [part.end_tok for part in call_levels(made, ROWS, options)]


def test_texts_are_those_that_are_sent() -> None:
    assert static_texts(template("Tell of {3} and {4}!")) == ("Tell of ", "Tell of  and !")
    assert static_texts(template("{3}")) == ("", "")
    assert static_texts(template("none")) == ("none", "none")
    assert static_texts(template("See {3, 4}.")) == ('See {"c3": ', 'See {"c3": , "c4": }.')


def test_the_first_part_is_exact_and_the_last_has_the_frame() -> None:
    made = call(20, "x" * 60 + "{3}")
    assert ends(made, OptimizerContext()) == [15.0, 19.0]
    assert ends(made, known(made)) == [33.0, 38 + 12 / 4]
    engine = {"m": EngineProfile(chars_per_tok=3.0, bare_tok=30.0)}
    assert ends(made, known(made, engines=engine)) == [33.0, 38 + 12 / 3]


def test_a_shared_block_at_its_edge_is_seen() -> None:
    # By characters the first part ends before the block does, so that none of it would be read out of the cache.
    made = call(20, "x" * 60 + "{3}")
    engines = {"m": EngineProfile(block_tok=32)}
    guessed = llm_estimate([made], ROWS, 10, False, OptimizerContext(engines=engines))
    exact = llm_estimate([made], ROWS, 10, False, known(made, engines=engines))
    assert guessed.prompt_tok_cached == 0.0
    assert exact.prompt_tok_cached == 9 * 32
    assert exact.prompt_tok == 10 * 41


def test_parts_between_have_their_share_and_never_go_back() -> None:
    made = call(20, "x" * 20 + "{3}" + "y" * 30 + "{4}" + "z" * 10)
    static = StaticTok(10, 4, 34)  # 20 tokens are left for 40 characters
    first, second, whole = ends(made, known(made, static))
    assert (first, second, whole) == (10.0, 10 + 30 / 2 + 12 / 4, 34 + 52 / 4)
    short = {("m", call_key(made)): CallProfile(0.25, -30.0)}  # learnt prompts are shorter than their static part
    found = ends(made, known(made, static, calls=short))
    assert found == sorted(found)
    assert found[0] == 10.0


def test_estimated_ends_have_no_cliffs_at_blocks() -> None:
    assert [blocks_tok(end, 0.0, 32) for end in (0.0, 31.9, 32.0, 100.0)] == [0, 0, 32, 96]
    ends_tok = [number / 4 for number in range(1, 1200)]
    means = [blocks_tok(end, 0.1, 32) for end in ends_tok]
    assert all(-1e-9 < right - left < 2.0 for left, right in pairwise(means))
    for end in (20.0, 31.0, 33.0, 80.0, 333.0):
        steps = [end * (0.9 + 0.2 * (number + 0.5) / 10_000) // 32 * 32 for number in range(10_000)]
        assert blocks_tok(end, 0.1, 32) == pytest.approx(sum(steps) / 10_000, abs=0.01)
    assert blocks_tok(0.0, 0.1, 32) == 0.0


def test_exact_parts_end_at_whole_blocks_the_others_on_average() -> None:
    made = call(20, "x" * 20 + "{4}" + "y" * 30 + "{3}")
    static = StaticTok(33, 4, 57)
    parts = call_levels(made, ROWS, known(made, static))
    assert [part.spread for part in parts] == [0.0, 0.1, 0.0]
    second = 33 + 20 + 40 / 4
    assert parts[1].end_tok == second
    middle = blocks_tok(second, 0.1, 32)
    assert 32 < middle < 64
    assert trie_tok(parts, ROWS, 10, 32) == pytest.approx(32 + 2 * (middle - 32) + 10 * (57 + 52 / 4 - middle))


def test_learnt_lengths_of_the_template_decide_the_whole_those_of_the_model_only_its_pace() -> None:
    made = call(20, "x" * 60 + "{3}")
    profile = CallProfile(tok_per_char=0.5, frame_tok=20.0)
    template_known = known(made, calls={("m", call_key(made)): profile, ("m", ""): profile})
    assert ends(made, template_known) == [33.0, (60 + 12) / 2 + 20]
    assert ends(made, known(made, calls={("m", ""): profile})) == [33.0, 38 + 12 / 2]
    only_kept = known(made, calls={("m", call_key(made)): CallProfile(true_share=0.1)})
    assert ends(made, only_kept) == [33.0, 38 + 12 / 4]


def test_what_tools_and_agents_are_asked_is_no_prompt_of_theirs() -> None:
    for kind in ("tool", "agent"):
        made = replace(call(20, "x" * 60 + "{3}"), kind=kind)
        assert ends(made, known(made)) == ends(made, OptimizerContext())


def test_each_request_of_a_reduction_has_the_static_tokens() -> None:
    plan = reduced(T, 20, "x" * 40, 3, fan_in=2)
    (made,) = plan.calls

    def prompt_tok(**more: Any) -> float:
        options = context(rows=5, chars={3: 100.0}, engines={"m": EngineProfile()}, **more)
        return sum(node.estimate.prompt_tok for node in plan_of(plan, options).dag.nodes)

    one, more = (prompt_tok(static={static_key(made): StaticTok(10, 2, whole)}) for whole in (20, 21))
    requests = sum(node.estimate.llm_calls for node in plan_of(plan, context(rows=5, chars={3: 100.0})).dag.nodes)
    assert requests > 5
    assert more - one == pytest.approx(requests)


def test_each_text_is_counted_once_whatever_its_columns_are() -> None:
    asked: list[tuple[str | None, str, str]] = []

    def count(system: str | None, head: str, whole: str) -> StaticTok | None:
        asked.append((system, head, whole))
        return None if "none" in head else StaticTok(len(head), 2, len(whole) + 2)

    table = StaticTokens({"m": count})
    options = OptimizerContext(static=table)
    one, other = call(20, "ab {3}"), call(21, "ab {4}")
    assert options.static_tok(one) == options.static_tok(other) == StaticTok(3, 2, 5)
    told = replace(one, prompt=Prompt(one.prompt.user, "s"))
    assert options.static_tok(told) == StaticTok(3, 2, 5)
    nothing = call(22, "none {3}")
    assert options.static_tok(nothing) is options.static_tok(nothing) is None
    assert asked == [(None, "ab ", "ab "), ("s", "ab ", "ab "), (None, "none ", "none ")]
    assert options.static_tok(replace(one, model="n")) is None, "no tokenizer"
    assert set(table) == {static_key(one), static_key(told)}
    assert len(table) == 2
    assert not StaticTokens({})


def test_a_written_context_gives_the_same_plan_without_the_tokenizer() -> None:
    def count(system: str | None, head: str, whole: str) -> StaticTok | None:
        return StaticTok(40 + len(head), 5, 45 + len(whole))

    plan = llm_map(llm_map(T, call(20, "a question on {3}")), call(21, "{20}: and {4}?"))
    ctx = context(rows=50, distinct={3: 20}, static=StaticTokens({"m": count}), engines={"m": EngineProfile()})
    first = plan_of(plan, ctx)
    lines, places = encode(plan, ctx)
    made = decode([json.loads(line) for line in lines])
    again, ctx_again = (made[place] for place in places)
    assert isinstance(ctx_again.static, dict)
    assert len(ctx_again.static) == 2
    second = plan_of(again, ctx_again, plan_of(plan, ctx).problem.columns)
    assert second.dag == first.dag
    assert second.cost == first.cost
    assert plan_of(plan, replace(ctx, static={})).cost != pytest.approx(first.cost)

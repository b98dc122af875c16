"""The order of the fields of object holes: near the best, the same for the same data, and only where it pays."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Ask, CallText, Demand, InputRef
from halo_sql.ir.physical import PrefixClusterExec
from halo_sql.ir.prompt import LlmCall, ObjectHole
from halo_sql.optimizer.cardinality import Known, Profile
from halo_sql.optimizer.cost import levels, trie_tok
from halo_sql.optimizer.field_order import LOST_TOK, SLACK, choose
from halo_sql.optimizer.nodes import calls_of, walk_once
from halo_sql.optimizer.samples import ObjectSample, Values, joined

from .plans import (
    BODIES,
    ID,
    SMALL_ENGINE,
    TITLES,
    T,
    call,
    col,
    context,
    llm_filter,
    llm_map,
    plan_of,
    sample,
    values,
)

ROWS = 96
KINDS = values(*("ab"[number % 2] for number in range(ROWS)))


def computed_tok(found: ObjectSample, names: tuple[str, ...]) -> float:
    """Tokens of the trie of a sample's objects: every different beginning once, and half a block lost per prompt."""
    columns = [found.values[found.names.index(name)] for name in names]
    total = 0.0
    for depth, (name, column) in enumerate(zip(names, columns, strict=True)):
        assert column is not None
        nodes = {tuple(own.keys[row] for own in columns[: depth + 1]): row for row in range(found.rows)}
        total += sum(len(name) + 6 + column.chars[row] for row in nodes.values()) / 4
    return total + len(nodes) * (LOST_TOK + found.after_chars / 4)


@st.composite
def samples(draw: Any) -> ObjectSample:
    """Small tables: columns of few values, of many, and ones that others determine."""
    rows = draw(st.integers(32, 60))
    fields: dict[str, Values] = {}
    for number in range(draw(st.integers(2, 5))):
        known = [column.keys for column in fields.values()]
        if known and draw(st.booleans()):
            keys = [key // draw(st.shared(st.integers(1, 4), key=f"q{number}")) for key in draw(st.sampled_from(known))]
        else:
            most = draw(st.sampled_from([1, 2, 5, 20, 10_000]))
            keys = draw(st.lists(st.integers(0, most), min_size=rows, max_size=rows))
        usual = draw(st.sampled_from([2, 30, 200]))
        chars = [usual + key * 7 % (usual + 1) for key in keys]
        fields[f"f{number}"] = Values(tuple(keys), tuple(chars), float(len(set(keys))), float(rows))
    return ObjectSample(fields, [0] * rows, draw(st.sampled_from([0.0, 80.0])))


@given(samples())
@settings(max_examples=80, deadline=None)
def test_within_five_percent_of_the_best_order(found: ObjectSample) -> None:
    best = min(computed_tok(found, names) for names in permutations(found.names))
    choice = choose(found)
    assert sorted(choice.names) == sorted(found.names)
    assert computed_tok(found, choice.names) <= SLACK * best + 1e-6
    assert choice.tok == pytest.approx(computed_tok(found, choice.names))
    assert choice.written_tok == pytest.approx(computed_tok(found, found.names))


@given(samples(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_does_not_matter(found: ObjectSample, random: Any) -> None:
    places = list(range(found.rows))
    random.shuffle(places)
    fields = {
        name: Values(tuple(own.keys[p] for p in places), tuple(own.chars[p] for p in places), own.distinct, own.of_rows)
        for name, own in zip(found.names, found.values, strict=True)
        if own is not None
    }
    assert choose(ObjectSample(fields, found.before, found.after_chars)).names == choose(found).names


def test_what_repeats_comes_first_and_what_it_determines_next() -> None:
    authors = values(*(f"author of title {number % 4}" for number in range(ROWS)))
    choice = choose(sample(body=BODIES, kind=KINDS, title=TITLES, author=authors))
    assert choice.names == ("kind", "title", "author", "body")
    assert choice.tok < 0.6 * choice.written_tok


def test_an_answer_comes_last() -> None:
    assert choose(sample(answer=None, body=BODIES, title=TITLES)).names == ("title", "body", "answer")


@pytest.mark.parametrize(
    "found",
    [
        sample(title=TITLES, body=BODIES),
        sample(body=BODIES, answer=None),
        sample(body=BODIES, other=BODIES),
        sample(before=BODIES, body=BODIES, title=TITLES),
        sample(after_chars=4000.0, body=BODIES, title=TITLES),  # little to save of a long prompt
        sample(kind=values(*["a", "b"] * 15), title=values(*["long title " * 9] * 30)),  # few rows
        sample(after_chars=200.0, body=BODIES, kind=KINDS),  # a short value is not worth another order
    ],
)
def test_the_written_order_stays(found: ObjectSample) -> None:
    choice = choose(found)
    assert choice.names == found.names
    assert choice.tok == choice.written_tok


def test_of_equal_orders_the_one_nearest_to_the_written() -> None:
    again = values(*(f"TITLE {number % 4} " * 9 for number in range(ROWS)))
    for first, second in ((TITLES, again), (again, TITLES)):
        assert choose(sample(b=BODIES, x=first, y=second)).names == ("x", "y", "b")


def test_nulls_are_a_value() -> None:
    titles = values(*(None if number % 2 else "a title that is long " * 5 for number in range(ROWS)))
    assert choose(sample(body=BODIES, title=titles)).names == ("title", "body")


def test_many_fields() -> None:
    fields = {f"key{number}": BODIES for number in range(60)}
    fields |= {f"few{number}": values(*(f"v{row % (number + 2)}" * 9 for row in range(ROWS))) for number in range(40)}
    choice = choose(sample(**fields))
    assert sorted(choice.names) == sorted(fields)
    assert choice.names[0].startswith("few")
    assert choice.names[-1].startswith("key")
    assert choice.tok < choice.written_tok


# --- the rule


def fields_of(plan: Any) -> dict[int, list[list[str]]]:
    """Output column of a call -> the fields of its object holes."""
    return {
        made.output: [[name for name, _ in part.fields] for part in made.prompt.user if isinstance(part, ObjectHole)]
        for node in walk_once(plan)
        for made in calls_of(node)
    }


FOUND = sample(c3=BODIES, c4=TITLES)


def test_the_note_says_what_and_why() -> None:
    done = plan_of(llm_map(T, call(20, "x {3, 4}")), context(objects={ColumnId(20): (FOUND,)}))
    assert fields_of(done.logical) == {20: [["c4", "c3"]]}
    (note,) = [note for note in done.dag.notes if note.startswith("fields of")]
    assert note == "fields of 'x {3, 4}' in the order c4, c3: 57% fewer prompt tokens in a sample of 96 rows"


def test_off_is_as_written() -> None:
    done = plan_of(llm_map(T, call(20, "x {3, 4}")), context(enabled=False, objects={ColumnId(20): (FOUND,)}))
    assert fields_of(done.logical) == {20: [["c3", "c4"]]}


def test_each_object_of_a_prompt_by_itself() -> None:
    plan = llm_map(T, call(20, "{3, 4} and {2} and {4, 3, 1}"))
    second = sample(c4=TITLES, c3=BODIES, c1=BODIES)
    objects = {ColumnId(20): (FOUND, second)}
    assert fields_of(plan_of(plan, context(objects=objects)).logical) == {20: [["c4", "c3"], ["c4", "c3", "c1"]]}


def test_calls_with_the_same_template_get_the_same_order() -> None:
    # written apart they would share the prompts of equal rows; each alone would want another order
    swapped = sample(c3=TITLES, c4=BODIES)
    plan = llm_map(llm_filter(T, 21, "x {3, 4}", model="m"), call(20, "x {3, 4}"))
    objects = {ColumnId(20): (FOUND,), ColumnId(21): (swapped,)}
    orders = fields_of(plan_of(plan, context(objects=objects)).logical)
    assert orders[20] == orders[21]
    unknown = plan_of(plan, context(objects={ColumnId(20): (FOUND,)}))  # a source that could not be sampled
    assert fields_of(unknown.logical) == {20: [["c4", "c3"]], 21: [["c4", "c3"]]}
    other = llm_map(llm_filter(T, 21, "y {3, 4}"), call(20, "x {3, 4}"))
    assert fields_of(plan_of(other, context(objects=objects)).logical) == {20: [["c4", "c3"]], 21: [["c3", "c4"]]}


def test_not_when_duckdb_places_a_call_with_the_same_template() -> None:
    def demand(text: str) -> Demand:
        columns = (col(31, "body"), col(32, "title"))
        ask = Ask(LlmCall(ColumnId(30), "map", call(30, text).prompt, "m"), columns)
        parts = ("SELECT ", CallText(0, (("b",), ("t",))), " FROM ", InputRef(0, (("s", ColumnId(20)),)))
        return Demand(parts, (col(33, "s"),), (llm_map(T, call(20, "x {3, 4}")),), (ask,))

    objects = {ColumnId(20): (FOUND,)}
    assert fields_of(plan_of(demand("x {3, 4}"), context(objects=objects)).logical) == {20: [["c3", "c4"]]}
    assert fields_of(plan_of(demand("z {3, 4}"), context(objects=objects)).logical) == {20: [["c4", "c3"]]}


def test_joined_samples_are_one_table() -> None:
    other = sample(c3=values("x", "y"), c4=values("long", "longer"))
    both = joined([FOUND, other])
    assert both.rows == ROWS + 2
    assert both.chars("c4") == pytest.approx((sum(TITLES.chars) + 10) / (ROWS + 2))
    assert joined([FOUND, sample(c3=None, c4=values("x", "y"))]).values[0] is None


# --- costs


def test_levels_are_fields() -> None:
    prompt = call(20, "x {4, 3, 2}").prompt
    profile = Profile(960.0, {ColumnId(number): Known(960.0, 40.0) for number in (2, 3, 4)})
    titles = Values(TITLES.keys, TITLES.chars, 4.0, 960.0)
    authors = Values(TITLES.keys, tuple(20 for _ in TITLES.keys), 4.0, 960.0)
    bodies = Values(BODIES.keys, BODIES.chars, 960.0, 960.0)
    found = sample(c4=titles, c3=authors, c2=bodies)
    parts = levels(prompt, profile, (found,))
    assert [part.columns for part in parts] == [(), (4,), (4, 3), (4, 3, 2)]
    assert [part.distinct(profile) for part in parts[1:]] == [4.0, 4.0, 960.0]
    # titles and their authors are computed four times, the rest for every row
    shared = parts[2].end_tok // 16 * 16
    assert trie_tok(parts, profile, 960, 16) == pytest.approx(4 * shared + 960 * (parts[-1].end_tok - shared))
    assert parts[1].end_tok == pytest.approx((2 + 2 + 8 + sum(TITLES.chars) / ROWS + 8) / 4)


def test_distinct_values_of_the_source_from_those_of_the_sample() -> None:
    half = Values(tuple(row // 2 for row in range(ROWS)), (9,) * ROWS, 4800.0, 9600.0)
    every = Values(tuple(range(ROWS)), (9,) * ROWS, 9600.0, 9600.0)
    few = Values(tuple(row % 3 for row in range(ROWS)), (9,) * ROWS, 3.0, 9600.0)
    found = sample(few=few, half=half, every=every)
    assert found.distinct(("few", "half", "every"), 9600.0) == (3.0, 9600.0, 9600.0)
    assert found.distinct(("half", "every"), 9600.0) == (4800.0, 9600.0)
    assert found.distinct(("half",), 100.0) == (100.0,)


def test_rows_are_clustered_by_the_leading_fields() -> None:
    titles = values(*(f"title {number % 4} " * 400 for number in range(ROWS)))
    bodies = Values(BODIES.keys, BODIES.chars, 10_000.0, 10_000.0)
    objects = {ColumnId(20): (sample(c3=bodies, c4=Values(titles.keys, titles.chars, 4.0, 10_000.0)),)}
    known = context(rows=10_000, distinct={3: 10_000, 4: 4}, engines={"m": SMALL_ENGINE}, objects=objects)
    done = plan_of(llm_map(T, call(20, "x {3, 4}")), known, (ID, col(20)))
    (cluster,) = [node.op for node in done.dag.nodes if isinstance(node.op, PrefixClusterExec)]
    assert cluster.keys == (4,)

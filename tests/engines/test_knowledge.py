"""What is learnt: sums that fade, in memory or in the store's file, and the lines drawn through them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from halo_sql.engines.experience import MEMORY, CallKind, Experience
from halo_sql.engines.knowledge import Knowledge
from halo_sql.engines.store import ResponseStore
from halo_sql.learning import profile_of

KIND = CallKind("model", "call")


def seen(*prompts: tuple[int, int], output_tok: int = 5) -> Experience:
    """Requests of (characters, prompt tokens)."""
    found = Experience()
    for chars, tok in prompts:
        found.add(chars, tok, output_tok, 4 * output_tok)
    return found


def test_stored_and_read_again_it_is_the_same() -> None:
    found = seen((10, 3), (30, 9))
    assert Experience.read(found.text()) == found


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"requests": -1}', '{"requests": "inf"}', '{"kept": 2}', '{"x": 1}']
)
def test_what_makes_no_sense_is_none(text: str) -> None:
    assert Experience.read(text) is None


def test_older_requests_fade() -> None:
    old, new = seen(*[(10, 10)] * int(MEMORY)), seen(*[(10, 10)] * int(MEMORY / 2), output_tok=25)
    both = old.merged(new)
    assert both.requests == MEMORY
    assert both.output_tok / both.requests == 15
    assert old.merged(seen((10, 10))).requests == MEMORY


def test_rows_and_requests_of_one_statement_do_not_push_each_other_out() -> None:
    requests, rows = seen(*[(10, 10)] * int(MEMORY)), Experience(rows=MEMORY, kept=MEMORY / 4)
    both = requests.plus(rows)
    assert (both.requests, both.rows, both.kept) == (MEMORY, MEMORY, MEMORY / 4)


def test_tokens_are_a_line_over_characters() -> None:
    model = seen(*[(100 + 10 * step, 12 + round(0.3 * (100 + 10 * step))) for step in range(50)])
    profile = profile_of(model, model)
    assert profile.tok_per_char == pytest.approx(0.3, rel=0.01)
    assert profile.frame_tok == pytest.approx(12, abs=1)
    own = seen((200, 80), (200, 80))  # of one length: the model's slope through its own mean
    learnt = profile_of(own, model)
    assert learnt.tok_per_char == profile.tok_per_char
    assert learnt.tok_per_char * 200 + learnt.frame_tok == pytest.approx(80)


def test_engines_that_do_not_count_leave_the_usual_line() -> None:
    profile = profile_of(seen((100, 0), (300, 0)), Experience())
    assert (profile.tok_per_char, profile.output_tok) == (0.25, 5)


def test_shares_are_never_sure() -> None:
    assert profile_of(Experience(rows=10, kept=0), Experience()).true_share == pytest.approx(0.5 / 11)
    assert profile_of(Experience(rows=10, kept=10), Experience()).true_share == pytest.approx(10.5 / 11)


def test_in_memory_and_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    store = ResponseStore(path)
    for knowledge in (Knowledge(), Knowledge(lambda: store, path)):
        assert knowledge.recall([KIND]) == {}
        knowledge.learn([(KIND, "label", seen((10, 3)))])
        knowledge.learn([(KIND, "label", seen((30, 9))), (CallKind("model", ""), "m", seen((30, 9)))])
        assert knowledge.recall([KIND, CallKind("other", "call")]) == {KIND: seen((10, 3), (30, 9))}
        assert [(kind, label) for kind, label, _ in knowledge.everything()] == [(("model", ""), "m"), (KIND, "label")]
        knowledge.forget()
        assert knowledge.everything() == []
    store.close()


def test_learners_do_not_overwrite_each_other(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    stores = [ResponseStore(path) for _ in range(4)]

    def learn(store: ResponseStore) -> None:
        for _ in range(25):
            store.learn([(KIND, "label", seen((10, 3)))])
            store.experience([KIND])

    threads = [threading.Thread(target=learn, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].experience([KIND])[0][2].requests == 100
    for store in stores:
        assert store.warnings == []
        store.close()


def test_a_file_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "responses.sqlite"
    ResponseStore(path).close()
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE experience")
    file.close()
    store = ResponseStore(path)
    store.learn([(KIND, "label", seen((10, 3)))])
    assert len(store.experience(None)) == 1
    assert store.warnings == []
    store.close()

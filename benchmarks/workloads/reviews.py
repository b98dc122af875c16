"""Reviews joined with movies: prompts that share their movie, in the order of the engine's cache and as they arrive.

Each review is asked about with what is known of its movie, so that rows of a movie share most of their prompt. The
plan puts the movie's fields first and sends rows in prefix order. Counted are the prompt tokens to compute without a
cache and with one of KV blocks that holds all prompts or a quarter of them: with the fields as written, with the
planned fields in the order of the rows, as sent; and the floor, the trie.
Run: ``python benchmarks/workloads/reviews.py [--data ../shared/data/sembench_movie] [--movies 105]``.
"""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from report import finish, show, verdict  # noqa: E402

import halo_sql  # noqa: E402
from halo_sql.engines import bundled  # noqa: E402
from halo_sql.engines.chat import ChatTokenizer  # noqa: E402
from halo_sql.engines.protocol import GenRequest  # noqa: E402
from halo_sql.ir.prefix import trie_tokens  # noqa: E402

DATA = Path(__file__).parents[3] / "shared" / "data" / "sembench_movie"
QUERY = FOLDER / "sql" / "reviews.sql"
BLOCK_TOK = 16
GOAL_TRIE, GOAL_QUARTER = 1.05, 1.5


def sent(data: Path, movies: int, optimizer: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """System and user messages in the order in which they reach a model, and in the order of the rows."""
    log: list[tuple[str, str]] = []

    def answer(messages: list[dict[str, str]]) -> str:
        system, user = (message["content"] for message in messages)
        log.append((system, user))
        return str(len(log) - 1)

    with halo_sql.connect(":memory:", config={"halo_store": "off", "halo_optimizer": optimizer}) as con:
        con.create_model("critic", answer, concurrency=1, storable=False)
        text = QUERY.read_text(encoding="utf-8").replace("../shared/data/sembench_movie", str(data))
        *setup, query = [part for part in text.split(";\n") if part.strip()]
        con.execute(";\n".join(setup))
        rows = con.execute(query, {"movies": movies}).fetchall()
    return log, [log[int(verdict)] for _, verdict in rows]


def computed(prompts: Sequence[tuple[int, ...]], cache_tok: int) -> int:
    """Prompt tokens that a prefix cache of whole blocks computes; the block unused for longest goes first.

    The last token of a prompt is always computed."""
    blocks: OrderedDict[tuple[int, ...], None] = OrderedDict()
    total = 0
    for prompt in prompts:
        whole = (len(prompt) - 1) // BLOCK_TOK
        keys = [prompt[: (number + 1) * BLOCK_TOK] for number in range(len(prompt) // BLOCK_TOK)]
        hit = 0
        while hit < whole and keys[hit] in blocks:
            hit += 1
        total += len(prompt) - hit * BLOCK_TOK
        for key in reversed(keys):  # a block is not older than those that continue it
            blocks[key] = None
            blocks.move_to_end(key)
        while len(blocks) * BLOCK_TOK > cache_tok:
            blocks.popitem(last=False)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--movies", type=int, default=105, help="the most reviewed ones; 105 are all")
    options = parser.parse_args()
    if not (options.data / "Reviews.csv").is_file():
        raise SystemExit(f"the reviews are not at {options.data}")
    tokenizer = ChatTokenizer.load(bundled.ensure("smollm2"))
    found = dict(zip(("as written", ""), sent(options.data, options.movies, "off"), strict=True))
    found |= dict(zip(("planned", "arriving"), sent(options.data, options.movies, "on"), strict=True))
    prompts: dict[str, list[tuple[int, ...]]] = {}
    for name, log in found.items():
        distinct = list(dict.fromkeys(log))
        rendered = tokenizer.render_batch([GenRequest(0, user, system=system) for system, user in distinct])
        prompts[name] = [tuple(tokens) for tokens in rendered]
    total = sum(map(len, prompts["planned"]))
    floor = trie_tokens(prompts["planned"], BLOCK_TOK)
    rows, reached = [], True
    for name, cache in (("holds all", 1 << 40), ("holds a quarter", floor // 4)):
        written, arriving, planned = (computed(prompts[key], cache) for key in ("as written", "arriving", "planned"))
        ok = planned <= GOAL_TRIE * floor and (cache > floor or arriving >= GOAL_QUARTER * planned)
        reached &= ok
        numbers = [f"{number:,}" for number in (written, arriving, planned, floor)]
        rows.append(
            [
                name,
                *numbers,
                f"{total / planned:.2f} x",
                f"{planned / floor:.3f} x",
                f"{arriving / planned:.2f} x",
                verdict(ok),
            ]
        )
    head = [
        "cache",
        "fields as written",
        "rows as they arrive",
        "planned",
        "trie",
        "no cache ÷ planned",
        "planned ÷ trie",
        "arriving ÷ planned",
    ]
    goal = f"≤ {GOAL_TRIE} x; a quarter: ≥ {GOAL_QUARTER} x"
    show(f"{len(prompts['planned'])} prompts, {total:,} tokens: to compute", [*head, goal], rows)
    finish(reached)


if __name__ == "__main__":
    main()

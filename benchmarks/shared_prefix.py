"""Prompt tokens computed by queries whose prompts share long beginnings: reviews joined with movies.

Without ``--real`` the model is one that does nothing but cache prefixes (blocks, the longest unused dropped, tokens
of the bundled model's tokenizer), behind everything that runs a query otherwise. Its KV cache holds the prompts, then
a quarter of their trie, then a quarter of the blocks in it that several prompts share. Computed tokens are set against
the trie of all prompts in whole blocks, and against the same requests sent in order of arrival; that order can only
cost something where the cache does not hold all that is shared.

With ``--real`` the bundled model answers on vLLM, prefix caching on against off, and against the floor: tokens of the
trie ÷ prefill rate + tokens of the answers ÷ decode rate, both as measured here with full batches; and the prompts are
handed to vLLM itself, all at once. It takes some minutes on two quiet cores.

Run: ``python benchmarks/shared_prefix.py [--real]``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from report import finish, show, verdict

import halo_sql
from halo_sql.engines import bundled, registry
from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.protocol import GenRequest, GenResult
from halo_sql.engines.vllm import VllmEngine
from halo_sql.ir.prefix import trie_tokens
from halo_sql.ir.prompt import Sampling
from halo_sql.operators import asking

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.engines.lru_engine import LruEngine

DATA = Path(__file__).parents[2] / "shared" / "data" / "sembench_movie"
BLOCK_TOK, BATCH = 16, 32
GOAL_TRIE, GOAL_ARRIVAL, GOAL_OFF, GOAL_FLOOR = 1.05, 1.5, 6.0, 1.15
LOAD = """
CREATE TABLE Reviews AS SELECT reviewId, id, criticName, reviewText, scoreSentiment FROM read_csv('{data}/Reviews.csv')
    WHERE reviewText IS NOT NULL;
CREATE TABLE Movies AS SELECT * EXCLUDE (audienceScore, tomatoMeter) FROM read_csv('{data}/Movies.csv');
"""
MOVIE = "{{ m.title, m.director, m.writer, m.rating, m.ratingContents, m.genre, m.distributor, m.soundMix }}"
#: name -> statement; {system} is a message of rules and examples
STATEMENTS = {
    "one call over the join": f"SELECT LLM_MAP('Movie: {MOVIE} Review: {{{{ r.reviewText }}}} Does it fit the movie?', "
    "system => '{system}') FROM Reviews r JOIN Movies m ON r.id = m.id",
    "two calls about the same rows": "SELECT "
    f"LLM_MAP('Movie: {MOVIE} Review: {{{{ r.reviewText }}}} Is it positive?'), "
    f"LLM_MAP('Movie: {MOVIE} Review: {{{{ r.reviewText }}}} What does it praise?') "
    "FROM Reviews r JOIN Movies m ON r.id = m.id",
    "a call on the answer of another": (
        f"WITH q AS (SELECT m.*, LLM_MAP('Movie: {MOVIE} Review: {{{{ r.reviewText }}}} What does it claim?') AS a "
        "FROM Reviews r JOIN Movies m ON r.id = m.id) "
        f"SELECT LLM_MAP('Movie: {MOVIE.replace('m.', 'q.')} Claim: {{{{ q.a }}}} Is it true?') FROM q"
    ),
}


def rules(con: halo_sql.Connection, examples: int) -> str:
    """A system message: what to do, and examples."""
    rows = con.execute(
        f"SELECT left(reviewText, 160), scoreSentiment FROM Reviews ORDER BY hash(reviewId) LIMIT {examples}"
    ).fetchall()
    lines = [f"Review: {text}\nAnswer: {label}" for text, label in rows]
    return "\n".join(["You judge reviews of movies. Examples:", *lines]).replace("'", "''").replace("{{", "{ {")


def run(data: Path, statement: str, engine: LruEngine, ordered: bool) -> float:
    """Run a statement over an engine; processor seconds."""
    asking.ORDERED_FROM_ROWS = 1024 if ordered else sys.maxsize
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_max_calls": 0}
    with halo_sql.connect(config=config) as con:
        pool: Any = con.session._runtime.pool

        def create(model: registry.Definition, functions: registry.Functions) -> Any:
            return engine

        pool._create = create
        con.execute(LOAD.format(data=data))
        if not ordered:
            con.execute("SET halo_disabled_rules = 'restore_order'")
        started = time.process_time()
        con.execute(statement.replace("{system}", rules(con, 24))).fetchall()
        return time.process_time() - started


def shared_tok(prompts: Iterable[Sequence[int]]) -> int:
    """Tokens of the blocks that several prompts have."""
    users = Counter(hash(tuple(prompt[:end])) for prompt in prompts for end in range(BLOCK_TOK, len(prompt), BLOCK_TOK))
    return BLOCK_TOK * sum(count > 1 for count in users.values())


def emulated(data: Path) -> bool:
    """Counters of a model that caches prefixes and nothing else."""
    tokenizer = ChatTokenizer.load(bundled.ensure("smollm2"))
    known: dict[tuple[str | None, str], list[int]] = {}

    def tokens(request: GenRequest) -> list[int]:
        key = (request.system, request.user)
        if key not in known:
            known[key] = tokenizer.render_batch([request])[0]
        return known[key]

    rows, reached = [], True
    for name, statement in STATEMENTS.items():
        known.clear()
        first = LruEngine(1 << 24, BLOCK_TOK, BATCH, 8, tokens, identity="first")
        run(data, statement, first, True)
        prompts = {tuple(tokens(request)) for request in first.seen}
        trie = trie_tokens(prompts, BLOCK_TOK)
        shared = shared_tok(prompts)
        caches = {"4 × trie": 4 * trie, "trie ÷ 4": trie // 4, "shared ÷ 4": shared // 4}
        for cache, cache_tok in caches.items():
            engines = [
                LruEngine(cache_tok, BLOCK_TOK, BATCH, 8, tokens, identity=f"{cache} {ordered}")
                for ordered in (True, False)
            ]
            for engine, ordered in zip(engines, (True, False), strict=True):
                run(data, statement, engine, ordered)
            ours, arrival = (engine.computed for engine in engines)
            short = cache_tok < shared
            good = ours <= GOAL_TRIE * trie and (not short or arrival >= GOAL_ARRIVAL * ours)
            reached &= good
            goal = f"<= {GOAL_TRIE}" + (f"; >= {GOAL_ARRIVAL}" if short else "")
            cells = [f"{trie:,}", f"{shared:,}", f"{ours:,}", f"{ours / trie:.3f}", f"{arrival / ours:.2f}"]
            rows.append([name, cache, f"{engines[0].prompted:,}", *cells, goal, verdict(good)])
    show(
        f"Prompt tokens computed, reviews JOIN movies, blocks of {BLOCK_TOK} tokens",
        ("", "KV cache", "prompt tok", "trie", "shared", "computed", "÷ trie", "arrival ÷", "goal", ""),
        rows,
    )
    return reached


# --- the bundled model


async def ask(engine: VllmEngine, requests: Sequence[GenRequest]) -> list[GenResult]:
    """All answers, in the order of the requests."""
    found: dict[int, GenResult] = {}
    done = asyncio.Event()

    def deliver(results: Sequence[GenResult]) -> None:
        found.update({result.id: result for result in results})
        if len(found) == len(requests):
            done.set()

    engine.submit(requests, deliver)
    await done.wait()
    return [found[request.id] for request in requests]


async def rates() -> tuple[float, float]:
    """Prompt tokens and answer tokens per second, each in full batches."""
    engine = VllmEngine("bundled:smollm2", {"enable_prefix_caching": False})
    try:
        await engine.start()
        words = "movie review scene actor plot music light sound"
        long = [GenRequest(n, f"{n} {words} " * 60, sampling=Sampling(max_tokens=1)) for n in range(8)]
        short = [GenRequest(n, f"Tell a story about {n}.", sampling=Sampling(max_tokens=64)) for n in range(BATCH)]
        await ask(engine, short[:2])
        started = time.perf_counter()
        prompt_tok = sum(result.prompt_tok for result in await ask(engine, long))
        prefill_s = time.perf_counter() - started
        started = time.perf_counter()
        results = await ask(engine, short)
        decode_s = time.perf_counter() - started
        prefill = prompt_tok / prefill_s
        decode_s -= sum(result.prompt_tok for result in results) / prefill
        return prefill, sum(result.output_tok for result in results) / max(decode_s, 1e-3)
    finally:
        await engine.close()


async def at_once(turns: Sequence[Sequence[GenRequest]]) -> float:
    """Median seconds of vLLM, handed all requests of a turn at once."""
    engine = VllmEngine("bundled:smollm2", {"block_size": 32})
    try:
        await engine.start()
        await ask(engine, [GenRequest(n, "Hello", sampling=Sampling(max_tokens=2)) for n in range(2)])
        times = []
        for requests in turns:
            started = time.perf_counter()
            await ask(engine, requests)
            times.append(time.perf_counter() - started)
        return median(times)
    finally:
        await engine.close()


def real(data: Path, movie_rows: int) -> bool:
    """Wall time of a statement on vLLM, prefix caching on and off, and the floor."""
    tokenizer = ChatTokenizer.load(bundled.ensure("smollm2"))
    prefill, decode = asyncio.run(rates())
    seconds: dict[bool, float] = {}
    answers: dict[bool, list[Any]] = {}
    counters: dict[bool, tuple[int, int, int]] = {}
    prompts: set[tuple[int, ...]] = set()
    for caching in (True, False):
        config = {"halo_store": "off", "halo_default_model": "echo"}
        with halo_sql.connect(config=config) as con:
            con.execute(LOAD.format(data=data))
            con.execute(
                "CREATE MODEL small FROM 'bundled:smollm2' USING vllm "
                f"WITH (block_size = 32, enable_prefix_caching = {str(caching).lower()})"
            )
            system = rules(con, 24)
            template = f"Movie: {MOVIE} Review: {{{{ left(r.reviewText, 120) }}}} Is the review positive?"
            source = "FROM Reviews r JOIN Movies m ON r.id = m.id"
            rows = f"(SELECT * FROM Reviews ORDER BY hash(reviewId) LIMIT {movie_rows})"
            source = source.replace("Reviews r", f"{rows} r")
            options = f"system => '{system}', max_tokens => 4"
            statement = (
                f"SELECT r.reviewId, LLM_MAP('{template}', {options}, model => 'small') AS a {source} ORDER BY ALL"
            )
            con.execute("SELECT LLM_MAP('Hello', model => 'small', max_tokens => 2) FROM range(2) t(i)").fetchall()
            times = []
            for turn in range(3) if caching else (2,):
                turned = statement.replace("You judge", f"Turn {turn}: you judge")  # a cold cache
                started = time.perf_counter()
                answers[caching] = con.execute(turned).fetchall()
                times.append(time.perf_counter() - started)
            seconds[caching] = median(times)
            totals = con.last_profile()["totals"]
            counters[caching] = (totals["prompt_tok"], totals["prompt_tok_cached"], totals["output_tok"])
        if caching:
            with halo_sql.connect(config=config) as con:
                con.execute(LOAD.format(data=data))
                shown = con.execute(statement.replace("model => 'small'", "model => 'echo'")).fetchall()
            plain = system.replace("''", "'")
            turns = [
                [
                    GenRequest(n, text, plain.replace("You judge", f"Turn {turn}: you judge"), Sampling(max_tokens=4))
                    for n, (_, text) in enumerate(shown)
                ]
                for turn in range(3)
            ]
            prompts = set(map(tuple, tokenizer.render_batch(turns[2])))
            engine_s = asyncio.run(at_once(turns))
    trie = trie_tokens(prompts, 32)
    total, cached, output = counters[True]
    floor_s = trie / prefill + output / decode
    ratio, over, tight = seconds[False] / seconds[True], (total - cached) / trie, seconds[True] / floor_s
    good = (ratio >= GOAL_OFF, over <= GOAL_TRIE, tight <= GOAL_FLOOR)
    same = sum(one == other for one, other in zip(answers[True], answers[False], strict=True))
    show(
        f"Reviews JOIN movies on real vLLM, {len(answers[True])} rows, {total:,} prompt tokens",
        ("", "measured", "goal", ""),
        [
            ["time off ÷ time on", f"{ratio:.1f}", f">= {GOAL_OFF:g}", verdict(good[0])],
            ["computed ÷ trie", f"{over:.3f}", f"<= {GOAL_TRIE}", verdict(good[1])],
            ["time on ÷ floor", f"{tight:.2f}", f"<= {GOAL_FLOOR}", verdict(good[2])],
            ["  vLLM handed all prompts at once ÷ floor", f"{engine_s / floor_s:.2f}", "", ""],
            ["  prefill, decode (tok/s, this machine)", f"{prefill:.0f}, {decode:.0f}", "", ""],
            ["equal answers", f"{same} of {len(answers[True])}", "", ""],
        ],
    )
    return all(good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--real", action="store_true", help="on vLLM, with the bundled model")
    parser.add_argument("--rows", type=int, default=96, help="reviews asked about with --real")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"{arguments.data} is not here, nothing measured", file=sys.stderr)
        finish(False)
    finish(real(arguments.data, arguments.rows) if arguments.real else emulated(arguments.data))


if __name__ == "__main__":
    main()

"""Which worker a request goes to: prefixes stay together, loads stay even, and both at once where they pull apart."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from halo_sql.engines.protocol import GenRequest, GenResult
from halo_sql.engines.router import CHUNK_CHARS, Prefixes, Route, Router
from halo_sql.ir.prompt import Sampling

SHORT = Sampling(max_tokens=2)


def text(name: object, chunks: float) -> str:
    chars = int(chunks * CHUNK_CHARS)
    return "".join(f"{name}/{number:04d} " for number in range(chars // 7 + 1))[:chars]


def grouped(groups: int, rows: int, prefix: float, tail: float = 0.4, start: int = 0) -> list[GenRequest]:
    return [
        GenRequest(start + group * rows + row, text(f"g{group}", prefix) + text(f"r{group}.{row}", tail), "sys", SHORT)
        for group in range(groups)
        for row in range(rows)
    ]


def cached_tok(router: Router, routes: Sequence[tuple[GenRequest, Route]], workers: int) -> int:
    """Tokens that ideal caches would find, request by request."""
    caches: list[set[int]] = [set() for _ in range(workers)]
    found = 0
    for request, route in routes:
        cache = caches[route.worker]
        for chunk, tok in router.chain(request):
            found += tok if chunk in cache else 0
            cache.add(chunk)
    return found


def send(router: Router, requests: Sequence[GenRequest], able: Sequence[int], at_once: int) -> list[Route]:
    """As a window of ``at_once`` requests does it: each of them waits for the oldest one's answer."""
    routes: list[Route] = []
    for start in range(0, len(requests), at_once):
        batch = requests[start : start + at_once]
        for request, route in zip(requests[max(0, start - at_once) : start], routes[-at_once:], strict=True):
            router.done(request, route, GenResult(request.id, output_tok=2))
        routes += router.assign(batch, able)
    return routes


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("at_once", [1, 16, 256, 4096])
@pytest.mark.parametrize("shuffled", [False, True])
def test_affinity_finds_nearly_what_one_cache_would(workers: int, at_once: int, shuffled: bool) -> None:
    requests = grouped(groups=40, rows=20, prefix=12)
    if shuffled:
        random.Random(7).shuffle(requests)
    router = Router(workers)
    routes = send(router, requests, range(workers), at_once)
    alone = cached_tok(router, [(request, Route(0, 0)) for request in requests], 1)
    found = cached_tok(router, list(zip(requests, routes, strict=True)), workers)
    assert found >= 0.95 * alone
    if at_once >= 256:  # else too little is in flight to be worth the prefixes of all
        assert {route.worker for route in routes} == set(range(workers))


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("prefix", [0, 1, 8, 30])
def test_rows_with_one_prefix_are_split_evenly(workers: int, prefix: int) -> None:
    requests = grouped(groups=1, rows=400, prefix=prefix)
    routes = Router(workers).assign(requests, range(workers))
    work = [sum(route.work_tok for route in routes if route.worker == number) for number in range(workers)]
    largest = max(route.work_tok for route in routes)
    assert max(work) - min(work) <= sum(work) / workers / 2 + largest


def test_loads_differ_by_two_prefixes_and_a_request_at_most() -> None:
    random_, router, prefix = random.Random(3), Router(4), 10
    in_flight: list[tuple[GenRequest, Route]] = []
    largest = 0.0
    for request in grouped(groups=8, rows=100, prefix=prefix):
        (route,) = router.assign([request], range(4))
        in_flight.append((request, route))
        largest = max(largest, route.work_tok)
        while len(in_flight) > 40:
            done, where = in_flight.pop(random_.randrange(len(in_flight)))
            router.done(done, where, GenResult(done.id, output_tok=2))
    for other in grouped(groups=1, rows=200, prefix=prefix, start=10_000):
        (route,) = router.assign([other], range(4))
        assert router.load_tok[route.worker] - min(router.load_tok) <= 2 * prefix * CHUNK_CHARS / 4 + largest


def test_a_group_too_small_to_split_stays_whole() -> None:
    requests = grouped(groups=8, rows=10, prefix=8)
    routes = Router(2).assign(requests, (0, 1))
    for group in range(8):
        assert len({route.worker for route in routes[10 * group : 10 * group + 10]}) == 1


def test_the_plan_says_which_workers() -> None:
    router = Router(3)
    requests = [GenRequest(n, text(n, 2), workers=(2,) if n % 2 else (0, 1)) for n in range(20)]
    routes = router.assign(requests, (0, 1, 2))
    assert {route.worker for route in routes[1::2]} == {2}
    assert {route.worker for route in routes[::2]} == {0, 1}


def test_work_is_given_back_and_a_new_worker_has_no_prefixes() -> None:
    router = Router(2)
    requests = grouped(groups=1, rows=3, prefix=20)
    (route,) = router.assign(requests[:1], (0, 1))
    router.done(requests[0], route, GenResult(0, output_tok=2))
    assert router.load_tok == [0.0, 0.0]
    (again,) = router.assign(requests[1:2], (0, 1))
    assert again.worker == route.worker
    assert again.work_tok < route.work_tok / 4
    router.back(again)
    router.forget(route.worker)
    (anew,) = router.assign(requests[2:], (route.worker,))
    assert anew.work_tok > 4 * again.work_tok


def test_the_index_is_no_larger_than_the_cache() -> None:
    held = Prefixes(capacity_tok=100)
    held.add([(1, 40), (2, 40)])
    held.add([(1, 40), (3, 40)])
    assert (1 in held, 2 in held, 3 in held) == (True, False, True)


@pytest.mark.parametrize(("transfer", "moved"), [(0.05, True), (0.9, True), (1.5, False), (None, False)])
def test_a_prefix_is_fetched_where_that_is_cheaper_than_computing_it(transfer: float | None, moved: bool) -> None:
    router = Router(2, transfer=transfer)
    first, *rest = grouped(groups=1, rows=60, prefix=30)
    (route,) = router.assign([first], (0, 1))
    assert (route.keep_chars > 0) == moved
    router.done(first, route, GenResult(first.id, output_tok=2))
    routes = router.assign(rest, (0, 1))
    elsewhere = [found for found in routes if found.worker != route.worker]
    assert elsewhere
    assert all(found.fetch == moved for found in elsewhere)
    assert (max(found.work_tok for found in elsewhere) < route.work_tok) == moved


def test_a_prefix_that_was_not_kept_is_not_fetched() -> None:
    router = Router(2, transfer=0.05)
    first, second = grouped(groups=1, rows=2, prefix=30)
    (route,) = router.assign([first], (0,))  # nobody is known to share the user message: the system message is kept
    assert route.keep_chars == len("sys")
    (other,) = router.assign([second], (1,))  # nor is it computed yet
    assert not other.fetch
    assert other.keep_chars >= 30 * CHUNK_CHARS


def test_workers_in_one_place_leave_all_to_the_one_that_works() -> None:
    router, requests = Router(3, one_place=True), grouped(groups=6, rows=10, prefix=4)
    routes = send(router, requests, range(3), 8)
    assert {route.worker for route in routes} == {0}
    for route in routes[-4:]:
        router.back(route)
    assert {route.worker for route in router.assign(grouped(2, 4, 3, start=500), (1, 2))} == {1}  # the first is dead
    later = [GenRequest(900, text("new", 5), "sys", SHORT)]
    assert [route.worker for route in router.assign(later, range(3))] == [1]  # and came back: the second works still

"""Ways to run a workload without an optimizer. All get the same clients; a strategy says when a call is made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from clients import Clients

Answerer = Callable[[Any, Mapping[str, str]], Awaitable[str]]
Strategy = Callable[[Any, Sequence[str], Clients], Awaitable[list[str]]]


async def serial(workload: Any, queries: Sequence[str], clients: Clients) -> list[str]:
    """One query at a time, one operator at a time."""
    answers = []
    for query in queries:
        values = {"user_query": query}
        for node in workload.nodes:
            values[node.output] = await clients.answer(node, values)
        answers.append(values[workload.nodes[-1].output])
    return answers


async def operator_wise(workload: Any, queries: Sequence[str], clients: Clients) -> list[str]:
    """Operators in topological order, the whole batch through each, a barrier after each."""
    rows = [{"user_query": query} for query in queries]
    for node in workload.nodes:
        values = await asyncio.gather(*(clients.answer(node, row) for row in rows))
        for row, value in zip(rows, values, strict=True):
            row[node.output] = value
    return [row[workload.nodes[-1].output] for row in rows]


async def dispatch_all(workload: Any, queries: Sequence[str], clients: Clients) -> list[str]:
    """A task per operator and query, started as soon as its inputs are there."""
    return await _dispatch(workload, queries, clients.answer)


async def dispatch_memo(workload: Any, queries: Sequence[str], clients: Clients) -> list[str]:
    """The same with one call per distinct request."""
    asked: dict[tuple[object, ...], asyncio.Task[str]] = {}

    async def once(node: Any, values: Mapping[str, str]) -> str:
        request = clients.request(node, values)
        task = asked.get(request)
        if task is None:
            needed = {name: values[name] for name in node.reads()}
            task = asked[request] = asyncio.ensure_future(clients.answer(node, needed))
        return await task

    return await _dispatch(workload, queries, once)


async def _dispatch(workload: Any, queries: Sequence[str], answer: Answerer) -> list[str]:
    async def one(node: Any, values: dict[str, str], tasks: Mapping[str, asyncio.Task[None]]) -> None:
        for parent in workload.parents(node):
            if parent != "input":
                await tasks[parent]
        values[node.output] = await answer(node, values)

    rows, pending = [], []
    for query in queries:
        values = {"user_query": query}
        tasks: dict[str, asyncio.Task[None]] = {}
        for node in workload.nodes:
            tasks[node.id] = asyncio.ensure_future(one(node, values, tasks))
        rows.append(values)
        pending += tasks.values()
    await asyncio.gather(*pending)
    return [values[workload.nodes[-1].output] for values in rows]


async def langgraph(workload: Any, queries: Sequence[str], clients: Clients) -> list[str]:
    """The graph in LangGraph, run by its own ``abatch`` over the inputs."""
    from langgraph.graph import END, START, StateGraph
    from typing_extensions import TypedDict

    names = ["user_query", *(node.output for node in workload.nodes)]
    graph: Any = StateGraph(TypedDict("State", dict.fromkeys(names, str)))  # type: ignore[operator]

    def step(node: Any) -> Callable[[Mapping[str, str]], Awaitable[dict[str, str]]]:
        async def run(state: Mapping[str, str]) -> dict[str, str]:
            return {node.output: await clients.answer(node, state)}

        return run

    for node in workload.nodes:
        graph.add_node(f"run_{node.id}", step(node))
        parents = [f"run_{parent}" for parent in workload.parents(node) if parent != "input"]
        graph.add_edge(parents or START, f"run_{node.id}")
    graph.add_edge(f"run_{workload.nodes[-1].id}", END)
    states = await graph.compile().abatch([{"user_query": query} for query in queries])
    return [state[workload.nodes[-1].output] for state in states]


STRATEGIES: Mapping[str, Strategy] = {
    "serial": serial,
    "operator-wise": operator_wise,
    "dispatch-all": dispatch_all,
    "dispatch-all + memo": dispatch_memo,
    "langgraph": langgraph,
}
MEMO = ("dispatch-all + memo",)


def langgraph_version() -> str | None:
    """Its version; None where it cannot be imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        import langgraph.graph  # noqa: F401

        return version("langgraph")
    except (ImportError, PackageNotFoundError):
        return None

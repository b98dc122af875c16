"""Placement problems: random ones, and the graphs of the six workloads; equal seeds give equal problems."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halo_sql.optimizer.placement.problem import Device, Edge, Node, Problem, Residence, Work

GB = 1e9
#: By class of model, an assumption on a device with 139 GiB: GB of weights, prefill tok/s, seconds of a decoding step.
CLASSES = {"small": (28.0, 14_000.0, 0.0093), "medium": (13.0, 55_000.0, 0.005), "large": (64.0, 6_200.0, 0.021)}
SHAPES = ("layers", "chains", "tree", "diamonds", "sparse")


def devices(count: int, memory_gb: float, rng: random.Random | None, prefixes: bool = True) -> tuple[Device, ...]:
    """Equal devices that can hold each class of model; some models are there already when ``rng`` says so."""
    found = []
    for place in range(count):
        models, room = {}, memory_gb
        for name, (gigabytes, _, _) in CLASSES.items():
            held = gigabytes + 15.0
            there = rng is not None and held <= room and rng.random() < 0.5
            room -= held if there else 0.0
            state = "resident" if there else ("asleep" if rng is not None and rng.random() < 0.3 else "cold")
            load_s, wake_s = 1.0 + gigabytes / 25.0, max(1.0, gigabytes / 50.0)
            models[name] = Residence(place, held * GB, load_s, wake_s, 1.0, state)
        found.append(Device(f"gpu{place}", "h", models, memory_gb * GB, 50 * GB if prefixes else 0.0))
    return tuple(found)


def random_problem(seed: int, most: int = 30, least: int = 6) -> Problem:
    """A DAG of ``least`` to ``most`` nodes: three models on two or three devices, tools, nodes of neither."""
    rng = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    count = rng.randint(least, most)
    pairs = _pairs(shape, count, rng)
    memory_gb = rng.choice((100.0, 139.0, 200.0))
    tools = {"http": rng.randint(1, 3), "files": 1}
    nodes = [_node(rng) for _ in range(count)]
    edges = tuple(Edge(a, b, rng.random() < 0.5) for a, b in sorted(pairs))
    return Problem(tuple(nodes), edges, devices(rng.randint(2, 3), memory_gb, rng), tools, tick_s=1.0)


def _node(rng: random.Random) -> Node:
    kind = rng.random()
    first, last = rng.choice(((1.0, 1.0), (0.2, 0.2), (0.1, 0.3)))
    if kind < 0.2:
        return Node({"": Work(decode_s=rng.randint(1, 5))}, tool=rng.choice(("http", "http", "files")),
                    first_share=first, last_share=last)  # fmt: skip
    if kind < 0.25:
        return Node({"": Work(decode_s=1.0)})
    prefix = rng.choice(("", "", "a", "b"))
    work = Work(rng.randint(0, 3), rng.randint(1, 5), rng.randint(1, 2) if prefix else 0.0, rng.randint(1, 2))
    return Node(
        {"h": work},
        rng.choice(tuple(CLASSES)),
        kv_bytes=rng.choice((0.0, 0.0, 5 * GB)),
        prefix=prefix,
        prefix_bytes=rng.choice((20 * GB, 100 * GB)) if prefix else 0.0,
        first_share=first,
        last_share=last,
        max_parts=rng.choice((1, 1, 2, 3)),
    )


def _pairs(shape: str, count: int, rng: random.Random) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    if shape == "layers":
        width = rng.randint(2, 5)
        layer = [i // width for i in range(count)]
        for b in range(count):
            above = [a for a in range(b) if layer[a] == layer[b] - 1]
            pairs |= {(a, b) for a in rng.sample(above, min(len(above), rng.randint(1, 2)))}
    elif shape == "chains":
        chains = rng.randint(2, 5)
        pairs |= {(a, a + chains) for a in range(count - chains)}
        pairs |= {(a, count - 1) for a in range(count - 1) if a >= count - chains}
    elif shape == "tree":
        pairs |= {((b - 1) // 3 if rng.random() < 0.7 else rng.randrange(b), b) for b in range(1, count)}
    elif shape == "diamonds":
        for top in range(0, count - 3, 3):
            pairs |= {(top, top + 1), (top, top + 2), (top + 1, top + 3), (top + 2, top + 3)}
    else:
        pairs |= {(a, b) for a in range(count) for b in range(a + 1, count) if rng.random() < 2.0 / count}
    return pairs


def workload(spec: Mapping[str, Any], rows: int, scale: str = "gpu", tick_s: float = 0.0) -> Problem:
    """The graph of a workload (a mapping read from its file) over ``rows`` queries on three equal devices."""
    names = [node["id"] for node in spec["nodes"]]
    place = {name: i for i, name in enumerate(_ordered(names, spec["edges"]))}
    by_id = {node["id"]: node for node in spec["nodes"]}
    prompt_tok = 1_200.0 if scale == "gpu" else 300.0
    nodes: list[Node] = []
    tools = {}
    for name in place:
        node = by_id[name]
        if node["kind"] != "llm":
            mean_s = float(node.get("latency", {}).get("mean_s", 0.0)) or 0.01
            tools[name] = 1
            nodes.append(Node({"": Work(decode_s=mean_s * max(1.0, rows / 64))}, tool=name, first_share=0.1,
                              last_share=0.1))  # fmt: skip
            continue
        _, prefill_tok_per_s, step_s = CLASSES[node["model"]]
        output_tok = float(node["max_tokens"][scale]) / 2
        system_tok = 1_000.0
        work = Work(
            rows * prompt_tok / prefill_tok_per_s,
            rows * output_tok * step_s / min(rows, 128),
            system_tok / prefill_tok_per_s,
            output_tok * step_s,
        )
        nodes.append(Node({"h": work}, node["model"], "", 0.0, name, system_tok * 160e3, 0.1, 0.1, 3))
    edges = tuple(Edge(place[a], place[b]) for a, b in spec["edges"] if a in place and b in place)
    return Problem(tuple(nodes), edges, devices(3, 139.0, None), tools, tick_s)


def _ordered(names: list[str], pairs: list[list[str]]) -> list[str]:
    before = {name: {a for a, b in pairs if b == name and a in names} for name in names}
    done: list[str] = []
    while len(done) < len(names):
        done += [next(name for name in names if name not in done and before[name] <= set(done))]
    return done


def specs(folder: Path) -> list[Mapping[str, Any]]:
    """The six workloads' specifications; none where the folder (or PyYAML) is missing."""
    try:
        import yaml
    except ImportError:
        return []
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("w?.yaml"))]

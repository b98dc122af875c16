"""From finished statements to profiles: what is learnt of calls, and what the optimizer is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b

from halo_sql.catalog.objects import ModelDef, ToolDef
from halo_sql.engines.experience import CallKind, Experience
from halo_sql.engines.knowledge import Knowledge, Lesson
from halo_sql.ir.call_key import call_key
from halo_sql.ir.cascade import proxy_calls
from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.physical import AgentApplyExec, LimitExec, LlmFilterCascadeExec, LlmFilterExec, PhysicalDag, calls_by
from halo_sql.ir.prompt import LlmCall
from halo_sql.metrics import NodeMetrics, Profile
from halo_sql.optimizer.context import DEFAULT_CALL, CallProfile
from halo_sql.optimizer.nodes import calls_of, walk_once

LABEL_CHARS = 200
#: A line through characters and tokens needs so many prompts, whose lengths spread so far (standard deviation).
FIT_REQUESTS = 8
FIT_CHARS = 8.0
TOK_PER_CHAR = (0.02, 2.0)  # slopes that a tokenizer can have
_UNLIKE = frozenset(  # options that do not change what a model or tool answers
    {"secret", "concurrency", "timeout_s", "rate_per_s", "max_retries", "on_error"}
)


def model_identity(model: ModelDef) -> str:
    """What makes two models one as far as experience goes: engine, source and options, not the name."""
    options = {name: value for name, value in sorted(model.options.items()) if name not in _UNLIKE}
    said = json.dumps([model.engine, model.source or model.name, options], default=str)
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def tool_identity(tool: ToolDef) -> str:
    """The same of a tool: its name and what it does, not how often it may be called."""
    options = {name: value for name, value in sorted(tool.options.items()) if name not in _UNLIKE}
    said = json.dumps(
        [tool.name.lower(), tool.kind, tool.body, tool.method, tool.remote, *_signature(tool), options], default=str
    )
    return "tool:" + blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _signature(tool: ToolDef) -> tuple[object, ...]:
    return [(item.name, item.type) for item in tool.parameters], tool.returns, tool.columns


# --- what is learnt


def tool_lessons(found: Mapping[str, Experience], tools: Iterable[ToolDef]) -> list[Lesson]:
    """What the tools' calls of a statement that ended well took; ``found`` by lower-case name."""
    named = {tool.name.lower(): tool for tool in tools}
    return [
        (CallKind(tool_identity(named[name]), named[name].name), f"TOOL({named[name].name})", experience)
        for name, experience in found.items()
        if name in named
    ]


def lessons(
    dag: PhysicalDag,
    profile: Profile,
    requests: Mapping[tuple[str, str], Experience],
    models: Mapping[str, ModelDef],
) -> list[Lesson]:
    """What a statement that ended well has taught.

    requests  (model name, call key) -> what requests took
    models    by name
    """
    labels = {(call.model, call_key(call)): call.label for node in dag.nodes for call in calls_by(node.op)}
    found = {key: experience for key, experience in requests.items() if experience.requests and key[0] in models}
    by_model: dict[str, Experience] = {}
    for (model, _), experience in found.items():
        by_model[model] = by_model.get(model, Experience()).merged(experience)
    for key, rows in [*_filters(dag, profile), *_agents(dag, profile)]:
        if key[0] in models:
            found[key] = found.get(key, Experience()).plus(rows)
    learnt = [
        (CallKind(model_identity(models[model]), call), labels.get((model, call), "")[:LABEL_CHARS], experience)
        for (model, call), experience in found.items()
    ]
    learnt += [
        (CallKind(model_identity(models[model]), ""), models[model].name, experience)
        for model, experience in by_model.items()
    ]
    return learnt


def _filters(dag: PhysicalDag, profile: Profile) -> Iterator[tuple[tuple[str, str], Experience]]:
    """Rows decided and kept; not under a LIMIT, where some that were read are never decided, and not of a filter that
    passed failing rows on."""
    if any(isinstance(node.op, LimitExec) for node in dag.nodes):
        return
    for node in dag.nodes:
        if isinstance(node.op, LlmFilterExec | LlmFilterCascadeExec):
            did = profile.nodes.get(node.id, NodeMetrics())
            undecided = isinstance(node.op, LlmFilterExec) and (
                node.op.passing or (node.op.failed is not None and did.errors)
            )
            if did.rows_total and not undecided:
                call = node.op.call
                yield (call.model, call_key(call)), Experience(rows=did.rows_total, kept=min(did.rows, did.rows_total))


def _agents(dag: PhysicalDag, profile: Profile) -> Iterator[tuple[tuple[str, str], Experience]]:
    """Whole conversations; a node of several agents counts them together, so it teaches nothing."""
    for node in dag.nodes:
        did = profile.nodes.get(node.id, NodeMetrics())
        if isinstance(node.op, AgentApplyExec) and len(node.op.calls) == 1 and did.conversations:
            call = node.op.calls[0]
            yield (
                (call.model, call_key(call)),
                Experience(
                    did.conversations,
                    prompt_tok=did.prompt_tok,
                    output_tok=did.output_tok,
                    steps=did.llm_calls + did.llm_calls_from_store,
                    tool_calls=did.tool_calls + did.tool_calls_coalesced + did.tool_calls_from_store,
                ),
            )


# --- what is told


def call_profiles(
    plan: LogicalPlan, models: Mapping[str, ModelDef], knowledge: Knowledge
) -> dict[tuple[str, str], CallProfile]:
    """(model name, call key or '') -> what is known, for the calls of a plan."""
    wanted: dict[CallKind, list[tuple[str, str]]] = {}
    identity = {name: model_identity(model) for name, model in models.items()}
    calls: list[LlmCall] = [call for node in walk_once(plan) for call in calls_of(node) if call.model in models]
    calls += [proxy for call in calls for proxy, _ in proxy_calls(call) if proxy.model in models]
    for call in calls:
        for key in ("", call_key(call)):
            wanted.setdefault(CallKind(identity[call.model], key), []).append((call.model, key))
    known = knowledge.recall(wanted)
    profiles = {}
    for kind, experience in known.items():
        profile = profile_of(experience, known.get(CallKind(kind.model, ""), experience))
        if not kind.call:  # answers of other templates say nothing of this one's
            profile = CallProfile(profile.tok_per_char, profile.frame_tok)
        profiles.update(dict.fromkeys(wanted[kind], profile))
    return profiles


def known_of(
    dag: PhysicalDag, models: Mapping[str, ModelDef], knowledge: Knowledge
) -> list[tuple[str, int, float | None, float | None, float | None]]:
    """For each call of a plan that something is known of: its text, requests, average prompt and output tokens, and
    the share that a filter keeps."""
    found: dict[CallKind, str] = {}
    for call in (call for node in dag.nodes for call in calls_by(node.op)):
        model = models.get(call.model)
        if model is not None:
            found.setdefault(CallKind(model_identity(model), call_key(call)), call.label)
    known = knowledge.recall(found)
    rows = []
    for kind, label in found.items():
        seen = known.get(kind)
        if seen is not None:
            count, profile = seen.requests, profile_of(seen, seen)
            rows.append(
                (
                    label,
                    round(count),
                    round(seen.prompt_tok / count, 3) if count else None,
                    round(seen.output_tok / count, 3) if count else None,
                    None if profile.true_share is None else round(profile.true_share, 3),
                )
            )
    return rows


def profile_of(own: Experience, model: Experience) -> CallProfile:
    """The averages of a template. Tokens are a line over characters: its slope by least squares over the model's
    prompts (of all templates), through the mean of the template's own."""
    share = None if not own.rows else (own.kept + 0.5) / (own.rows + 1.0)  # Krichevsky and Trofimov, 1981
    if not own.requests:
        return CallProfile(true_share=share)
    made = partial(
        CallProfile,
        output_tok=own.output_tok / own.requests,
        answer_chars=own.answer_chars / own.requests,
        true_share=share,
    )
    if own.steps:
        return made(
            steps=own.steps / own.requests,
            tool_calls=own.tool_calls / own.requests,
            prompt_tok=own.prompt_tok / own.requests,
        )
    if not own.prompt_tok:  # an engine that does not count
        return made()
    slope = _slope(own) or _slope(model) or DEFAULT_CALL.tok_per_char
    return made(tok_per_char=slope, frame_tok=(own.prompt_tok - slope * own.chars) / own.requests)


def _slope(seen: Experience) -> float | None:
    count = seen.requests
    spread = count * seen.chars_sq - seen.chars**2
    if count < FIT_REQUESTS or spread < (count * FIT_CHARS) ** 2:
        return None
    slope = (count * seen.chars_tok - seen.chars * seen.prompt_tok) / spread
    return slope if TOK_PER_CHAR[0] <= slope <= TOK_PER_CHAR[1] else None

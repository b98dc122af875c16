"""Calls of TOOL and AGENT as call sites: the JSON object that is sent, its members constants or holes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from halo_sql.agents.assemble import exposed
from halo_sql.catalog.objects import Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Span
from halo_sql.grammar.call_site import CallSite, HoleField, HoleSite
from halo_sql.grammar.object_arguments import Member
from halo_sql.grammar.object_calls import ObjectCall, read_object_call
from halo_sql.grammar.source import Source, expression_source


class Reading(Protocol):
    """What is needed of the reader of calls (``calls.CallReader``)."""

    @property
    def duck(self) -> Duck:
        """The connection."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The catalog."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings."""
        ...

    def find(self, source: Source) -> tuple[CallSite, ...]:
        """The calls of a text."""
        ...

    def prompt(self, source: Source, start: int, end: int) -> tuple[tuple[str | HoleSite, ...], str | None]:
        """The pieces of a prompt, and the system message of a PROMPT object."""
        ...


def object_site(reader: Reading, source: Source, first: int, closing: int) -> CallSite:
    """The call whose name is token ``first`` and whose bracket closes at ``closing``; BinderError for a wrong one."""
    call = read_object_call(reader.duck, reader.snapshot, reader.settings, source, first)
    members: list[tuple[str, str | HoleSite]] = []
    task = None
    if call.task is not None:
        task, members = _task(reader, source, *call.task)
    taken = {name.lower() for name, _ in members}
    for member in call.members:
        name = member.name if member.name.lower() not in taken else f"{member.name}_{len(taken)}"
        value = _member(reader, source, member) if member.tokens is not None else member.text
        members.append((name, value))
    if task is not None and not members:  # no data at all: the task itself is what is sent
        members, task = [("task", json.dumps(task, ensure_ascii=False))], None
    site = CallSite(
        source,
        first,
        closing + 1,
        call.kind,
        _object(members),
        call.model,
        task,
        call.returns,
        call.sampling,
        call.on_error,
        call.cache,
        call.priority,
        target=call.target,
        volatile=call.volatile,
        row_form=call.row_form,
        around=call.around,
        steps=call.steps,
    )
    if call.kind == "agent" and any(site.holes()):
        _check_taint(reader, call)
    return site


def _check_taint(reader: Reading, call: ObjectCall) -> None:
    """BinderError for row data that would reach a tool that sends it out, or writes by it, unless the agent's
    definition says so."""
    agent = reader.snapshot.agents[call.target.lower()]
    tools = exposed(agent, reader.snapshot)
    if tools:
        raise BinderError(
            f'agent "{agent.name}" would give row data to tool "{tools[0]}", which sends data out or writes',
            remedy=f"If that is meant, say so: ALTER AGENT {agent.name} SET (egress = [{', '.join(tools)}]).",
        )


def _member(reader: Reading, source: Source, member: Member) -> HoleSite:
    """The hole of an argument: the user's expression in a cast to JSON."""
    assert member.tokens is not None
    span = source.lexed.span(*member.tokens)
    text = source.lexed.sql[span.start : span.end]
    return _wrapped(reader, member.name, member.before, text, member.after, source.origin, span.start)


def _wrapped(
    reader: Reading, name: str, before: str, text: str, after: str, origin: Callable[[Span], Span], start: int = 0
) -> HoleSite:
    """A hole of an expression (that begins at ``start`` of its text) with SQL around it."""
    whole = origin(Span(start, start + len(text)))

    def place(part: Span) -> Span:
        left, right = part.start - len(before), part.end - len(before)
        if left < 0 or right > len(text):
            return whole
        return origin(Span(start + left, start + right))

    source = expression_source(f"{before}{text}{after}", place)
    return HoleSite((HoleField(source, name, reader.find(source)),))


def _task(reader: Reading, source: Source, start: int, end: int) -> tuple[str | None, list[tuple[str, str | HoleSite]]]:
    """What of a task is the same for all rows, and the members that hold the rows' data."""
    pieces, system = reader.prompt(source, start, end)
    members: list[tuple[str, str | HoleSite]] = []
    if len(pieces) == 1 and isinstance(pieces[0], HoleSite) and not pieces[0].is_object:
        item = pieces[0].fields[0]
        before, after = "CAST(to_json(CAST((", "\n) AS VARCHAR)) AS VARCHAR)"
        members.append(("task", _wrapped(reader, "task", before, item.source.sql, after, item.source.origin)))
        return system, members
    static = "" if system is None else f"{system}\n\n"
    for piece in pieces:
        if isinstance(piece, str):
            static += piece
            continue
        shown = []
        if piece.star:
            shown.append(_unused("row", members))
            members.append((shown[0], piece))
        for item in piece.fields:
            before, after = "CAST(to_json((", "\n)) AS VARCHAR)"
            if piece.is_object:
                before, after = "coalesce(" + before, after + ", 'null')"
            shown.append(_unused(item.name, members))
            hole = _wrapped(reader, item.name, before, item.source.sql, after, item.source.origin)
            members.append((shown[-1], hole))
        static += "{{ " + ", ".join(shown) + " }}"
    return static, members


def _object(members: Sequence[tuple[str, str | HoleSite]]) -> tuple[str | HoleSite, ...]:
    """The pieces of a JSON object: its members are JSON texts, or holes that give such."""
    pieces: list[str | HoleSite] = ["{"]
    for place, (name, value) in enumerate(members):
        lead = (", " if place else "") + json.dumps(name, ensure_ascii=False) + ": "
        for piece in (lead, value):
            if isinstance(piece, str) and isinstance(pieces[-1], str):
                pieces[-1] += piece
            else:
                pieces.append(piece)
    if isinstance(pieces[-1], str):
        pieces[-1] += "}"
    else:
        pieces.append("}")
    return tuple(pieces)


def _unused(name: str, members: Sequence[tuple[str, object]]) -> str:
    """A name that no member has yet."""
    taken = {known.lower() for known, _ in members}
    wanted, number = name, 1
    while wanted.lower() in taken:
        number += 1
        wanted = f"{name}_{number}"
    return wanted

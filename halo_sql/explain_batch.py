"""EXPLAIN of a batch: the runs that are one plan each, and the statements between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halo_sql import explain, explaining
from halo_sql.consolidation import Member, bind_all, one_by_one, run
from halo_sql.deep import deep
from halo_sql.errors import Error, ProgrammingError
from halo_sql.ir.physical import BatchExec, PhysicalDag
from halo_sql.metrics import Profile
from halo_sql.optimizer.consolidate import consolidate
from halo_sql.reads import Reads

if TYPE_CHECKING:
    from halo_sql.session import Session

#: What is said of a statement whose plan is not shown.
LATER = "planned when the statements before it have run"
ALONE = "by itself"


@dataclass(frozen=True, slots=True)
class _Part:
    """Statements (numbers from 1) that are one plan, or one statement.

    dag, profile  of calls
    duck          DuckDB's plan of a statement without calls, or of one that is run in stages, in the format asked for
    """

    numbers: tuple[int, ...]
    said: str = ""
    dag: PhysicalDag | None = None
    profile: Profile | None = None
    duck: str = ""
    query: str = ""

    @property
    def title(self) -> str:
        """``Statements 1, 2, 4: one plan``"""
        listed = ", ".join(map(str, self.numbers))
        return f"Statements {listed}: one plan" if len(self.numbers) > 1 else f"Statement {listed}: {self.said}"

    def as_text(self) -> str:
        """Title and plan."""
        shown = self.duck if self.dag is None else explain.render_text(self.dag, self.profile)
        return f"{self.title}\n{shown}".rstrip("\n")

    def as_json(self) -> dict[str, object]:
        """``{"statements": [numbers], …}`` with what EXPLAIN (FORMAT json) gives."""
        told: dict[str, object] = {"statements": list(self.numbers)}
        if self.dag is not None:
            return told | explain.to_json(self.dag, self.profile, self.query)
        return told | ({"plan": json.loads(self.duck)} if self.duck else {"note": self.said})


def text(session: Session, statements: Sequence[Member], analyze: bool, form: str) -> str:
    """The plans of a batch in one of ``explain.FORMATS``; with ``analyze`` it is run, and they tell what they did.

    In JSON a list with an object for each. ProgrammingError for a drawing of several plans; the error of a statement
    that cannot be bound.
    """
    if form not in ("text", "json") and form in explain.FORMATS and not analyze:
        return _drawn(list(_planned(session, statements, "text")), form)
    parts = list(_ran(session, statements) if analyze else _planned(session, statements, form))
    if form == "json":
        return json.dumps([part.as_json() for part in parts], ensure_ascii=False, indent=2)
    return "\n\n".join(part.as_text() for part in parts) if form == "text" else _drawn(parts, form)


def _drawn(parts: Sequence[_Part], form: str) -> str:
    dags = [part for part in parts if part.dag is not None]
    if len(parts) == 1 and dags and dags[0].dag is not None:
        return explain.render(dags[0].dag, dags[0].profile, form, dags[0].query)
    raise ProgrammingError(
        f"{form} draws one plan, the batch is {len(parts)}",
        kind="Invalid Input Error",
        remedy="Take the format text or json, or a batch of queries with calls only.",
    )


def _planned(session: Session, statements: Sequence[Member], form: str) -> Iterator[_Part]:
    session.queries.end()
    with session.queries.batch():
        reading, bound = bind_all(session, statements, one_by_one(session), closely=True, starting=False)
    joint = {place: planned for place in range(reading) if (planned := statements[place].planned) is not None}
    if joint:
        texts = [planned.sql for planned in joint.values()]
        numbers = tuple(place + 1 for place in joint)
        tables = Reads(session.duck).plain_tables()
        plans = [planned.optimized for planned in joint.values()]
        dag = deep(lambda: consolidate(plans, texts, numbers, tables)).dag
        yield _Part(numbers, "one plan", dag, query=";\n".join(texts))
    for place, member in enumerate(statements):
        if place >= bound:
            yield _Part((place + 1,), LATER)
        elif place not in joint:
            yield _Part((place + 1,), ALONE, duck=_alone(session, member, form))


def _alone(session: Session, member: Member, form: str) -> str:
    if len(member.pieces) != 1:
        return ""
    try:
        return explaining.any_text(session, member.sql, False, form, member.params)
    except Error:  # a statement that has no plan
        return ""


def _ran(session: Session, statements: Sequence[Member]) -> Iterator[_Part]:
    for outcome in run(session, statements, closely=True):
        if outcome.error is not None:
            raise outcome.error
    shown: set[int] = set()
    for place, member in enumerate(statements):
        profile = member.profile
        if profile is None:
            yield _Part((place + 1,), ALONE)
        elif id(profile) not in shown:
            shown.add(id(profile))
            same = tuple(number + 1 for number, each in enumerate(statements) if each.profile is profile)
            said = "one plan" if isinstance(profile.dag.node(profile.dag.root).op, BatchExec) else ALONE
            yield _Part(same, said, profile.dag, profile)

"""Batches: statements bound together, queries run as one plan, all others in their order between them.

Queries that only read and give the same rows whenever they run stand in *runs*: as many as follow one another. A
statement that may change something (or whose order might matter) is a barrier: what stands before it has ended, what
stands after it is planned when it has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halo_sql import batch, routing
from halo_sql.batch import Outcome
from halo_sql.errors import Error, InterruptedQueryError, Span
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.split import StatementText, split
from halo_sql.reads import HARMLESS_WORDS, QUERY_WORDS, Reads, first_word
from halo_sql.result import detached

if TYPE_CHECKING:
    from halo_sql.ir.physical import PhysicalNode
    from halo_sql.metrics import Profile
    from halo_sql.planning import Planned
    from halo_sql.session import Session


_MAKES_TABLE = re.compile(r"\s*create\s+(?:or\s+replace\s+)?(?:temp(?:orary)?\s+)?table\b", re.IGNORECASE)
SCANNED_ROWS = 1_000_000  # a LIMIT over a longer scan runs by itself


@dataclass(slots=True)
class Member:
    """A statement of a batch (or a text of several, which run one after the other).

    pieces    its statements
    planned   the query, when it can run as a part of one plan
    profile   what the plan that it was a part of has done
    """

    sql: str
    params: object
    pieces: Sequence[StatementText]
    planned: Planned | None = None
    profile: Profile | None = None


def members(statements: Sequence[str | tuple[str, object]]) -> list[Member]:
    """Texts, or pairs of text and parameters, as members; ParserError for what cannot stand in a batch."""
    found = []
    for item in statements:
        sql, params = (item, None) if isinstance(item, str) else item
        batch.check_member(sql)
        found.append(Member(sql, params, split(sql)))
    return found


def run_pieces(session: Session, pieces: Sequence[StatementText], sql: str) -> list[Outcome]:
    """Run the statements of a batch that stand in the text ``sql``; errors point into it."""
    try:
        outcomes = run(session, [Member(piece.text, None, [piece]) for piece in pieces])
    except Error as problem:
        for piece in pieces:
            batch.relocate(problem, piece, sql)
        raise
    for piece, outcome in zip(pieces, outcomes, strict=True):
        if outcome.error is not None:
            batch.relocate(outcome.error, piece, sql)
    return outcomes


def run(session: Session, statements: Sequence[Member], closely: bool = False) -> list[Outcome]:
    """Run a batch: what became of each statement, in order. ``closely``: the estimates will be read.

    Raises the error of a statement that cannot be bound, with its number, before anything runs. While it runs, an error
    stays with its statement; only an interrupt ends them all.
    """
    session.queries.end()
    outcomes: list[Outcome] = []
    with session.queries.batch():
        alone = one_by_one(session)
        known, _ = bind_all(session, statements, alone, closely)
        while len(outcomes) < len(statements):
            place = len(outcomes)
            group = statements[place : max(known, place)] if not alone else []
            if not group and not alone and place:
                group = _readers(session, statements[place:], closely)
            if group:
                outcomes += _run_group(session, group, place)
            else:
                outcomes.append(_run_one(session, statements[place]))
            session.queries.check_interrupted()
    return outcomes


def one_by_one(session: Session) -> bool:
    """Whether statements run as they stand: unoptimized, or where one's error ends the transaction of all."""
    if session.settings.text("halo_optimizer") != "on":
        return True
    try:
        return session.duck.in_transaction()
    except Error:  # an error has ended it already
        return True


def bind_all(
    session: Session,
    statements: Sequence[Member],
    alone: bool = False,
    closely: bool = False,
    starting: bool = True,
) -> tuple[int, int]:
    """Bind every statement that can be bound now: all up to the first that makes or drops something, and that one.

    Returns how many at the beginning only read, and how many could be bound. The former are planned then, unless they
    run ``alone``; ``starting`` as of ``Queries.plan``. Raises the first error, with the number of its statement.
    """
    reading = 0
    reads = Reads(session.duck, session.stored.names())
    for place, member in enumerate(statements):
        session.queries.check_interrupted()
        try:
            if reading == place and not alone and _reads(session, member, reads, closely, starting):
                reading += 1
                continue
            _bind(session, member)
        except InterruptedQueryError:
            raise
        except Error as problem:
            problem.message = f"statement {place + 1} of the batch: {problem.message}"
            raise
        if any(first_word(piece.text) not in HARMLESS_WORDS for piece in member.pieces):
            return reading, place + 1  # names may mean something else behind it
    return reading, len(statements)


def _readers(session: Session, statements: Sequence[Member], closely: bool) -> Sequence[Member]:
    """The members at the beginning that only read, planned; one that cannot be bound by now is none."""
    reads = Reads(session.duck, session.stored.names())
    for place, member in enumerate(statements):
        try:
            if not _reads(session, member, reads, closely):
                return statements[:place]
        except InterruptedQueryError:
            raise
        except Error:  # it will say so when it runs
            return statements[:place]
    return statements


def _reads(session: Session, member: Member, reads: Reads, closely: bool, starting: bool = True) -> bool:
    """Whether a member is a query whose order among others means nothing; plans it when it has calls."""
    from halo_sql.session import LISTING

    if len(member.pieces) != 1 or LISTING.search(member.sql):
        return False
    if classify(member.sql) is Kind.PLAIN and not session.concerns(member.sql):
        if not reads.is_plain_read(member.sql):
            return False
        _bind(session, member)
        return True
    query = routing.query_of(session, member.sql, member.params)
    text = member.sql if query is None or query[1] is None else query[1].text
    if query is None or first_word(text) not in QUERY_WORDS or not reads.is_steady(text):
        return False
    planned = session.queries.plan(member.sql, *query, closely, starting=starting)
    member.planned = planned if _may_move(planned) else None
    return member.planned is not None


def _may_move(planned: Planned) -> bool:
    """Whether a plan changes nothing, and calls nothing that does or whose answers depend on the order of calls."""
    from halo_sql.ir.physical import DemandExec, SinkExec, calls_by

    nodes = planned.optimized.dag.nodes
    return (
        not planned.targets.acting
        and not _reads_little(nodes)
        and not any(
            isinstance(node.op, SinkExec)
            or (isinstance(node.op, DemandExec) and (node.op.write or node.op.unsteady))
            or any(call.volatile for call in calls_by(node.op))
            for node in nodes
        )
    )


def _reads_little(nodes: Sequence[PhysicalNode]) -> bool:
    """Whether a LIMIT may end a long scan early: in one plan with others, scans are read to their ends."""
    from halo_sql.ir.physical import LimitExec

    limited = any(isinstance(node.op, LimitExec) for node in nodes)
    return limited and any(not node.inputs and node.estimate.rows > SCANNED_ROWS for node in nodes)


def _bind(session: Session, member: Member) -> None:
    """Raise the error of a member that cannot be bound; what is not sure to be bindable now is not looked at."""
    makes_table = _MAKES_TABLE.match(member.sql) is not None
    if len(member.pieces) != 1 or not (makes_table or first_word(member.sql) in HARMLESS_WORDS):
        return
    if makes_table and classify(member.sql) is Kind.LLM:
        session.queries.bind(member.sql, member.params, session.stored.expand(member.sql), answers=True)
        return
    if classify(member.sql) is not Kind.PLAIN or session.concerns(member.sql):
        query = routing.query_of(session, member.sql, member.params)
        if query is not None:
            session.queries.bind(member.sql, *query, answers=True)
        return
    if first_word(member.sql) in ("(", "EXPLAIN", "COPY", "PIVOT", "UNPIVOT", "SUMMARIZE"):
        return
    prefix = "EXPLAIN "
    try:
        session.duck.rows(prefix + member.sql, member.params)
    except Error as problem:
        if session.stored.missed(problem) and session.stored.expand(member.sql) is not None:
            return
        if problem.span is not None and problem.sql == prefix + member.sql:
            problem.span = Span(problem.span.start - len(prefix), problem.span.end - len(prefix))
            problem.sql = member.sql
        raise routing.named_better(session, problem) from None


def _run_group(session: Session, group: Sequence[Member], before: int) -> list[Outcome]:
    """Run members that only read, behind ``before`` others: those for DuckDB alone in their order, then those with
    calls as one plan."""
    outcomes = {place: _run_one(session, member) for place, member in enumerate(group) if member.planned is None}
    joint = {place: member.planned for place, member in enumerate(group) if member.planned is not None}
    if joint:
        session.queries.check_interrupted()
        numbered = {before + place + 1: planned for place, planned in joint.items()}
        results, profile = session.queries.together(numbered, Reads(session.duck).plain_tables())
        for (place, planned), found in zip(joint.items(), results, strict=True):
            group[place].profile = profile
            error, result = (found, None) if isinstance(found, Error) else (None, found)
            outcomes[place] = Outcome(planned.sql, result, error)
    return [outcomes[place] for place in range(len(group))]


def _run_one(session: Session, member: Member) -> Outcome:
    """Run a member by itself."""
    before = session.last_profile()
    try:
        outcome = Outcome(member.sql, detached(session.execute(member.sql, member.params)))
        last = session.last_profile()
        member.profile = None if last is before else last
        return outcome
    except InterruptedQueryError:
        raise
    except Error as problem:
        return Outcome(member.sql, error=problem)

"""Prompts as segments, and LLM calls over columns.

Static text is known when the plan is made, holes are columns: this is what prefix sharing is planned on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from halo_sql.errors import Span
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.types import VARCHAR, SqlType
from halo_sql.quick import quick_init


@quick_init
@dataclass(frozen=True, slots=True)
class Hole:
    """A VARCHAR column whose value is inserted as it is; NULL makes the call's result NULL without a request."""

    column: ColumnId


@dataclass(frozen=True, slots=True)
class ObjectHole:
    """A JSON object of VARCHAR columns that hold JSON texts: ``{"name": value, …}``; NULL renders as null.

    The order of the fields is the optimizer's to choose.
    """

    fields: tuple[tuple[str, ColumnId], ...]


@dataclass(frozen=True, slots=True)
class ItemsHole:
    """A VARCHAR[] column: the inputs of a group, none of them NULL, one after the other with ``separator`` between.

    Only in calls of kind 'reduce'. A NULL or empty list makes the call's result NULL without a request.
    """

    column: ColumnId
    separator: str = "\n"


Segment = str | Hole | ObjectHole | ItemsHole


@quick_init
@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent: an optional system message and the user message, as segments."""

    user: tuple[Segment, ...]
    system: str | None = None

    def columns(self) -> tuple[ColumnId, ...]:
        """The columns of the holes, in order of first appearance."""
        seen: dict[ColumnId, None] = {}
        for segment in self.user:
            if isinstance(segment, Hole | ItemsHole):
                seen.setdefault(segment.column)
            elif isinstance(segment, ObjectHole):
                for _, column in segment.fields:
                    seen.setdefault(column)
        return tuple(seen)

    def remap(self, columns: Mapping[ColumnId, ColumnId]) -> Prompt:
        """The same prompt over renamed columns."""
        return replace(self, user=tuple(_remap(segment, columns) for segment in self.user))


def _remap(segment: Segment, columns: Mapping[ColumnId, ColumnId]) -> Segment:
    if isinstance(segment, Hole | ItemsHole):
        return replace(segment, column=columns.get(segment.column, segment.column))
    if isinstance(segment, ObjectHole):
        return ObjectHole(tuple((name, columns.get(column, column)) for name, column in segment.fields))
    return segment


@dataclass(frozen=True, slots=True)
class Sampling:
    """Resolved decoding options. Deterministic when temperature is 0 or a seed is given."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Whether the same request always gets the same answer."""
        return self.temperature == 0.0 or self.seed is not None


@dataclass(frozen=True, slots=True)
class LlmCall:
    """One call per row: of a model, a tool or an agent.

    output      the new column; its type is ``returns``, or STRUCT(value, error) under on_error 'struct'
    kind        'map' (answer converted to ``returns``), 'filter' (BOOLEAN by yes / no), 'classify' (one of ``labels``;
                ``returns`` VARCHAR[]: several), 'extract' (``returns`` is a STRUCT, what is absent is NULL),
                'score' (DOUBLE in 0 … 1), 'embed' (FLOAT[n]), 'tool' or 'agent'
    prompt      segments over columns of the input; of a tool or agent they make a JSON object: its arguments, or the
                row's data (what is the same for all rows of the task is then the system message)
    model       catalog name of the model; equal names in one plan are the same version; '' for a tool
    returns     type of the answer
    on_error    'fail' | 'null' | 'struct'
    cache       may be answered by and stored in the response store
    guard       BOOLEAN column: rows where it is not TRUE make no request and get NULL
    label       as shown by EXPLAIN, e.g. ``LLM_MAP('Summarise: {{ body }}')``
    fan_in      kind 'reduce': items that one call takes at most; kind 'rank': candidates that one comparison takes;
                0: as many as the plan and the model's context say
    span        where the call stands in the statement, for errors; no part of its identity
    labels      of kind 'classify': what may be answered, in order
    target      of kind 'tool' or 'agent': its name
    volatile    equal calls may differ: the tool's volatility, or that of an agent's tools
    row_form    of an agent in FROM: the value holds answer, steps, tokens and trace
    around      characters that are sent beside the prompt: what an agent is told of its tools and of how to answer
    quality     of kind 'filter': precision and recall that are wanted where answers may be approximate; 0: exact
    proxy       of kind 'filter' with a quality: the model that may decide in part; '': none is given
    steps       of an agent: the most it may take; 1 without tools
    fuse        of kinds 'map', 'classify', 'extract': may be asked in one request with others of which this is said
    instructions  with ``fuse``: the end of the system message that is the operator's and not the user's
    fused       the calls that this one asks together; their answers are the members of its own, in order
    """

    output: ColumnId
    kind: str
    prompt: Prompt
    model: str
    returns: SqlType = VARCHAR
    sampling: Sampling = field(default_factory=Sampling)
    on_error: str = "fail"
    cache: bool = True
    priority: int = 0
    guard: ColumnId | None = None
    label: str = ""
    fan_in: int = 0
    span: Span | None = field(default=None, compare=False)
    labels: tuple[str, ...] = ()
    target: str = ""
    volatile: bool = False
    row_form: bool = False
    around: int = field(default=0, compare=False)
    steps: int = field(default=0, compare=False)
    quality: float = 0.0
    proxy: str = ""
    fuse: bool = False
    instructions: str = field(default="", compare=False)
    fused: tuple[LlmCall, ...] = field(default=(), compare=False)

    @property
    def deterministic(self) -> bool:
        """Whether equal calls get equal answers."""
        return self.sampling.deterministic and not self.volatile

    @property
    def operator(self) -> str:
        """The operator's name in SQL."""
        return self.kind.upper() if self.kind in ("tool", "agent") else f"LLM_{self.kind.upper()}"

    def columns(self) -> frozenset[ColumnId]:
        """Columns of the input that the call reads."""
        read = set(self.prompt.columns())
        if self.guard is not None:
            read.add(self.guard)
        return frozenset(read)

    def same_request(self, other: LlmCall) -> bool:
        """Whether two calls over one input ask the same of the same model (guards and names aside)."""
        return (
            replace(self, output=other.output, guard=other.guard, label=other.label, priority=other.priority) == other
        )

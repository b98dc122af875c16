"""A call as written: where it stands, its prompt in pieces, its options resolved. What the binders work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halo_sql.catalog.objects import ModelDef
from halo_sql.errors import BinderError, Span
from halo_sql.grammar.group_inputs import ListText
from halo_sql.grammar.source import Source
from halo_sql.grammar.template import Star
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import SqlType


@dataclass(frozen=True, slots=True)
class HoleField:
    """One expression of a hole: its text as a source of its own, the JSON name in an object hole, nested calls."""

    source: Source
    name: str
    calls: tuple[CallSite, ...]


@dataclass(frozen=True, slots=True)
class HoleSite:
    """A hole: one field inserted as text, or an object of fields (``star``: of columns in scope).

    where  in the statement
    """

    fields: tuple[HoleField, ...]
    is_object: bool = False
    star: Star | None = None
    where: Span | None = None


@dataclass(frozen=True, slots=True)
class CallSite:
    """A call as written, its options resolved against the catalog and the settings.

    first, end  token range in its source, from the name to behind the closing bracket (LLM_REDUCE: and its clauses)
    pieces      the user message: static texts and holes
    inputs      LLM_REDUCE: the list of the group's inputs, a VARCHAR[] as text and token ranges of the source
    inner       the calls among these inputs
    separator   what stands between them
    shown       the call as DuckDB would write it; '' when that is its text
    quality, proxy  of LLM_FILTER, as in ``LlmCall``
    target, volatile, row_form, around, steps  of a TOOL or AGENT, as in ``LlmCall``
    fuse, instructions  as in ``LlmCall``
    """

    source: Source
    first: int
    end: int
    kind: str
    pieces: tuple[str | HoleSite, ...]
    model: ModelDef
    system: str | None
    returns: SqlType
    sampling: Sampling
    on_error: str
    cache: bool
    priority: int
    labels: tuple[str, ...] = ()
    fan_in: int = 0
    method: str = ""
    inputs: ListText = ()
    inner: tuple[CallSite, ...] = ()
    separator: str = "\n"
    shown: str = ""
    target: str = ""
    volatile: bool = False
    row_form: bool = False
    around: int = 0
    steps: int = 0
    quality: float = 0.0
    proxy: str = ""
    fuse: bool = False
    instructions: str = ""

    @property
    def deterministic(self) -> bool:
        """Whether equal calls get equal answers."""
        return self.sampling.deterministic and not self.volatile

    @property
    def span(self) -> Span:
        """The call in its source's text."""
        return self.source.lexed.span(self.first, self.end)

    @property
    def text(self) -> str:
        """The call as written."""
        return self.source.lexed.slice(self.first, self.end)

    def origin(self) -> Span:
        """The call in the statement."""
        return self.source.origin(self.span)

    def check_value(self) -> None:
        """BinderError for a call that gives an order and no value: it stands where a value is wanted."""
        if self.method == "tournament":
            raise BinderError(
                "method => 'tournament' gives an order and no value: LLM_RANK must be the first key of ORDER BY, alone",
                span=self.origin(),
                remedy="Leave method out, or order by it in a sub-query without aggregates, windows and DISTINCT.",
            )

    def holes(self) -> Iterator[HoleSite]:
        """Its holes, in order."""
        return (piece for piece in self.pieces if isinstance(piece, HoleSite))

    def nested(self) -> Iterator[CallSite]:
        """The calls inside its holes and inputs."""
        yield from self.inner
        yield from (call for hole in self.holes() for field in hole.fields for call in field.calls)

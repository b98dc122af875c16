"""Answers to Arrow: the form asked of the model, the check of its text, the column of the converted values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, YES_NO, Answer, Validate
from halo_sql.engines.ranking import GRADE
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.types import BOOLEAN, SqlType, json_schema_text
from halo_sql.operators.arrow_types import arrow_type
from halo_sql.operators.fused import fused_form, fused_reader
from halo_sql.operators.labels import label_form, label_reader
from halo_sql.operators.read_answer import text_reader, value_reader
from halo_sql.operators.render import excerpt
from halo_sql.operators.text_cast import TextCast
from halo_sql.operators.vectors import read_score, vector_reader, vectors


def answer_type(call: LlmCall) -> SqlType:
    """The type an answer is converted to."""
    return BOOLEAN if call.kind == "filter" else call.returns


#: Kinds whose answers are JSON values, texts among them as JSON strings; null is NULL.
VALUES = frozenset({"tool", "agent"})
_FORMS = {"filter": YES_NO, "rank": GRADE, "score": SCORE, "embed": EMBEDDING}


def answer_form(call: LlmCall) -> Answer:
    """What constrained decoding holds the model to."""
    kind = answer_type(call).kind
    if call.fused:
        return fused_form(call)
    if call.kind == "classify":
        return label_form(call)
    if call.kind in VALUES:
        return Answer("json")
    if call.kind in _FORMS:
        return _FORMS[call.kind]
    if call.kind == "extract":
        return Answer("json", schema=json_schema_text(call.returns, optional=True))
    if kind == "varchar":
        return TEXT
    if kind == "enum":
        return Answer("choice", choices=call.returns.labels)
    return Answer("json", schema=json_schema_text(call.returns))


def _reader(call: LlmCall, sql_type: SqlType, cast: TextCast) -> Callable[[str], Any]:
    if call.fused:
        return fused_reader(call, cast)
    if call.kind == "classify":
        return label_reader(call)
    if call.kind == "score":
        return read_score
    if call.kind == "embed":
        return vector_reader(sql_type)
    if call.kind in VALUES:
        return value_reader(sql_type, cast)
    return text_reader(sql_type, cast, absent_is_null=call.kind == "extract")


class Converter:
    """Checks and converts the answers of one call.

    cast       for the rare forms of a value that only DuckDB reads
    time_zone  label of TIMESTAMP WITH TIME ZONE columns
    """

    def __init__(self, call: LlmCall, cast: TextCast) -> None:
        self.call = call
        self.type = answer_type(call)
        self._read: Callable[[str], Any] = _reader(call, self.type, cast)
        self._free = self.type.kind == "varchar" and call.kind != "classify" and call.kind not in VALUES
        self._choice = answer_form(call).kind == "choice"
        self._time_zone = cast.time_zone

    def validate(self, text: str, finish: str) -> EngineError | None:
        """``protocol.Validate``: an answer cut by max_tokens is incomplete unless it is free text or a whole choice."""
        if self._free and text.isascii():
            return None
        if finish == "length" and not (self._free or self._choice):
            return self._error("truncated", text, "it was cut by max_tokens", "Give the call a higher max_tokens.")
        try:
            self._read(text)
        except (ValueError, RecursionError) as problem:
            if finish == "length" and not self._free:
                return self._error("truncated", text, "it was cut by max_tokens", "Give the call a higher max_tokens.")
            reason = str(problem) if isinstance(problem, ValueError) else "it is nested too deep"
            return self._error("invalid_output", text, reason, "")
        return None

    def _error(self, code: str, text: str, reason: str, remedy: str) -> EngineError:
        what = "result" if self.call.kind == "tool" else "answer"
        message = f'the {what} "{excerpt(text)}" does not fit {self.type.text}: {reason}'
        if self.call.kind == "embed":
            message = f"the model's vector does not fit {self.type.text}: {reason}"
            remedy = "CREATE OR REPLACE MODEL … WITH (dimensions = …) says how long its vectors are."
        return EngineError(message, code=code, remedy=remedy)

    def to_arrow(self, texts: Sequence[str | None], errors: Mapping[int, str] | None = None) -> Any:
        """One value per text (all valid), None as NULL.

        on_error 'struct': STRUCT(value, error) with ``errors`` (row -> message); a row with neither text nor error
        is NULL.
        """
        import pyarrow as pa

        kind = arrow_type(self.type, self._time_zone)
        if self._free:
            values = pa.array(texts, kind)
        elif self.call.kind == "embed":
            values = vectors(texts, kind)
        else:
            read = self._read
            values = pa.array([None if text is None else read(text) for text in texts], kind)
        if self.call.on_error != "struct":
            return values
        found = errors or {}
        messages = pa.array([found.get(row) for row in range(len(texts))], pa.string())
        mask = pa.array([text is None and row not in found for row, text in enumerate(texts)], pa.bool_())
        fields = [pa.field("value", kind), pa.field("error", pa.string())]
        return pa.StructArray.from_arrays([values, messages], fields=fields, mask=mask)

    def verdicts(self, texts: Sequence[str | None]) -> Any:
        """BOOLEAN answers without on_error's struct: what a filter keeps rows by."""
        import pyarrow as pa

        read = self._read
        return pa.array([None if text is None else read(text) for text in texts], pa.bool_())


def validator(call: LlmCall, cast: TextCast | None = None) -> Validate:
    """The check of a call's answers: (text, finish) -> None, or EngineError 'truncated' or 'invalid_output'."""
    return Converter(call, cast or TextCast()).validate


def to_arrow(call: LlmCall, texts: Sequence[str | None], cast: TextCast | None = None) -> Any:
    """A pyarrow Array of the call's output type, one value per (valid) text, None as NULL."""
    return Converter(call, cast or TextCast()).to_arrow(texts)

"""The inputs of a group as Arrow text, joined into prompts without a Python object for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

AT_ONCE_BYTES = 1 << 28  # of a batch's items, joined in one go; larger batches are joined group by group


class Items:
    """The texts of one group, in order."""

    def __init__(self, values: Any) -> None:
        import pyarrow as pa

        self._values = values if values.type == pa.string() else values.cast(pa.string())
        self.count = len(self._values)
        self._offsets: Any = ()
        if self.count:
            whole = memoryview(self._values.buffers()[1]).cast("i")
            self._offsets = whole[self._values.offset : self._values.offset + self.count + 1]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Items:
        """Items from Python strings (the answers of a level)."""
        import pyarrow as pa

        return cls(pa.array(texts, pa.string()))

    def size_bytes(self, first: int, end: int, separator: str) -> int:
        """UTF-8 length of ``join(first, end, separator)``."""
        if end <= first:
            return 0
        text: int = self._offsets[end] - self._offsets[first]
        return text + (end - first - 1) * len(separator.encode())

    def join(self, first: int, end: int, separator: str) -> str:
        """The items ``first`` to ``end`` (exclusive) with the separator between them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        one = pa.ListArray.from_arrays(pa.array([0, end - first], pa.int32()), self._values.slice(first, end - first))
        text: str = pc.binary_join(one, separator)[0].as_py()
        return text

    def last_within(self, first: int, size_bytes: float, separator: str) -> int:
        """The greatest ``end`` for which items ``first`` to ``end`` take at most ``size_bytes``; ``first`` if none."""
        low, high = first, self.count
        while low < high:
            middle = (low + high + 1) // 2
            if self.size_bytes(first, middle, separator) <= size_bytes:
                low = middle
            else:
                high = middle - 1
        return low


class ItemLists:
    """The list column of a batch of groups.

    counts  items per group; 0 for a NULL list, too
    """

    def __init__(self, column: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        if column.type.value_type != pa.string():
            column = column.cast(pa.list_(pa.string()))
        self._column = column
        self.counts: list[int] = pc.fill_null(pc.list_value_length(column), 0).to_pylist()

    def items(self, place: int) -> Items:
        """The items of one group (it has some)."""
        return Items(self._column[place].values)

    def behind(self, heads: Sequence[str | None], separator: str) -> list[str | None]:
        """Each head with its group's items behind it; None for no head or no items."""
        joined = self.joined(separator)
        found: list[str | None] = []
        for place, head in enumerate(heads):
            if head is None or not self.counts[place]:
                found.append(None)
                continue
            text = joined[place] if joined is not None else None
            found.append(head + (self.items(place).join(0, self.counts[place], separator) if text is None else text))
        return found

    def copied(self, place: int) -> Any:
        """One group's items in memory of their own."""
        import pyarrow as pa

        return pa.array(self._column[place].values.to_pylist(), pa.string())

    def joined(self, separator: str) -> list[str | None] | None:
        """Each group's items as one text; None when there is too much text to do it at once."""
        import pyarrow.compute as pc

        if self._column.nbytes > AT_ONCE_BYTES:
            return None
        texts: list[str | None] = pc.binary_join(self._column, separator).to_pylist()
        return texts

"""JSON paths: what they pick, and how a wrong one is refused."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from halo_sql.errors import CatalogError
from halo_sql.tools.json_path import JsonPath

VALUE = {
    "items": [{"name": "a", "n": 1}, {"name": "b"}, 3],
    "a b": {"": 0, "it's": 1, 'q"': 2, "*": 3},
    "0": "zero",
    "none": None,
    "x-y": 5,
    "ü": 6,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", VALUE),
        (" $ ", VALUE),
        ("$.items[0].name", "a"),
        ("$.items[-1]", 3),
        ("$.items[-3].n", 1),
        ("$.items[ 1 ]['name']", "b"),
        ("$['a b']", VALUE["a b"]),
        ("$['a b']['']", 0),
        ("$[\"a b\"]['it\\'s']", 1),
        ('$."a b"["q\\""]', 2),
        ("$['a b']['*']", 3),
        ("$.0", "zero"),
        ("$.x-y", 5),
        ("$.ü", 6),
        ("$.none", None),
        ("$.none.x", None),
        ("$.missing", None),
        ("$.missing[0].x", None),
        ("$.items[3]", None),
        ("$.items[-4]", None),
        ("$.items.name", None),
        ("$[0]", None),
        ("$.Items", None),
        ("$.items[*].name", ["a", "b"]),
        ("$.items[*]", VALUE["items"]),
        ("$['a b'].*", [0, 1, 2, 3]),
        ("$.missing[*]", []),
        ("$.items[*].*", ["a", 1, "b"]),
    ],
)
def test_what_a_path_picks(path: str, found: Any) -> None:
    assert JsonPath(path).pick(VALUE) == found


@pytest.mark.parametrize(
    ("path", "at"),
    [
        ("", 0),
        ("items", 0),
        ("$items", 1),
        ("$.", 1),
        ("$..a", 1),
        ("$.a[", 3),
        ("$.a[x]", 3),
        ("$.a['x]", 3),
        ("$.a[1:2]", 3),
        ("$.a[?(@.x)]", 3),
        ("$.a b", 3),
        ("$.a]", 3),
        ("$" + ".a" * 101, 0),
    ],
)
def test_a_wrong_path_says_where(path: str, at: int) -> None:
    with pytest.raises(CatalogError) as caught:
        JsonPath(path)
    assert caught.value.span is not None
    assert caught.value.span.start == at
    assert "$.items[0].name" in caught.value.remedy


@hypothesis.given(st.text())
def test_a_quoted_name_is_any_text(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    assert JsonPath(f"$['{quoted}']").pick({name: 1, name + "x": 2}) == 1

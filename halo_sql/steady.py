"""Whether a query may be run once more, to look at its data, without anybody noticing."""

from __future__ import annotations

import json
import re

from halo_sql.duck import Duck

LONGEST = 50_000  # characters of a query
_CALLED = re.compile(r'(\w+)"?\s*\(')


def is_steady(duck: Duck, text: str, strict: bool = False) -> bool:
    """Whether a query gives the same rows and changes nothing when it is run once more.

    Read off its bound plan, with views and macros expanded; where DuckDB cannot write the plan down,
    off the text alone (``strict``: then it is not steady).
    """
    if len(text) > LONGEST:
        return False
    names = {name.lower() for name in _CALLED.findall(text)}
    plan = json.loads(duck.rows("SELECT json_serialize_plan($1::VARCHAR)", [text])[0][0])
    if strict and plan.get("error"):
        return False
    stack = [plan]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if part.get("type") == "LOGICAL_SAMPLE":
                return False
            if part.get("expression_class") == "BOUND_FUNCTION" and not part["is_operator"]:
                name = part["qname"]["path"][-1]
                if name not in duck.built_in_functions():
                    return False  # the user's own: who knows
                names.add(name)
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return not names & duck.volatile_functions()

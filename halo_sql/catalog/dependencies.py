"""Which objects use which: an AGENT uses its MODEL and its TOOLS, agents among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from halo_sql.catalog.objects import AgentDef
from halo_sql.errors import CatalogError


def dependents(agents: Iterable[AgentDef], kind: str, name: str) -> list[AgentDef]:
    """Those of the agents that name this object. ``kind`` is a key of KINDS."""
    return [agent for agent in agents if name.lower() in _uses(agent, kind)]


def refuse(users: Sequence[AgentDef], kind: str, name: str, what: str, remedy: str) -> None:
    """CatalogError when agents use the object; ``what`` is 'drop' | 'rename'."""
    if users:
        names = ", ".join(f'agent "{agent.name}"' for agent in users)
        verb = "depends" if len(users) == 1 else "depend"
        raise CatalogError(
            f'Cannot {what} {kind} "{name}" because {names} {verb} on it', kind="Dependency Error", remedy=remedy
        )


def _uses(agent: AgentDef, kind: str) -> set[str]:
    if kind in ("tool", "agent"):
        return {tool.lower() for tool in agent.tools}
    return {agent.model.lower()} if kind == "model" and agent.model is not None else set()

"""What an agent is to the loop that runs it: a model, instructions, tools with what they may do, and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import VARCHAR, SqlType

MAX_DEPTH = 2  # agents called by agents called by an agent


@dataclass(frozen=True, slots=True)
class AgentTool:
    """A tool, or another agent, that an agent may call.

    name       as the model writes it
    schema     closed JSON schema, as text, of the object of arguments; its properties in the order of the parameters
    kind       'tool' | 'agent'
    private    its results are private data
    untrusted  its results may hold anything, also texts that read like instructions
    egress     its arguments leave the machine
    writes     it has side effects
    allowed    egress and writes are allowed with tainted values: the agent's definition says so
    fill       parameter that may be left out -> JSON text of its default; not in it: null
    key        ``tool`` or ``agent`` of the channel that serves it; '' for ``name``
    tainted_key  of an agent: key of the same agent with untrusted data, for callers that hold private or untrusted
               data themselves; '' for ``key``
    """

    name: str
    description: str
    schema: str
    kind: str = "tool"
    private: bool = False
    untrusted: bool = False
    egress: bool = False
    writes: bool = False
    allowed: bool = False
    fill: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    tainted_key: str = ""

    @property
    def keys(self) -> tuple[str, str]:
        """Keys of its channels: for callers that are not tainted, and for those that are."""
        key = self.key or self.name
        return key, self.tainted_key or key


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent with everything resolved. All limits are for one conversation.

    model             catalog name of its model
    instructions      its own system text; may be empty
    task              static text of the task, holes shown as names; '' when the task is a field of the data
    returns           type of the answer
    answer_schema     JSON schema of the answer, as text; an answer of null is NULL whatever it says
    sampling          decoding options of one step; ``max_tokens`` are those of one step
    max_steps         calls of the model
    max_tool_calls    calls of tools that are made
    max_seconds       from the first call of the model on
    max_tokens        prompt and output tokens over all calls of the model
    max_parallel      calls of one step
    max_repeats       the so-manieth call of one tool with equal arguments is not made
    max_result_chars  a longer result is cut for the model
    untrusted_rows    its data come from rows that anybody may have written
    cache             answers of the model may come from and enter the response store
    depth             levels of agents below it: 0 when none of its tools is an agent
    deterministic     equal data get equal answers (sampling and tools alike): equal requests share a conversation
    """

    name: str
    model: str
    instructions: str = ""
    task: str = ""
    returns: SqlType = VARCHAR
    answer_schema: str = '{"type":"string"}'
    tools: tuple[AgentTool, ...] = ()
    sampling: Sampling = Sampling()
    max_steps: int = 10
    max_tool_calls: int = 20
    max_seconds: float = 120.0
    max_tokens: int = 50_000
    max_parallel: int = 8
    max_repeats: int = 3
    max_result_chars: int = 8_000
    untrusted_rows: bool = False
    cache: bool = True
    depth: int = 0
    deterministic: bool = False


def nesting(agents: Mapping[str, AgentSpec], key: str) -> int:
    """Levels of agents below this one, as its tools say; more than MAX_DEPTH when it is too many or goes in circles."""
    level = [agents[key]]
    deepest = 0
    while deepest <= MAX_DEPTH:
        keys = {key for agent in level for tool in agent.tools if tool.kind == "agent" for key in tool.keys}
        if not keys:
            break
        deepest += 1
        level = [agents[key] for key in sorted(keys) if key in agents]
    return max(deepest, agents[key].depth)

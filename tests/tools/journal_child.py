"""A process that a test kills: runs a statement of calls with side effects; each appends a line to a file.

Arguments: journal, file of the actions, calls. Writes 'ended <answers> <in doubt>' when the statement came to an end.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from halo_sql.tools.journal import Journal
from halo_sql.tools.protocol import ToolRequest
from tests.tools.desk_runners import Called, a_desk, a_tool


async def main(journal_path: str, actions: str, calls: int) -> None:
    out = os.open(actions, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def act(request: ToolRequest) -> str:
        await asyncio.sleep(random.uniform(0, 0.01))
        os.write(out, f"{request.arguments}\n".encode())
        await asyncio.sleep(random.uniform(0, 0.01))
        return request.arguments

    journal = Journal(Path(journal_path))
    tool = a_tool("pay", side_effects=True, concurrency=4)
    async with a_desk(tool, Called(act), journal=journal, statement="SELECT TOOL(pay, n)") as run:
        print("begins", flush=True)
        node = await run.ask(range(calls))
        codes = node.codes()
        assert set(codes) <= {"in_doubt"}, node.got
        if not codes:
            await run.desk.finish()
    journal.close()
    print("ended", calls - codes.total(), codes.total(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

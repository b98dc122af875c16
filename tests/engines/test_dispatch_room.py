"""What a channel says of the model's context: the room for a prompt, and what a prompt takes of it."""

from __future__ import annotations

import pytest

from halo_sql.engines.protocol import GenRequest, estimate_tok
from halo_sql.ir.prompt import Sampling

from .helpers import LocalEngine, on_loop, run


@pytest.mark.parametrize(
    ("context_tok", "max_tokens", "room_tok"), [(0, 10, 0), (100, 10, 90), (100, 100, 1), (5, 256, 1)]
)
def test_the_room_is_the_context_without_the_answer(context_tok: int, max_tokens: int, room_tok: int) -> None:
    @on_loop
    async def check() -> None:
        async with run(LocalEngine(context_tok=context_tok)) as on:
            _, channel = await on.node(sampling=Sampling(max_tokens=max_tokens))
            assert channel.room_tok == room_tok

    check()


@on_loop
async def test_a_prompt_is_counted_with_its_system_message_by_the_engine() -> None:
    class Counting(LocalEngine):
        def count_tok(self, request: GenRequest) -> int:
            return 1000 * estimate_tok(request.system or "") + len(request.user)

    async with run(Counting()) as on:
        _, channel = await on.node(system="s" * 8)
        assert channel.count_tok("four") == 3004

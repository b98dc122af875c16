"""What all connections of one ``connect`` share: the event loop, the engines, the response store.

LLM work happens on one asyncio loop in a background thread. It is started with the first LLM statement, so a
session of plain SQL never pays for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from halo_sql.closing import exiting
from halo_sql.config import home
from halo_sql.engines.secret_store import SecretStore
from halo_sql.errors import InterfaceError

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from halo_sql.catalog.objects import ModelDef, ToolDef
    from halo_sql.engines.knowledge import Knowledge
    from halo_sql.engines.pool import EnginePool
    from halo_sql.engines.protocol import EngineInfo
    from halo_sql.engines.speeds import Speeds
    from halo_sql.engines.store import ResponseStore
    from halo_sql.tools.journal import Journal

T = TypeVar("T")
CLOSE_S = 15.0  # how long closing waits for engines to end


class Runtime:
    """Loop, engine pool and response stores; closed when the last session that uses it is.

    virtual_time  whether the loop's clock is a virtual one, see ``virtual_time``
    """

    def __init__(self, virtual_time: bool = False) -> None:
        self.virtual_time = virtual_time
        self.functions: dict[str, Callable[..., Any]] = {}  # lower-case model name -> the user's callable
        self.models: dict[str, ModelDef] = {}  # the models these callables are, by the same names
        self.tool_functions: dict[str, Any] = {}  # lower-case tool name -> the user's callable or MCP client
        self.tools: dict[str, ToolDef] = {}  # the tools these are, by the same names
        self.tools_version = [0]  # grows when a connection may have changed which tools there are
        self.secrets = SecretStore(lambda: home() / "secrets")
        self.infos: dict[str, EngineInfo] = {}  # model name -> what its engine said of itself
        self.stored_version = [0]  # grows when a connection changes views or macros with LLM calls
        self._lock = threading.Lock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: EnginePool | None = None
        self._stores: dict[Path, ResponseStore] = {}
        self._knowledge: dict[Path | None, Knowledge] = {}
        self._journal: Journal | None = None
        self._speeds: Speeds | None = None

    def acquire(self) -> Runtime:
        """Count a user."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """A user is gone; the last one closes everything."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self._close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        with self._lock:
            if self._loop is None:
                self._loop = _new_loop(self.virtual_time)
                self._loop.set_exception_handler(_report)
                self._thread = threading.Thread(target=self._loop.run_forever, name="halo-runtime", daemon=True)
                self._thread.start()
            return self._loop

    @property
    def pool(self) -> EnginePool:
        """The engines."""
        loop = self.loop
        with self._lock:
            if self._pool is None:
                from halo_sql.engines.pool import EnginePool

                self._pool = EnginePool(loop, self.functions, secrets=self.secrets)
            return self._pool

    def store(self, path: Path) -> ResponseStore:
        """The response store in a file."""
        with self._lock:
            known = self._stores.get(path)
            if known is None:
                from halo_sql.engines.store import ResponseStore

                known = self._stores[path] = ResponseStore(path)
            return known

    def knowledge(self, path: Path | None) -> Knowledge:
        """What was learnt: in the response store of a file; None: for as long as the process keeps this object."""
        with self._lock:
            known = self._knowledge.get(path)
            if known is None:
                from halo_sql.engines.knowledge import Knowledge

                store = None if path is None else partial(self.store, path)
                known = self._knowledge[path] = Knowledge(store, path)
            return known

    @property
    def journal(self) -> Journal:
        """The journal of calls with side effects; its file is made by the first of them."""
        with self._lock:
            if self._journal is None:
                from halo_sql.tools.journal import Journal

                self._journal = Journal(home() / "journal.sqlite")
            return self._journal

    @property
    def speeds(self) -> Speeds:
        """The calibrations."""
        with self._lock:
            if self._speeds is None:
                from halo_sql.engines.speeds import Speeds

                self._speeds = Speeds(home() / "calibrations")
            return self._speeds

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def wait(self, future: Future[T], timeout_s: float | None = None) -> T:
        """The result of what was begun; on a virtual clock time passes meanwhile. ``timeout_s`` is real."""
        if self.virtual_time:
            from halo_sql.virtual_time import VirtualTimeLoop

            assert isinstance(self.loop, VirtualTimeLoop)
            self.loop.awaited(future)
        return future.result(timeout_s)

    def now_s(self) -> float:
        """Seconds of the loop's clock (from any thread)."""
        return self.loop.time()

    def add_function(self, name: str, fn: Callable[..., Any], options: dict[str, object]) -> None:
        """A model answered by a callable of the user's; InterfaceError when it is none.

        ``options``: those of the engine, and ``engine``: 'python' (default) or 'emulated', then with its ``profile``.
        """
        from halo_sql.catalog.objects import ModelDef
        from halo_sql.engines.registry import check_model

        if not callable(fn):
            raise InterfaceError(f"create_model({name!r}, …) needs a callable, not {type(fn).__name__}")
        known = self.models.get(name.lower())
        engine, profile = options.pop("engine", "python"), options.pop("profile", None)
        if engine not in ("python", "emulated"):
            raise InterfaceError(
                f"create_model({name!r}, …) cannot make a callable a model of the engine {engine!r}",
                remedy="It takes engine='python' or engine='emulated'.",
            )
        if (engine == "emulated") != isinstance(profile, str):
            raise InterfaceError(
                f"create_model({name!r}, …) needs the profile of an emulated model, and of no other",
                remedy="It takes engine='emulated', profile='dense-14b'.",
            )
        version = 1 if known is None else known.version + 1
        model = ModelDef(name, str(profile or name), str(engine), options, version, temp=True)
        check_model(model)
        self.functions[name.lower()] = fn
        self.models[name.lower()] = model

    def add_tool(self, tool: ToolDef, target: Any) -> None:
        """A tool that is a Python object of the user's."""
        self.tool_functions[tool.name.lower()] = target
        self.tools[tool.name.lower()] = tool
        self.tools_version[0] += 1

    def _close(self) -> None:
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            if self._pool is not None:
                import asyncio

                self.wait(asyncio.run_coroutine_threadsafe(self._pool.close(), loop), CLOSE_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_S)
            if not thread.is_alive():
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()
        for store in self._stores.values():
            store.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._loop = self._thread = self._pool = None
        self._stores, self._knowledge = {}, {}


def _new_loop(virtual_time: bool) -> asyncio.AbstractEventLoop:
    if virtual_time:
        from halo_sql.virtual_time import VirtualTimeLoop

        return VirtualTimeLoop()
    import asyncio

    return asyncio.new_event_loop()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's report of an error nobody took; at the interpreter's exit nobody can."""
    if not exiting.is_set():
        loop.default_exception_handler(context)

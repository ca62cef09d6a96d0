"""The ASGI application on asyncio: Trio is a guest there, and no trace of it stays."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
from collections.abc import Awaitable, Callable, MutableMapping

import pytest
import trio
import trio.lowlevel
from asgi_calls import Exchange, modern_call, scope_of

from trio_mcp_transport import ChannelEvent, Context, Router
from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.interop.asgi import AsgiApp
from trio_mcp_transport.interop.guest_run import GuestRun, call_host

pytestmark = [pytest.mark.interop]

PATIENCE = 30


class Served:
    """An application; made in the loop that it is for."""

    def __init__(self, drain: float = 5) -> None:
        self.events: list[ChannelEvent] = []
        self.started = asyncio.Event()
        self.ended: list[str] = []
        self.release = trio.Event()
        router = Router("asgi", "1", capabilities={"tools": {}})
        router.method("tools/call")(self._call)
        self.app = AsgiApp(router, drain=drain, on_event=self.events.append)

    async def _call(self, ctx: Context) -> object:
        call = ctx.params_as(dict[str, object])
        if call["name"] == "wait":
            self.started.set()
            try:
                await ctx.progress(1)
                await self.release.wait()
            except trio.Cancelled:
                self.ended.append("cancelled")
                raise
            self.ended.append("done")
        await trio.sleep(0.001)  # Trio's clock runs as well
        return {"content": []}

    async def ask(self, name: str = "echo") -> Exchange:
        found = Exchange([modern_call(name)], asyncio.Event().wait)
        await self.app(scope_of(name), found.receive, found.send)
        return found


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it, and look that nothing of Trio is left."""

    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await main()

    asyncio.run(limited())
    assert not trio.lowlevel.in_trio_run()


def test_requests_are_answered_side_by_side() -> None:
    async def main() -> None:
        served = Served()
        async with served.app.running():
            found = await asyncio.gather(*(served.ask() for _ in range(10)))
            assert {each.status for each in found} == {200}
            assert all(each.complete for each in found)

    run(main)


def test_what_the_server_gives_runs_as_its_own_tasks() -> None:
    seen: list[object] = []
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")

    async def main() -> None:
        served = Served()
        found = Exchange([modern_call("echo")], asyncio.Event().wait)

        async def send(message: MutableMapping[str, object]) -> None:
            seen.append((asyncio.current_task() is not None, request_id.get()))
            assert not trio.lowlevel.in_trio_task()
            await asyncio.sleep(0)
            await found.send(message)

        async with served.app.running():
            request_id.set("this one")
            await served.app(scope_of("echo"), found.receive, send)
        assert found.complete

    run(main)
    assert seen == [(True, "this one")] * 2


def test_a_cancelled_request_cancels_its_handler() -> None:
    async def main() -> None:
        served = Served()
        async with served.app.running():
            task = asyncio.create_task(served.ask("wait"))
            await served.started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await served.ask()
            assert served.ended == ["cancelled"]

    run(main)


def test_a_client_that_leaves_cancels_its_handler() -> None:
    async def main() -> None:
        served = Served()
        gone = asyncio.Event()
        found = Exchange([modern_call("wait")], gone.wait)
        async with served.app.running():
            task = asyncio.create_task(served.app(scope_of("wait"), found.receive, found.send))
            await served.started.wait()
            gone.set()
            await task
            await served.ask()
            assert served.ended == ["cancelled"]

    run(main)


def test_the_end_drains() -> None:
    async def main() -> None:
        served = Served()
        async with served.app.running():
            task = asyncio.create_task(served.ask("wait"))
            await served.started.wait()
            asyncio.get_running_loop().call_later(0.05, served.release.set)
        assert served.ended == ["done"]
        assert (await task).complete

    run(main)


def test_what_is_left_after_the_drain_is_broken_off() -> None:
    async def main() -> None:
        served = Served(drain=0.05)
        async with served.app.running():
            task = asyncio.create_task(served.ask("wait"))
            await served.started.wait()
        assert served.ended == ["cancelled"]
        assert not (await task).complete

    run(main)


def test_a_cancelled_lifespan_ends_what_is_at_work() -> None:
    async def main() -> None:
        served = Served(drain=1000)

        async def live() -> None:
            async with served.app.running():
                await served.ask("wait")

        task = asyncio.create_task(live())
        await served.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert served.ended == ["cancelled"]

    run(main)


def test_a_lifespan_that_is_cancelled_while_it_drains_waits_no_longer() -> None:
    async def main() -> None:
        served = Served(drain=1000)
        leave = asyncio.Event()

        async def live() -> None:
            async with served.app.running():
                await leave.wait()

        life = asyncio.create_task(live())
        await asyncio.sleep(0.01)
        request = asyncio.create_task(served.ask("wait"))
        await served.started.wait()
        leave.set()
        await asyncio.sleep(0.01)
        assert not life.done()
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        assert served.ended == ["cancelled"]
        assert not (await request).complete

    run(main)


def test_two_applications_share_one_run_of_trio() -> None:
    async def main() -> None:
        first, second = Served(), Served()
        async with first.app.running():
            async with second.app.running():
                assert (await first.ask()).status == (await second.ask()).status == 200
            assert (await first.ask()).status == 200
            assert trio.lowlevel.in_trio_run()
        assert not trio.lowlevel.in_trio_run()
        async with second.app.running():
            assert (await second.ask()).status == 200

    run(main)


def test_another_guest_of_the_thread_is_in_the_way() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        scope = trio.CancelScope()
        ended = loop.create_future()

        async def foreign() -> None:
            with scope:
                await trio.sleep_forever()

        trio.lowlevel.start_guest_run(
            foreign,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        served = Served()
        with pytest.raises(LocalProtocolError, match="another's guest"):
            await served.app.running().__aenter__()
        scope.cancel()
        await ended
        async with served.app.running():
            assert (await served.ask()).status == 200

    run(main)


def test_calls_give_results_and_exceptions_both_ways() -> None:
    async def main() -> None:
        guest = await GuestRun.enter()
        context = contextvars.copy_context()

        async def fails(error: Exception) -> None:
            await asyncio.sleep(0)
            raise error

        async def gives(value: int) -> int:
            await asyncio.sleep(0)
            return value

        async def in_trio() -> int:
            await trio.lowlevel.checkpoint()
            with pytest.raises(ValueError, match="from asyncio"):
                await call_host(context, fails)(ValueError("from asyncio"))
            with pytest.raises(trio.ClosedResourceError):
                await call_host(context, gives_up)()
            with trio.move_on_after(0.01) as scope:
                await call_host(context, asyncio.sleep)(1000)
            assert scope.cancelled_caught
            return await call_host(context, gives)(3)

        async def gives_up() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

        async def fails_in_trio() -> None:
            await trio.lowlevel.checkpoint()
            raise ValueError("from trio")

        assert await guest.call(in_trio) == 3
        with pytest.raises(ValueError, match="from trio"):
            await guest.call(fails_in_trio)
        await guest.leave()

    run(main)


def test_calls_that_are_going_on_at_the_end_say_so() -> None:
    async def main() -> None:
        guest = await GuestRun.enter()
        call = asyncio.create_task(guest.call(trio.sleep_forever))
        await asyncio.sleep(0.01)
        await guest.leave()
        with pytest.raises(trio.ClosedResourceError):
            await call

    run(main)


def test_asyncio_is_imported_only_where_it_is_the_host() -> None:
    program = (
        "import sys, trio\n"
        "from trio_mcp_transport import Router\n"
        "from trio_mcp_transport.interop.asgi import AsgiApp\n"
        "async def main():\n"
        "    async with AsgiApp(Router()).running():\n"
        "        assert 'asyncio' not in sys.modules\n"
        "trio.run(main)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)

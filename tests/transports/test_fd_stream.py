"""Streams over one descriptor, waited for or in threads."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_mcp_transport.transports.fd_stream import FdReceiveStream, FdSendStream
from trio_mcp_transport.transports.thread_stream import ThreadReceiveStream, ThreadSendStream

pytestmark = pytest.mark.stdio


def pipe() -> tuple[FdSendStream, FdReceiveStream]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    return FdSendStream(write_end), FdReceiveStream(read_end)


async def make_pipe() -> tuple[FdSendStream, FdReceiveStream]:
    await trio.lowlevel.checkpoint()
    return pipe()


async def make_clogged_pipe() -> tuple[FdSendStream, FdReceiveStream]:
    sender, receiver = await make_pipe()
    fill(sender)
    return sender, receiver


def fill(sender: FdSendStream) -> int:
    total = 0
    while sent := sender.send_nowait(b"x" * 4096):
        total += sent
    return total


async def test_a_pipe_is_a_stream_as_trio_wants_it() -> None:
    with trio.fail_after(30):
        await trio.testing.check_one_way_stream(make_pipe, make_clogged_pipe)


async def test_waiting_for_data_is_one_checkpoint_and_so_is_finding_some() -> None:
    sender, receiver = pipe()
    async with sender, receiver:
        sender.send_nowait(b"here")
        with trio.testing.assert_checkpoints():
            assert await receiver.receive_some() == b"here"
        with trio.testing.assert_checkpoints():
            await sender.send_all(b"there")


async def test_a_cancelled_receive_has_read_nothing() -> None:
    sender, receiver = pipe()
    async with sender, receiver:
        sender.send_nowait(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await receiver.receive_some()
        assert scope.cancelled_caught
        assert await receiver.receive_some() == b"kept"


async def test_send_nowait_writes_what_fits_and_then_nothing() -> None:
    sender, receiver = pipe()
    async with sender, receiver:
        size = 1024 * 1024
        first = sender.send_nowait(b"a" * size)
        assert 0 < first < size
        assert sender.send_nowait(b"b") == 0
        received = 0
        while received < first:
            received += len(await receiver.receive_some())
        assert received == first


async def test_a_large_write_goes_out_whole_and_in_order() -> None:
    sender, receiver = pipe()
    data = os.urandom(1024 * 1024)
    received = bytearray()

    async def send() -> None:
        await sender.send_all(memoryview(data))
        await sender.aclose()

    with trio.fail_after(30):
        async with receiver, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for chunk in receiver:
                received += chunk
    assert received == data


async def test_a_gone_reader_breaks_both_ways_of_sending() -> None:
    sender, receiver = pipe()
    await receiver.aclose()
    async with sender:
        with pytest.raises(trio.BrokenResourceError):
            sender.send_nowait(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await sender.send_all(b"x")


async def test_a_closed_stream_says_so() -> None:
    sender, receiver = pipe()
    sender.close()
    sender.close()
    receiver.close()
    with pytest.raises(trio.ClosedResourceError):
        sender.send_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await sender.send_all(b"")
    with pytest.raises(trio.ClosedResourceError):
        receiver.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        receiver.detach()
    assert sender.fileno() == receiver.fileno() == -1


async def test_a_number_given_to_another_file_is_not_read_after_closing() -> None:
    # The receiver is woken by data and closed before it runs, in every other round or so:
    # Trio runs what became ready together in random order.
    outcomes = set()
    for _ in range(50):
        sender, receiver = pipe()
        number = receiver.fileno()
        outcome: list[bytes | None] = []

        async def receive(receiver: FdReceiveStream, outcome: list[bytes | None]) -> None:
            try:
                outcome.append(await receiver.receive_some())
            except trio.ClosedResourceError:
                outcome.append(None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, receiver, outcome)
            await trio.testing.wait_all_tasks_blocked()
            sender.send_nowait(b"ours")
            await trio.lowlevel.checkpoint()
            receiver.close()
            other, its_end = os.pipe()
            assert other == number
            os.write(its_end, b"secret")
        assert os.read(other, 100) == b"secret"
        outcomes.update(outcome)
        for fd in (other, its_end):
            os.close(fd)
        sender.close()
    assert outcomes == {b"ours", None}


async def test_a_finished_stream_gives_what_is_there_and_then_ends() -> None:
    sender, receiver = pipe()
    async with sender, receiver:
        sender.send_nowait(b"last words")
        receiver.finish()
        assert await receiver.receive_some() == b"last words"
        assert await receiver.receive_some() == b""
        assert not receiver.ended  # the other end is still open


async def test_a_stream_that_finishes_after_all_was_read_ends() -> None:
    sender, receiver = pipe()
    with trio.fail_after(10):
        async with sender, receiver:
            sender.send_nowait(b"last words")
            assert await receiver.receive_some() == b"last words"
            receiver.finish()
            assert await receiver.receive_some() == b""


async def test_after_a_read_that_took_everything_the_next_one_is_as_any_other() -> None:
    sender, receiver = pipe()
    with trio.fail_after(10):
        async with receiver:
            async with sender:
                sender.send_nowait(b"first")
                assert await receiver.receive_some() == b"first"
                sender.send_nowait(b"second")
                with trio.testing.assert_checkpoints():
                    assert await receiver.receive_some() == b"second"
                sender.send_nowait(b"third")
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await receiver.receive_some()
                assert scope.cancelled_caught
                assert await receiver.receive_some() == b"third"
            assert await receiver.receive_some() == b""
            assert await receiver.receive_some() == b""


async def test_finishing_wakes_a_task_that_waits() -> None:
    sender, receiver = pipe()
    fill(sender)
    broken: list[Exception] = []

    async def receive() -> None:
        while await receiver.receive_some():
            pass

    async def send() -> None:
        try:
            await sender.send_all(b"no room")
        except trio.BrokenResourceError as error:
            broken.append(error)

    with trio.fail_after(10):
        async with sender, receiver:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                sender.finish()
            assert len(broken) == 1
            await sender.wait_send_all_might_not_block()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                receiver.finish()


async def test_a_detached_stream_is_closed_and_the_new_one_goes_on_unfinished() -> None:
    sender, receiver = pipe()
    errors: list[Exception] = []

    async def receive() -> None:
        try:
            await receiver.receive_some()
        except trio.ClosedResourceError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        fresh = receiver.detach()
    assert len(errors) == 1
    async with sender, fresh:
        sender.send_nowait(b"more")
        assert await fresh.receive_some() == b"more"
        await sender.aclose()
        assert await fresh.receive_some() == b""
        assert fresh.ended


async def test_two_receivers_and_two_senders_are_refused() -> None:
    sender, receiver = pipe()
    fill(sender)
    async with sender, receiver, trio.open_nursery() as nursery:
        nursery.start_soon(sender.send_all, b"x" * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            sender.send_nowait(b"x")
        with pytest.raises(trio.BusyResourceError):
            await sender.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_a_dropped_stream_closes_its_descriptor_and_warns() -> None:
    sender, receiver = pipe()
    fd = receiver.fileno()
    with pytest.warns(ResourceWarning, match="unclosed FdReceiveStream"):
        del receiver
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    await sender.aclose()


# -- in threads -----------------------------------------------------------------------


@pytest.fixture
def blocking_pipe() -> tuple[int, int]:
    return os.pipe()


async def test_a_thread_reads_and_a_thread_writes(blocking_pipe: tuple[int, int]) -> None:
    receiver, sender = ThreadReceiveStream(blocking_pipe[0]), ThreadSendStream(blocking_pipe[1])
    with trio.fail_after(30):
        async with receiver, sender:
            assert sender.send_nowait(b"x") == 0
            await sender.send_all(b"hello")
            assert await receiver.receive_some(2) == b"he"
            assert await receiver.receive_some() == b"llo"
            await sender.wait_send_all_might_not_block()
            await sender.aclose()
            assert await receiver.receive_some() == b""
            assert receiver.ended


async def test_a_cancelled_read_in_a_thread_loses_nothing(blocking_pipe: tuple[int, int]) -> None:
    receiver = ThreadReceiveStream(blocking_pipe[0])
    with trio.fail_after(30):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receiver.receive_some)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        os.write(blocking_pipe[1], b"late")
        assert await receiver.receive_some() == b"late"
    receiver.close()
    os.close(blocking_pipe[1])


async def test_closing_wakes_the_reader_and_the_thread_closes_the_descriptor(
    blocking_pipe: tuple[int, int],
) -> None:
    read_end, write_end = blocking_pipe
    receiver = ThreadReceiveStream(read_end)
    errors: list[Exception] = []

    async def receive() -> None:
        try:
            await receiver.receive_some()
        except trio.ClosedResourceError as error:
            errors.append(error)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            receiver.close()
        assert len(errors) == 1
        os.fstat(read_end)  # still in use by the thread
        os.write(write_end, b"x")
        await closed(read_end)
    os.close(write_end)


async def test_a_detached_read_goes_on_in_the_new_stream(blocking_pipe: tuple[int, int]) -> None:
    receiver = ThreadReceiveStream(blocking_pipe[0])
    errors: list[Exception] = []

    async def receive() -> None:
        try:
            await receiver.receive_some()
        except trio.ClosedResourceError as error:
            errors.append(error)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            fresh = receiver.detach()
        assert len(errors) == 1
        os.write(blocking_pipe[1], b"x")
        assert await fresh.receive_some() == b"x"
    fresh.close()
    os.close(blocking_pipe[1])


async def test_a_cancelled_write_in_a_thread_breaks_the_stream(
    blocking_pipe: tuple[int, int],
) -> None:
    read_end, write_end = blocking_pipe
    sender = ThreadSendStream(write_end)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, b"x" * 1_000_000)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.BrokenResourceError, match="cancelled"):
            await sender.send_all(b"y")
        sender.close()
        os.close(read_end)  # the thread gets EPIPE
        await closed(write_end)


async def test_errors_of_files_break_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    receiver = ThreadReceiveStream(os.open(path, os.O_WRONLY))
    sender = ThreadSendStream(os.open(path, os.O_RDONLY))
    async with receiver, sender:
        with pytest.raises(trio.BrokenResourceError):
            await receiver.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await sender.send_all(b"x")


async def closed(fd: int) -> None:
    """Wait until a thread has closed it."""
    while True:
        try:
            os.fstat(fd)
        except OSError:
            return
        await trio.to_thread.run_sync(threading.Event().wait, 0.001)

"""What servers staple: read again when it changed, renewed in time, never expired."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

import pytest
import trio
from trio.testing import MockClock

pytest.importorskip("cryptography")

import ocsp_wire
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.security.staples import (
    AsyncStapleSource,
    FunctionStapleSource,
    StapleFiles,
    StapleSource,
)
from trio_mcp_transport.testing.certificates import CertificateAuthority, IssuedCertificate

pytestmark = [pytest.mark.security, pytest.mark.tls]

NOW = 1_900_000_000.0
DAY = 86_400.0


class Lifetime(TypedDict):
    not_before: float
    not_after: float


YEARS = Lifetime(not_before=NOW - 1000 * DAY, not_after=NOW + 1000 * DAY)
AUTHORITY = CertificateAuthority.create(**YEARS)
LEAF = AUTHORITY.issue_server("a.example", **YEARS)
OTHER = AUTHORITY.issue_server("b.example", **YEARS)


def response(
    about: IssuedCertificate = LEAF,
    status: Literal["good", "revoked"] = "good",
    *,
    begin: float = NOW,
    end: float | None = NOW + 2 * DAY,
) -> bytes:
    if status == "good":
        return AUTHORITY.ocsp_response(about, this_update=begin, next_update=end)
    answer = ocsp_wire.Answer(about.certificate, AUTHORITY.certificate, begin, end, revoked=True)
    return ocsp_wire.response(answer, responder=AUTHORITY.certificate, key=AUTHORITY.key)


def stapled(source: StapleSource, now: float = NOW, leaf: IssuedCertificate = LEAF) -> bytes:
    return source.staple_for(leaf.certificate, now)


class Events(list[ChannelEvent]):
    def names(self) -> list[str]:
        names = [event.name for event in self]
        self.clear()
        return names


@pytest.fixture
def events() -> Events:
    return Events()


# -- files ---------------------------------------------------------------------------


def write(path: Path, content: bytes, moment: float) -> None:
    path.write_bytes(content)
    os.utime(path, (moment, moment))


def test_a_file_is_stapled_to_its_certificate_alone(tmp_path: Path, events: Events) -> None:
    paths = [tmp_path / "a.ocsp", tmp_path / "b.ocsp"]
    for path, about in zip(paths, (LEAF, OTHER), strict=True):
        path.write_bytes(response(about))
    both = StapleFiles(*map(str, paths), on_event=events.append)
    assert stapled(both) == paths[0].read_bytes()
    assert stapled(both, leaf=OTHER) == paths[1].read_bytes()
    assert stapled(StapleFiles(str(paths[0]), on_event=events.append), leaf=OTHER) == b""
    assert events == []


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a.ocsp"
    old, new = response(), response(begin=NOW + 10)
    write(path, old, NOW)
    source = StapleFiles(str(path), check_interval=60, on_event=events.append)
    assert stapled(source) == old
    write(path, new, NOW + 10)
    assert stapled(source, NOW + 59) == old
    assert stapled(source, NOW + 60) == new
    assert events == []


def test_reloading_does_not_wait_for_the_interval(tmp_path: Path) -> None:
    path = tmp_path / "a.ocsp"
    write(path, response(), NOW)
    source = StapleFiles(str(path), check_interval=float("inf"))
    stapled(source)
    new = response(begin=NOW + 10)
    write(path, new, NOW + 10)
    assert stapled(source, NOW + 1e6 / 10) != new
    source.reload()
    assert stapled(source, NOW + 1e6 / 10) == new


def test_a_clock_that_was_set_back_does_not_keep_it_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ocsp"
    write(path, response(), NOW)
    source = StapleFiles(str(path))
    stapled(source, NOW + 1000)
    new = response(begin=NOW + 10)
    write(path, new, NOW + 10)
    assert stapled(source, NOW) == new


@pytest.mark.parametrize("what", ["huge", "pipe"])
def test_what_is_no_such_file_is_told_and_holds_nobody_up(
    tmp_path: Path, events: Events, what: str
) -> None:
    path = tmp_path / "a.ocsp"
    if what == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("named pipes are those of POSIX")
    if what == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(5 * 2**20)
    source = StapleFiles(str(path), on_event=events.append)
    assert stapled(source) == b""
    assert ("not a regular file" if what == "pipe" else "over 4194304") in events[0].message
    assert events.names() == ["staple.failed"]


def test_a_file_that_is_not_there_yet_is_told_once(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a.ocsp"
    source = StapleFiles(str(path), on_event=events.append)
    for minute in range(3):
        assert stapled(source, NOW + 60 * minute) == b""
    assert [event.message for event in events] == [
        f"no new OCSP staple from {path}: [Errno 2] No such file or directory: '{path}'"
    ]
    path.write_bytes(response())
    assert stapled(source, NOW + 180) == path.read_bytes()
    path.unlink()
    assert stapled(source, NOW + 240) != b""
    assert events.names() == ["staple.failed", "staple.failed"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda: b"-----BEGIN", "this is no OCSP response (DER is needed)"),
        (lambda: response(begin=NOW - 2 * DAY, end=NOW - 1), "the OCSP response has expired"),
        (
            lambda: ocsp.OCSPResponseBuilder.build_unsuccessful(
                ocsp.OCSPResponseStatus.TRY_LATER
            ).public_bytes(Encoding.DER),
            "the OCSP response has no answer, but 'try later'",
        ),
    ],
)
def test_what_is_of_no_use_is_told_and_the_old_one_kept(
    tmp_path: Path, events: Events, content: Callable[[], bytes], problem: str
) -> None:
    path = tmp_path / "a.ocsp"
    old = response()
    write(path, old, NOW)
    source = StapleFiles(str(path), on_event=events.append)
    assert stapled(source) == old
    write(path, content(), NOW + 10)
    for minute in range(1, 4):
        assert stapled(source, NOW + 60 * minute) == old
    (event,) = events
    assert event.name == "staple.failed"
    assert problem in event.message
    assert str(path) in event.message


def test_an_expired_one_is_never_stapled(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a.ocsp"
    path.write_bytes(response(end=NOW + 100))
    source = StapleFiles(str(path), on_event=events.append)
    assert stapled(source, NOW + 100) != b""
    assert events == []
    assert stapled(source, NOW + 101) == b""
    assert stapled(source, NOW + 102) == b""
    assert events.names() == ["staple.expired"]


def test_one_without_an_end_is_stapled_as_long_as_clients_take_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ocsp"
    path.write_bytes(response(end=None))
    source = StapleFiles(str(path))
    assert stapled(source, NOW + 300) != b""
    assert stapled(source, NOW + 301) == b""


def test_a_response_for_several_certificates_ends_with_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.ocsp"
    answers = [
        ocsp_wire.Answer(each.certificate, AUTHORITY.certificate, NOW, NOW + end)
        for each, end in ((LEAF, 200), (OTHER, 100))
    ]
    path.write_bytes(
        ocsp_wire.response(*answers, responder=AUTHORITY.certificate, key=AUTHORITY.key)
    )
    source = StapleFiles(str(path))
    for leaf in (LEAF, OTHER):
        assert stapled(source, NOW + 100, leaf)
    for leaf in (LEAF, OTHER):
        assert stapled(source, NOW + 101, leaf) == b""


def test_that_it_was_revoked_is_stapled_and_told(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a.ocsp"
    path.write_bytes(response(status="revoked"))
    source = StapleFiles(str(path), on_event=events.append)
    assert stapled(source) == path.read_bytes()
    assert events.names() == ["staple.revoked"]


# -- a function ----------------------------------------------------------------------


def test_a_function_is_called_half_way_to_the_end(events: Events) -> None:
    times: list[float] = []
    now = NOW

    def fetch() -> bytes:
        times.append(now)
        return response(begin=now, end=now + 2 * DAY)

    source = FunctionStapleSource(fetch, on_event=events.append)
    for hour in range(100):
        now = NOW + hour * 3600
        assert stapled(source, now)
    assert [(each - NOW) / 3600 for each in times] == [0, 24, 48, 72, 96]
    assert events == []


def test_a_clock_that_was_ahead_does_not_keep_a_function_from_being_called() -> None:
    moments: list[float] = []

    def fetch() -> bytes:
        return response(begin=moments[-1], end=moments[-1] + 2 * DAY)

    source = FunctionStapleSource(fetch)
    for now in (NOW + 300 * DAY, NOW):
        moments.append(now)
        assert stapled(source, now)


def test_a_function_that_fails_is_called_again_later(events: Events) -> None:
    answers: list[bytes | Exception] = [OSError("no route"), b"garbage", response()]
    calls = 0

    def fetch() -> bytes:
        nonlocal calls
        calls += 1
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = FunctionStapleSource(fetch, retry_interval=10, on_event=events.append)
    for second in range(20):
        assert stapled(source, NOW + second) == b""
    assert calls == 2
    assert "no route" in events[0].message
    assert isinstance(events[0].error, OSError)
    assert events.names() == ["staple.failed", "staple.failed"]
    assert stapled(source, NOW + 20)


def test_one_that_is_old_already_is_not_asked_for_all_the_time(events: Events) -> None:
    calls = 0

    def fetch() -> bytes:
        nonlocal calls
        calls += 1
        return response(begin=NOW - DAY, end=NOW + 1000)

    source = FunctionStapleSource(fetch, retry_interval=60, on_event=events.append)
    for second in range(121):
        assert stapled(source, NOW + second)
    assert calls == 3


# -- an async function ---------------------------------------------------------------


def clock() -> float:
    return NOW + trio.current_time()


async def test_a_task_renews_it_half_way_to_the_end(autojump_clock: MockClock) -> None:
    times: list[float] = []

    async def fetch() -> bytes:
        times.append(trio.current_time())
        await trio.sleep(5)
        return response(begin=clock(), end=clock() + 2 * DAY)

    source = AsyncStapleSource(fetch, clock=clock)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        assert trio.current_time() == begin + 5
        assert stapled(source, clock())
        await trio.sleep(3 * DAY)
        nursery.cancel_scope.cancel()
    assert [each - begin for each in times] == [0, DAY + 5, 2 * DAY + 10]


async def test_a_task_starts_without_a_staple_and_tries_again(
    autojump_clock: MockClock, events: Events
) -> None:
    async def fetch() -> bytes:
        await trio.lowlevel.checkpoint()
        if clock() < begin + 100:
            raise OSError("no route")
        return response(begin=clock(), end=clock() + DAY)

    source = AsyncStapleSource(fetch, retry_interval=60, clock=clock, on_event=events.append)
    begin = clock()
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        assert stapled(source, clock()) == b""
        await trio.sleep(119)
        assert events.names() == ["staple.failed", "staple.failed"]
        assert stapled(source, clock()) == b""
        await trio.sleep(2)
        assert stapled(source, clock())
        nursery.cancel_scope.cancel()
    assert events == []


async def test_the_last_one_serves_while_the_function_is_slow(autojump_clock: MockClock) -> None:
    calls = 0

    async def fetch() -> bytes:
        nonlocal calls
        calls += 1
        if calls > 1:
            await trio.sleep_forever()
        return response(begin=clock(), end=clock() + DAY)

    source = AsyncStapleSource(fetch, fetch_timeout=math.inf, clock=clock, on_event=lambda _: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        await trio.sleep(0.9 * DAY)
        assert calls == 2
        assert stapled(source, clock())
        await trio.sleep(0.2 * DAY)
        assert stapled(source, clock()) == b""
        nursery.cancel_scope.cancel()


async def test_a_clock_that_is_set_is_noticed_within_an_hour(autojump_clock: MockClock) -> None:
    """Or a machine that slept, whose timers did as well."""
    calls, ahead = 0, 0.0

    def wall_clock() -> float:
        return clock() + ahead

    async def fetch() -> bytes:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1
        return response(begin=wall_clock(), end=wall_clock() + 20 * DAY)

    source = AsyncStapleSource(fetch, clock=wall_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        ahead = 11 * DAY
        await trio.sleep(3601)
        assert calls == 2
        nursery.cancel_scope.cancel()


async def test_a_function_that_hangs_holds_nobody_up(
    autojump_clock: MockClock, events: Events
) -> None:
    source = AsyncStapleSource(trio.sleep_forever, clock=clock, on_event=events.append)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        assert trio.current_time() == begin + 30
        assert "nothing came of it within 30 s" in events[0].message
        assert events.names() == ["staple.failed"]
        nursery.cancel_scope.cancel()


async def test_a_clock_that_was_ahead_does_not_keep_the_task_from_asking(
    autojump_clock: MockClock,
) -> None:
    calls, ahead = 0, 300 * DAY

    def wall_clock() -> float:
        return clock() + ahead

    async def fetch() -> bytes:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1
        return response(begin=wall_clock(), end=wall_clock() + 2 * DAY)

    source = AsyncStapleSource(fetch, clock=wall_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        ahead = 0.0
        await trio.sleep(3601)
        assert calls == 2
        assert stapled(source, wall_clock())
        nursery.cancel_scope.cancel()


async def test_what_is_no_error_of_the_function_ends_the_task() -> None:
    async def fetch() -> bytes:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await AsyncStapleSource(fetch).run()

"""HTTP requests through an `httpx.AsyncClient` or `httpx2.AsyncClient` of the user's own.

Used by `connect` for ``client=``. The user's client brings what this package's connections
do not have: TLS of the user's choice, proxies, HTTP/2, authentication flows. It stays the
user's: nothing of it is changed, and it is never closed here. Neither library is imported;
what the client is made of tells which exceptions it raises.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import ModuleType, TracebackType
from typing import Protocol, cast

import trio

from ..abc import ConnectionLost
from ..errors import ConfigurationError, ConnectFailed, RemoteProtocolError, RequestTimeout
from ..limits import MAX_CANCELLED_CLOSE_SECONDS
from ..sansio.headers import NO_HEADERS, Headers
from .http_sender import AsyncHttpClient, HttpResponse, HttpSender

__all__ = ["HttpxSender"]

# Compressed answers would have to be unpacked under a limit that the library has not.
_IDENTITY = Headers([("Accept-Encoding", "identity")])


class _RawHeaders(Protocol):
    @property
    def raw(self) -> list[tuple[bytes, bytes]]: ...


class _Timeout(Protocol):
    @property
    def connect(self) -> float | None: ...
    @property
    def write(self) -> float | None: ...
    @property
    def pool(self) -> float | None: ...


class _Response(Protocol):
    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> _RawHeaders: ...
    @property
    def is_stream_consumed(self) -> bool: ...
    @property
    def content(self) -> bytes: ...
    def aiter_raw(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class _Client(Protocol):
    """What an `httpx.AsyncClient` and an `httpx2.AsyncClient` have in common here."""

    @property
    def timeout(self) -> _Timeout: ...

    def build_request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: list[tuple[bytes, bytes]],
        extensions: dict[str, object],
    ) -> object: ...

    async def send(self, request: object, *, stream: bool, follow_redirects: bool) -> _Response: ...


class HttpxSender(HttpSender):
    """Sends HTTP requests through a client of the user's own.

    Args:
        client: An open `httpx.AsyncClient` or `httpx2.AsyncClient`.

    Raises:
        ConfigurationError: It is neither.
    """

    def __init__(self, client: AsyncHttpClient) -> None:
        self._client = cast(_Client, client)
        self._library = _library_of(client)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        head_timeout: float = math.inf,
        on_written: Callable[[], object] | None = None,
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request. As `HttpSender.request`; the timeouts are the client's own."""
        return _RoundTrip(self, method, url, headers, body, head_timeout, on_written)

    def close(self) -> None:
        """Do nothing: the client is the user's."""

    async def send(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        on_written: Callable[[], object] | None,
    ) -> _Response:
        """Send a request and wait for the head of its response."""

        async def trace(name: str, info: object) -> None:  # ruff: ignore[unused-async] (as it must be)
            if on_written is not None and name.endswith("send_request_body.complete"):
                on_written()

        client, timeout = self._client, self._client.timeout
        extensions: dict[str, object] = {
            "trace": trace,
            "timeout": {
                "connect": timeout.connect,
                "write": timeout.write,
                "pool": timeout.pool,
                "read": None,
            },
        }
        try:
            request = client.build_request(
                method,
                url,
                content=body or None,
                headers=_IDENTITY.merged(headers).raw,
                extensions=extensions,
            )
            return await client.send(request, stream=True, follow_redirects=False)
        except Exception as error:
            raise self.translate(error, "before the response") from error

    def translate(self, error: Exception, when: str) -> Exception:
        """What this package raises in place of an exception of the library."""
        library = self._library
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        if isinstance(error, (library.ConnectError, library.ConnectTimeout, library.PoolTimeout)):
            return ConnectFailed(f"cannot connect: {text}")
        if isinstance(error, library.TimeoutException):
            return RequestTimeout(f"{when}: {text}")
        if isinstance(error, (library.InvalidURL, library.UnsupportedProtocol)):
            return ConfigurationError(f"the URL is wrong: {text}")
        if isinstance(error, (library.DecodingError, library.LocalProtocolError)):
            return RemoteProtocolError(f"{when}: {text}")
        if isinstance(error, library.TransportError):
            return ConnectionLost(f"the connection ended {when}: {text}")
        if isinstance(error, RuntimeError):
            return trio.ClosedResourceError(f"the client cannot be used: {error}")
        return error


class _RoundTrip(AbstractAsyncContextManager[HttpResponse]):
    """One request, for the length of an `async with` block."""

    def __init__(
        self,
        sender: HttpxSender,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        head_timeout: float,
        on_written: Callable[[], object] | None,
    ) -> None:
        self._sender = sender
        self._arguments = (method, url, headers, body, on_written)
        self._head_timeout = head_timeout
        self._response: _Response | None = None
        self._given: _HttpxResponse | None = None

    async def __aenter__(self) -> HttpResponse:
        with trio.move_on_after(self._head_timeout):
            self._response = await self._sender.send(*self._arguments)
        if self._response is None:
            raise RequestTimeout(f"the response did not begin within {self._head_timeout:g} s")
        self._given = _HttpxResponse(self._sender, self._response)
        return self._given

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._response is not None
        assert self._given is not None
        with trio.move_on_after(MAX_CANCELLED_CLOSE_SECONDS, shield=True):
            await self._given.unwind()
            await self._response.aclose()


class _HttpxResponse(HttpResponse):
    """A response of httpx."""

    def __init__(self, sender: HttpxSender, response: _Response) -> None:
        self._sender = sender
        # One that was read already, by a hook of the user's, has no stream any more.
        is_read = response.is_stream_consumed
        self._chunks = _lone(response.content) if is_read else response.aiter_raw()
        self._ended = False
        self.status = response.status_code
        self.headers = Headers.from_parser([
            (name, value.strip(b" \t")) for name, value in response.headers.raw
        ])

    async def receive_some(self) -> bytes:
        """The next bytes of the body; see `HttpResponse.receive_some`."""
        await trio.lowlevel.checkpoint()
        while not self._ended:
            try:
                chunk = await anext(self._chunks, b"")
                if not chunk:
                    self._ended = True
            except Exception as error:
                self._ended = True
                raise self._sender.translate(error, "in the middle of the response") from error
            return chunk
        return b""

    async def unwind(self) -> None:
        """End the library's generators, which the garbage collector would find otherwise.

        They lie in each other, and only what is raised in the innermost ends them all.
        """
        if self._ended:
            return
        self._ended = True
        with trio.CancelScope() as scope:
            scope.cancel()
            with contextlib.suppress(Exception):  # nobody reads on
                async for _ in self._chunks:
                    pass


async def _lone(content: bytes) -> AsyncIterator[bytes]:
    await trio.lowlevel.checkpoint()
    if content:
        yield content


def _library_of(client: object) -> ModuleType:
    for kind in type(client).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in {"httpx", "httpx2"} and kind.__name__ == "AsyncClient":
            return sys.modules[root]
    raise ConfigurationError(
        "client must be an httpx.AsyncClient, an httpx2.AsyncClient or an HttpSender,"
        f" not {type(client).__name__}"
    )

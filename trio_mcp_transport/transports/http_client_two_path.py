"""The wire of two paths, seen by the client: POST a request, get its answer as JSON.

Used by `HttpClientChannel` for endpoints with `rpc_path` and `notify_path`. The server may
close the connection after each response.
"""

from __future__ import annotations

from ..sansio.headers import Headers
from ..sansio.mcp_http.two_path_client import TwoPathClient
from .http_client_line import Exchange
from .http_client_port import Port, Refused
from .http_client_wire import Wire

__all__ = ["TwoPathWire"]


class TwoPathWire(Wire):
    """The wire of two paths.

    Args:
        port: The channel's side.
        headers: Fields of every request.
        urls: Of requests and of notifications.
    """

    def __init__(self, port: Port, headers: Headers, urls: tuple[str, str]) -> None:
        super().__init__(port)
        self._client = TwoPathClient(*urls, headers)

    def abort(self) -> None:
        """Nothing runs beside the exchanges."""

    def stop_listening(self) -> None:
        """Nothing is listened to."""

    async def carry(self, exchange: Exchange) -> None:
        """Send one message; see `Wire.carry`."""
        url = self._client.url_for(exchange.message)
        try:
            await self._post(url, exchange, self._client.headers)
        except Refused as refused:
            self._settle_refused(exchange, refused)

"""Two TLS sessions whose machines talk to each other in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from trio_mcp_transport import TlsFacts, TlsHandshakeFailed, TlsSettings
from trio_mcp_transport.sansio import NEED_DATA
from trio_mcp_transport.sansio.tls import TlsData, TlsHandshakeCompleted
from trio_mcp_transport.security import TlsClient, TlsServer, TlsSession


@dataclass
class Side:
    """A session, with what came of it."""

    session: TlsSession
    facts: TlsFacts | None = None
    error: Exception | None = None
    received: list[bytes] = field(default_factory=list)

    def run(self) -> bytes:
        """Take every event there is; return what is to be written."""
        machine = self.session.machine
        output = b""
        while self.error is None:
            try:
                event = machine.next_event()
                output += machine.bytes_to_send()
                if event is NEED_DATA:
                    break
                if isinstance(event, TlsHandshakeCompleted):
                    self.facts = self.session.finish()
                elif isinstance(event, TlsData):
                    if not self.received:
                        self.session.remember()
                    self.received.append(event.data)
                else:
                    break
            except TlsHandshakeFailed as error:
                self.error = self.session.explain(error)
            except Exception as error:
                self.error = error
        return output + machine.bytes_to_send()


@dataclass
class Pair:
    """A client's and a server's side after their handshake."""

    client: Side
    server: Side

    @property
    def client_facts(self) -> TlsFacts:
        assert self.client.facts is not None, self.client.error
        return self.client.facts

    @property
    def server_facts(self) -> TlsFacts:
        assert self.server.facts is not None, self.server.error
        return self.server.facts

    def pump(self) -> None:
        """Carry bytes to and fro until both are silent."""
        while True:
            from_client = self.client.run()
            if from_client and self.server.error is None:
                self.server.session.machine.receive_data(from_client)
            from_server = self.server.run()
            if from_server and self.client.error is None:
                self.client.session.machine.receive_data(from_server)
            if not from_client and not from_server:
                return

    def exchange(self) -> None:
        """Let each side send something, so that sessions get to be known."""
        self.server.session.machine.receive_data(self.client.session.machine.send_data(b"hello"))
        self.client.session.machine.receive_data(self.server.session.machine.send_data(b"there"))
        self.pump()
        assert self.server.received == [b"hello"]
        assert self.client.received == [b"there"]

    def close(self) -> None:
        """Let both say goodbye: OpenSSL resumes nothing of a connection that broke off."""
        for side in (self.client, self.server):
            side.session.machine.send_close()


def shake_hands(client: TlsSession, server: TlsSession) -> Pair:
    """Let two sessions have their handshake, whatever comes of it."""
    pair = Pair(Side(client), Side(server))
    pair.pump()
    return pair


def connect(client: TlsSettings, server: TlsSettings, host: str = "localhost") -> Pair:
    """Let a new client and a new server have a handshake."""
    return shake_hands(TlsClient(client).begin(host), TlsServer(server).begin())

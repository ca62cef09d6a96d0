"""Pings a TLS server from a program without event loop: python tls_blocking.py HOST PORT CA_FILE"""

import socket
import sys

from trio_mcp_transport import Request, TlsHandshakeFailed, TlsSettings
from trio_mcp_transport.sansio import NEED_DATA, MessageMachine, make_framer
from trio_mcp_transport.sansio.tls import TlsData, TlsEvent
from trio_mcp_transport.security import TlsClient, TlsSession


def next_event(session: TlsSession, sock: socket.socket) -> TlsEvent:
    tls = session.machine
    while True:
        try:
            event = tls.next_event()
        except TlsHandshakeFailed as error:
            raise session.explain(error) from None
        finally:
            sock.sendall(tls.bytes_to_send())  # also the alert that says what was wrong
        if event is not NEED_DATA:
            return event
        if data := sock.recv(65536):
            tls.receive_data(data)
        else:
            tls.receive_eof()


def main(host: str, port: str, ca_file: str) -> None:
    session = TlsClient(TlsSettings(ca_file=ca_file)).begin(host)
    messages = MessageMachine(make_framer("newline"))
    with socket.create_connection((host, int(port))) as sock:
        next_event(session, sock)
        print(session.finish().version)
        sock.sendall(session.machine.send_data(messages.send(Request(1, "ping"))))
        while (message := messages.next_event()) is NEED_DATA:
            event = next_event(session, sock)
            if not isinstance(event, TlsData):
                raise SystemExit("the server left")
            messages.receive_data(event.data)
        print(message)
        sock.sendall(session.machine.send_close())


if __name__ == "__main__":
    main(*sys.argv[1:])

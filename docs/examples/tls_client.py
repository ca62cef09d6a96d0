"""Asks who it is, and looks at the server's certificate: python tls_client.py DIRECTORY URL"""

import sys
import time

import msgspec
import trio

from trio_mcp_transport import TlsSettings, open_peer
from trio_mcp_transport.security import TlsClient


class Answer(msgspec.Struct):
    principal: str | None


async def main(directory: str, url: str) -> None:
    tls = TlsClient(
        TlsSettings(
            ca_file=f"{directory}/ca.pem",
            cert_file=f"{directory}/client.pem",
            key_file=f"{directory}/client.key",
        )
    )
    async with open_peer(url, tls=tls) as peer:
        answer = await peer.request("who", result_type=Answer, timeout=10)
        print(answer.principal)
        facts = peer.channel.context.tls
        assert facts is not None
        assert facts.peer_certificate is not None
        days = facts.peer_certificate.expires_in(time.time()) / 86_400
        print(f"{facts.version}; the server's certificate ends in {days:.0f} days")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])

"""Requests that no server may take, and how each is to be answered.

Used on the machine, cut everywhere, and on the server, over sockets.
"""

from __future__ import annotations

from trio_mcp_transport.sansio.http1_body import MAX_CHUNK_LINE

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /mcp?a=b HTTP/1.1\r\nHost: example.com:80\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def with_line(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"


#: What is wrong; the bytes, with what stands behind them; the status.
REFUSED: dict[str, tuple[bytes, int]] = {
    # What is no HTTP/1.1 at all.
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "a JSON line": (b'{"jsonrpc":"2.0"}\n', 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.2": (GET.replace(b"1.1", b"1.2"), 505),
    "HTTP/3.0": (GET.replace(b"1.1", b"3.0"), 505),
    "HTTP/1.10": (GET.replace(b"1.1", b"1.10"), 400),
    "http/1.1": (GET.replace(b"HTTP", b"http"), 400),
    "a method in lower case": (GET.replace(b"GET", b"get"), 400),
    "a method in mixed case": (GET.replace(b"GET", b"Get"), 400),
    "a method that is no token": (GET.replace(b"GET", b"G(T"), 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    "two empty lines before": (b"\r\n\r\n" + GET, 400),
    "a CR before": (b"\r" + GET, 400),
    "a LF before": (b"\n" + GET, 400),
    "a space before": (b" " + GET, 400),
    # Lines.
    "two spaces": (GET.replace(b"GET ", b"GET  "), 400),
    "a space behind": (GET.replace(b"1.1\r\n", b"1.1 \r\n"), 400),
    "bare LF after the request line": (GET.replace(b"1.1\r\n", b"1.1\n"), 400),
    "bare LF after a field": (with_line(b"A: b\nC: d"), 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare LF alone": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare CR in a value": (with_line(b"A: b\rC: d"), 400),
    "bare CR in the request line": (GET.replace(b"/", b"/\r", 1), 400),
    "obs-fold": (with_line(b"A: b\r\n c"), 400),
    "obs-fold with a tab": (with_line(b"A: b\r\n\tc"), 400),
    "white space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a space before the colon": (with_line(b"A : b"), 400),
    "no colon": (with_line(b"A"), 400),
    "no name": (with_line(b": a"), 400),
    "NUL": (with_line(b"A: \0"), 400),
    "a control character": (with_line(b"A: \x01"), 400),
    "DEL": (with_line(b"A: \x7f"), 400),
    # Targets and hosts.
    "a relative target": (GET.replace(b"/", b"a", 1), 400),
    "a fragment": (GET.replace(b"/", b"/#a", 1), 400),
    "asterisk for GET": (GET.replace(b"/", b"*", 1), 400),
    "another scheme": (GET.replace(b"/", b"file:///a", 1), 400),
    "another host in absolute-form": (GET.replace(b"/", b"http://b/", 1), 400),
    "a byte beyond ASCII in the target": (GET.replace(b"/", b"/\xe9", 1), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (with_line(b"Host: a"), 400),
    "two Hosts in HTTP/1.0": (with_line(b"Host: a").replace(b"1.1", b"1.0"), 400),
    "an empty Host": (GET.replace(b" a", b""), 400),
    "a Host with a path": (GET.replace(b" a", b" a/b"), 400),
    "a Host with a user": (GET.replace(b" a", b" b@a"), 400),
    "a Host with spaces": (GET.replace(b" a", b" a b"), 400),
    "two hosts in one Host": (GET.replace(b" a", b" a, b@c"), 400),
    "an IPv6 Host without brackets": (GET.replace(b" a", b" ::1"), 400),
    # Lengths.
    "two Content-Lengths": (with_line(b"Content-Length: 0\r\nContent-Length: 0"), 400),
    "two that differ": (with_line(b"Content-Length: 0\r\ncontent-length: 1"), 400),
    "two in one": (with_line(b"Content-Length: 5, 5"), 400),
    "a sign": (with_line(b"Content-Length: +5"), 400),
    "a negative length": (with_line(b"Content-Length: -5"), 400),
    "a hexadecimal length": (with_line(b"Content-Length: 0x5"), 400),
    "an underscore": (with_line(b"Content-Length: 1_0"), 400),
    "an empty length": (with_line(b"Content-Length:"), 400),
    "a length of 5000 digits": (with_line(b"Content-Length: " + b"1" * 5000), 400),
    "length and chunks": (with_line(b"Content-Length: 5\r\nTransfer-Encoding: chunked"), 400),
    "chunks and length": (with_line(b"Transfer-Encoding: chunked\r\nContent-Length: 5"), 400),
    "two codings": (with_line(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
    "gzip": (with_line(b"Transfer-Encoding: gzip, chunked"), 501),
    "identity": (with_line(b"Transfer-Encoding: identity"), 501),
    "chunked with a parameter": (with_line(b"Transfer-Encoding: chunked;a=b"), 501),
    "chunked twice": (with_line(b"Transfer-Encoding: chunked, chunked"), 501),
    "chunked with a control character": (with_line(b"Transfer-Encoding: \x0bchunked"), 400),
    "no coding": (with_line(b"Transfer-Encoding:"), 501),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0"), 400),
    "another expectation": (with_line(b"Expect: miracles"), 417),
}

#: What is wrong; the chunks; what came before the fault; the status.
REFUSED_BODIES: dict[str, tuple[bytes, bytes, int]] = {
    "no size": (b"\r\nhi\r\n0\r\n\r\n", b"", 400),
    "no number": (b"x\r\nhi\r\n", b"", 400),
    "a negative size": (b"-1\r\n", b"", 400),
    "a plus sign": (b"+2\r\nhi\r\n", b"", 400),
    "0x": (b"0x2\r\nhi\r\n", b"", 400),
    "an underscore": (b"1_0\r\n", b"", 400),
    "a space before the size": (b" 2\r\nhi\r\n", b"", 400),
    "a space behind the size": (b"2 \r\nhi\r\n", b"", 400),
    "a size of 16 digits": (b"0000000000000002\r\nhi\r\n", b"", 400),
    "a size ended by bare LF": (b"2\nhi\r\n", b"", 400),
    "an extension ended by bare LF": (b"2;a\nhi\r\n0\r\n\r\n", b"", 400),
    "bare CR in an extension": (b"2;a\rb\r\nhi\r\n0\r\n\r\n", b"", 400),
    "a long extension": (b"2;" + b"a" * MAX_CHUNK_LINE + b"\r\nhi\r\n", b"", 400),
    "a long extension without end": (b"2;" + b"a" * MAX_CHUNK_LINE, b"", 400),
    "two wrong bytes after a chunk": (b"2\r\nhiXX0\r\n\r\n", b"hi", 400),
    "a wrong second byte after a chunk": (b"2\r\nhi\rX0\r\n\r\n", b"hi", 400),
    "LF LF after a chunk": (b"2\r\nhi\n\n0\r\n\r\n", b"hi", 400),
    "a chunk that is longer than it says": (b"2\r\nhi!\r\n0\r\n\r\n", b"hi", 400),
    "a fault in the second chunk": (b"2\r\nhi\r\nx\r\n", b"hi", 400),
    "no colon in a trailer": (b"0\r\na\r\n\r\n", b"", 400),
    "obs-fold in a trailer": (b"0\r\na: b\r\n c\r\n\r\n", b"", 400),
    "bare LF in a trailer": (b"0\r\na: b\n\r\n", b"", 400),
    "bare LF at the end": (b"0\r\n\n", b"", 400),
    "a trailer that is too long": (b"0\r\na: " + b"b" * 200 + b"\r\n\r\n", b"", 400),
    "trailers that are too large": (b"0\r\n" + b"a: bbbbbbbbbbbbbbb\r\n" * 6, b"", 431),
    "too many trailers": (b"0\r\n" + b"a:\r\n" * 6 + b"\r\n", b"", 431),
    "a body that ends in a size": (b"2", b"", 400),
    "a body that ends in a chunk": (b"3\r\nhi", b"hi", 400),
    "a body that ends behind a chunk": (b"2\r\nhi", b"hi", 400),
    "a body that ends in a line end": (b"2\r\nhi\r", b"hi", 400),
    "a body that ends between chunks": (b"2\r\nhi\r\n", b"hi", 400),
    "a body that ends in the trailers": (b"2\r\nhi\r\n0\r\na", b"hi", 400),
    "a large chunk": (b"15\r\n" + b"a" * 21 + b"\r\n0\r\n\r\n", b"", 413),
    "too many chunks": (b"a\r\n0123456789\r\n" * 3, b"0123456789" * 2, 413),
    "an enormous chunk": (b"fffffffffffffff\r\n", b"", 413),
}

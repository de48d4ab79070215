"""Requests that mean two things, or nothing, as the bytes that are sent.

Held here: the corpus as data. `@host@` and `@key@` stand for the gateway's own and a key that may create, so
that whatever is taken for a create makes a video. Not held here: who is sent them (`test_smuggling`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

HOST: Final = b"Host: @host@\r\n"
KEY: Final = b"Authorization: Bearer @key@\r\nContent-Type: application/json\r\n"
GET: Final = b"GET /v1/models HTTP/1.1\r\n" + HOST + KEY
POST: Final = b"POST /v1/videos HTTP/1.1\r\n" + HOST + KEY
CREATE: Final = b'{"prompt":"a fox"}'
LENGTH: Final = b"Content-Length: %d\r\n" % len(CREATE)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"12\r\n" + CREATE + b"\r\n0\r\n\r\n"
NONE: Final = b"0\r\n\r\n"

# Behind each case, on the same connection: whoever sees this as a request has been smuggled it.
MARKER: Final = POST + LENGTH + b"\r\n" + CREATE

# Two lengths. What is left of the body under one of them is a request under the other.
_LENGTHS: Final[dict[str, bytes]] = {
    "length, then chunked": POST + LENGTH + CHUNKED + b"\r\n" + NONE,
    "chunked, then length": POST + CHUNKED + LENGTH + b"\r\n" + NONE,
    "length 0, then chunked": POST + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n" + NONE,
    "length beyond the chunks": POST + b"Content-Length: 400\r\n" + CHUNKED + b"\r\n" + NONE,
    "length within the chunks": POST + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n1\r\n[\r\n0\r\n\r\n",
    "chunked in capitals, and length": POST + b"TRANSFER-ENCODING: CHUNKED\r\n" + LENGTH + b"\r\n" + NONE,
    "two different lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\n" + CREATE,
    "two different lengths, the shorter first": POST + b"Content-Length: 5\r\n" + LENGTH + b"\r\n" + CREATE,
    "lengths as a list": POST + b"Content-Length: 18, 18\r\n\r\n" + CREATE,
    "lengths as a list that differ": POST + b"Content-Length: 18, 5\r\n\r\n" + CREATE,
    "length with a plus": POST + b"Content-Length: +18\r\n\r\n" + CREATE,
    "length with a minus": POST + b"Content-Length: -1\r\n\r\n" + CREATE,
    "length in hexadecimal": POST + b"Content-Length: 0x12\r\n\r\n" + CREATE,
    "length with a point": POST + b"Content-Length: 18.0\r\n\r\n" + CREATE,
    "length with an exponent": POST + b"Content-Length: 1e1\r\n\r\n" + CREATE,
    "length with an underscore": POST + b"Content-Length: 1_8\r\n\r\n" + CREATE,
    "length in quotes": POST + b'Content-Length: "18"\r\n\r\n' + CREATE,
    "length with a space inside": POST + b"Content-Length: 1 8\r\n\r\n" + CREATE,
    "length with words behind": POST + b"Content-Length: 18 bytes\r\n\r\n" + CREATE,
    "empty length": POST + b"Content-Length:\r\n\r\n" + CREATE,
    "length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\n" + CREATE,
    "length 18 in other digits": POST + "Content-Length: \u0661\u0668\r\n\r\n".encode() + CREATE,
}
_CODINGS: Final[dict[str, bytes]] = {
    name: POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + CHUNKS
    for name, value in {
        "coding xchunked": b"xchunked", "coding chunkedx": b"chunkedx", "coding identity": b"identity",
        "coding gzip": b"gzip", "coding gzip, chunked": b"gzip, chunked",
        "coding chunked, gzip": b"chunked, gzip", "coding chunked, chunked": b"chunked, chunked",
        "coding chunked, identity": b"chunked, identity", "coding in quotes": b'"chunked"',
        "coding with a parameter": b"chunked;a=b", "coding with a comma before": b", chunked",
        "coding with a vertical tab": b"\x0bchunked", "coding with a NUL": b"chunked\0",
        "coding split by a tab": b"chun\tked", "empty coding": b"",
    }.items()
} | {
    "coding twice": POST + CHUNKED + CHUNKED + b"\r\n" + CHUNKS,
    "coding twice, identity last": POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS,
    "coding twice, identity first": POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + CHUNKS,
    "space before the coding's colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS,
    "coding on a folded line": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS,
}
_CHUNKS: Final[dict[str, bytes]] = {
    name: POST + CHUNKED + b"\r\n" + body
    for name, body in {
        "chunk size 0x12": b"0x12\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk size +12": b"+12\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk size -1": b"-1\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk size 1_2": b"1_2\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk size zz": b"zz\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "empty chunk size": b"\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "space before a chunk size": b" 12\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk size beyond 64 bits": b"10000000000000012\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk size that wraps to 0": b"10000000000000000\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk longer than its size": b"12\r\n" + CREATE + b"XX\r\n0\r\n\r\n",
        "chunk shorter than its size": b"14\r\n" + CREATE + b"\r\n0\r\n\r\n",
        "chunk without a line end": b"12\r\n" + CREATE + b"0\r\n\r\n",
        "chunk size ended by CR alone": b"12\r" + CREATE + b"\r\n0\r\n\r\n",
        "chunk ended by other bytes": b"12\r\n" + CREATE + b"\0\0" + b"0\r\n\r\n",
    }.items()
}
_HEADERS: Final[dict[str, bytes]] = {
    name: GET + header + b"\r\n\r\n"
    for name, header in {
        "folded line": b"X-A: b\r\n c", "folded line by a tab": b"X-A: b\r\n\tc",
        "header without a name": b": b", "space in a name": b"X A: b", "NUL in a name": b"X\0A: b",
        "space before the colon": b"X-A : b", "tab before the colon": b"X-A\t: b",
        "NUL in a value": b"X-A: b\0c", "control character in a value": b"X-A: b\x01c",
        "escape in a value": b"X-A: \x1b[31m", "DEL in a value": b"X-A: b\x7fc",
        "CR in a value": b"X-A: b\rc", "CR in a value that begins a header": b"X-A: b\rContent-Length: 400",
        "second Host": b"Host: elsewhere.example", "second Host that is the same": HOST.strip(),
        "a value of 64 KiB": b"X-A: " + b"b" * 65_536,
        "a head of 200 headers": b"\r\n".join([b"X-A: b"] * 200),
    }.items()
}
_FIRST_LINES: Final[dict[str, bytes]] = {
    name: line + b"\r\n" + HOST + KEY + b"\r\n"
    for name, line in {
        "HTTP/0.9": b"GET /v1/models", "HTTP/1.2 with a letter": b"GET /v1/models HTTP/1.x",
        "HTTP/2.0 in words": b"GET /v1/models HTTP/2.0", "HTTP/9.9": b"GET /v1/models HTTP/9.9",
        "version in small letters": b"GET /v1/models http/1.1",
        "version without a number": b"GET /v1/models HTTP/",
        "another protocol": b"GET /v1/models ICAP/1.0", "space in the target": b"GET /v1/models x HTTP/1.1",
        "NUL in the target": b"GET /v1/models\0 HTTP/1.1", "tab in the target": b"GET /v1/mod\tels HTTP/1.1",
        "tabs between the parts": b"GET\t/v1/models\tHTTP/1.1", "no target": b"GET HTTP/1.1",
        "target without a slash": b"GET v1/models HTTP/1.1", "a bare star": b"GET * HTTP/1.1",
        "authority as target": b"GET elsewhere.example:80 HTTP/1.1",
        "a tunnel": b"CONNECT elsewhere.example:443 HTTP/1.1",
        "bracket in the method": b"GE(T /v1/models HTTP/1.1",
        "NUL in the method": b"GE\0T /v1/models HTTP/1.1", "nothing but a version": b"HTTP/1.1",
        "a target of 70 kB": b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
    }.items()
}
_HOSTS: Final[dict[str, bytes]] = {
    name: b"GET /v1/models HTTP/1.1\r\n" + host + KEY + b"\r\n"
    for name, host in {
        "no Host": b"", "empty Host": b"Host:\r\n", "Host with a path": b"Host: @host@/x\r\n",
        "Host with a user": b"Host: a@@host@\r\n", "Host with a space": b"Host: a b\r\n",
        "Host as a list": b"Host: @host@, elsewhere.example\r\n", "Host with a query": b"Host: @host@?x\r\n",
        "Host with a fragment": b"Host: @host@#x\r\n", "Host with a backslash": b"Host: a\\b\r\n",
        "Host with a NUL": b"Host: a\0b\r\n",
        "Host with a bracket that stays open": b"Host: [::1\r\n",
        "Host with a port of letters": b"Host: a:b\r\n",
        "Host of letters beyond ASCII": b"Host: \xc3\xbc\r\n",
        "Host on a folded line": b"Host:\r\n @host@\r\n",
        "space before the colon of Host": b"Host : @host@\r\n",
        "Host as a URL": b"Host: http://@host@/\r\n", "Host with quotes": b'Host: "a"\r\n',
        "Host with angle brackets": b"Host: <script>\r\n",
    }.items()
}
_OTHERS: Final[dict[str, bytes]] = {
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a header before the first line": b"Host: @host@\r\n" + GET + b"\r\n",
    "the PROXY protocol": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + GET + b"\r\n",
}

REFUSED: Final = _LENGTHS | _CODINGS | _CHUNKS | _HEADERS | _FIRST_LINES | _HOSTS | _OTHERS


class Odd(NamedTuple):
    """A request of one meaning that is spelled oddly: the status it gets directly, and behind nginx."""

    raw: bytes
    directly: int
    proxied: int


_LAST: Final = b"Connection: close\r\n"
# What the server has read when the gateway is asked no longer tells these from what they should have been;
# none has a second meaning, since in doubt the connection ends with the answer.
ODD: Final[dict[str, Odd]] = {
    "length and chunked, a whole create": Odd(POST + _LAST + LENGTH + CHUNKED + b"\r\n" + CHUNKS, 202, 400),
    "the same length twice": Odd(POST + _LAST + LENGTH + LENGTH + b"\r\n" + CREATE, 202, 400),
    "lines that end in LF alone": Odd((GET + _LAST + b"\r\n").replace(b"\r\n", b"\n"), 200, 200),
    "empty lines before the first": Odd(b"\r\n\r\n" + GET + _LAST + b"\r\n", 200, 200),
    "a whole URL as target": Odd(
        GET.replace(b"/v1/models", b"http://@host@/v1/models") + _LAST + b"\r\n", 200, 200
    ),
    "a chunk with an extension": Odd(
        POST + _LAST + CHUNKED + b"\r\n" + CHUNKS.replace(b"12\r\n", b"12;a=b\r\n"), 202, 202
    ),
    "a length with zeros before": Odd(
        POST + _LAST + LENGTH.replace(b"18", b"0018") + b"\r\n" + CREATE, 202, 202
    ),
    "a length in a trailer": Odd(
        POST + _LAST + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"Content-Length: 400\r\n\r\n", 202, 202
    ),
    # What is no header at all nginx passes over.
    "a header without a colon": Odd(GET + _LAST + b"X-A\r\n\r\n", 400, 200),
    "a bracket in a header's name": Odd(GET + _LAST + b"X(A): b\r\n\r\n", 400, 200),
    "a letter beyond ASCII in a header's name": Odd(GET + _LAST + b"X-\xe9: b\r\n\r\n", 400, 200),
    "headers with underscores": Odd(
        GET + _LAST + b"Content_Length: 400\r\nTransfer_Encoding: chunked\r\n\r\n", 200, 200
    ),
    "a body on a GET": Odd(GET + _LAST + LENGTH + b"\r\n" + CREATE, 200, 200),
}

"""A real nginx before a gateway, and connections that say exactly what they are told to.

Held here: its configuration, its life, raw bytes out and in. Not held here: any expectation.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from gateway.settings import Address
from tests.serving import PATIENCE_SECONDS, free_port

# Of its own connections it keeps some, as one at work does: there a smuggled request would wait. Each of its
# callers has one request.
_CONFIGURATION: Final = """
daemon off; master_process off; pid {folder}/pid; error_log stderr notice;
events {{ worker_connections 128; }}
http {{
  access_log off; keepalive_timeout 0; lingering_timeout 50ms;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream gateway {{ server {gateway}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, gateway: Address) -> Iterator[Address]:
    """Where an nginx listens that passes everything on to `gateway`; skips the test where there is none."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx; make tools")
    port, file = free_port(), folder / "nginx.conf"
    file.write_text(_CONFIGURATION.format(folder=folder, gateway=gateway, port=port))
    command = [program, "-p", str(folder), "-c", str(file), "-e", "stderr"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = iter(process.stderr.readline, b"")
        try:
            assert any(b"event method" in line for line in told), "nginx has ended"  # it listens before that
            yield Address("127.0.0.1", port)
        finally:
            process.terminate()
            process.stderr.close()


def said(address: Address, raw: bytes) -> bytes:
    """All that comes back until the other side closes."""
    with socket.create_connection((address.host, address.port), PATIENCE_SECONDS) as connection:
        try:
            connection.sendall(raw)
        except (BrokenPipeError, ConnectionResetError):
            return _rest(connection)
        return _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    got = b""
    try:
        while part := connection.recv(65_536):
            got += part
    except ConnectionResetError:  # it closed with something of ours unread
        return got
    return got


def statuses(answers: bytes) -> list[int]:
    """Of each answer in what came back its status."""
    return [int(part[2:5]) for part in answers.split(b"HTTP/1.")[1:]]

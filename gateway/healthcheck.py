"""`python -m gateway.healthcheck`: is the gateway of this machine alive, or ready? For containers and units.

Held here: the question, asked where the configuration says that health is answered; no secret is read and
little is imported, because it is asked every few seconds. Not held here: what alive and ready mean
(`gateway.api.operations`), what else is wrong (`reelgate doctor`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tomllib
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

DEFAULT_LISTEN: Final = "127.0.0.1:8080"
ANSWER_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.1  # between two tries, while there is time left
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens there is asked here


def health_url(configuration: Path, path: str) -> str:
    """Where the gateway of that file answers `path`.

    Raises OSError, ValueError or AttributeError when the file does not say.
    """
    server = tomllib.loads(configuration.read_text("utf-8-sig")).get("server", {})
    address = server.get("management") or server.get("listen") or DEFAULT_LISTEN
    host, _, port = address.rpartition(":")
    host = _HERE.get(host.strip("[]"), host.strip("[]"))
    return f"http://[{host}]:{int(port)}{path}" if ":" in host else f"http://{host}:{int(port)}{path}"


def trouble(url: str) -> str | None:
    """Why `url` does not answer 200 within ANSWER_SECONDS; None when it does. No proxy is asked."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", parts.path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"{url}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"{url} answers {status}"


def is_running(pid: int) -> bool:
    """Whether there is a process of that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def main() -> str | None:
    """Ask as the command line says; the reason to exit 1 with, None for 0."""
    about = "Is the gateway of this machine alive, or ready?"
    parser = argparse.ArgumentParser(prog="python -m gateway.healthcheck", description=about)
    parser.add_argument("--config", type=Path, default=Path("/etc/reelgate/reelgate.toml"))
    parser.add_argument("--url", help="ask this instead of what the configuration says")
    parser.add_argument("--ready", action="store_true", help="not only alive: to be sent requests")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for a good answer")
    parser.add_argument("--pid", type=int, help="wait no longer than this process runs")
    asked = parser.parse_args()
    try:
        url = asked.url or health_url(asked.config, "/readyz" if asked.ready else "/livez")
    except (OSError, ValueError, AttributeError) as error:
        return f"{asked.config}: {error}"
    ends_at = time.monotonic() + asked.wait
    while (why := trouble(url)) is not None and time.monotonic() < ends_at:
        if asked.pid is not None and not is_running(asked.pid):
            return f"process {asked.pid} has ended"
        time.sleep(PAUSE_SECONDS)
    return why


if __name__ == "__main__":
    sys.exit(main())

"""What verbs that call a running gateway have in common: where it is, who asks, and how it is told.

Not held here: any verb (`verbs`, `providers`), the calls (`gateway.client.http`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import click

from gateway.client.http import Client
from gateway.client.output import Verb, json_option


def with_options(verb: Verb, *options: Callable[[Verb], Verb]) -> Verb:
    """Give a verb these options, shown in this order."""
    for option in reversed(options):
        verb = option(verb)
    return verb


def service(verb: Verb) -> Verb:
    """Give a verb --url, --key and --json, and as its first argument the client that they make."""

    @functools.wraps(verb)
    def call(url: str, key: str | None, **rest: object) -> None:
        with Client(url, key) as client:
            verb(client, **rest)

    return with_options(
        call,
        click.option("--url", envvar="REELGATE_URL", default="http://127.0.0.1:8080", show_default=True,
                     help="Where the gateway is. [env: REELGATE_URL]"),
        click.option("--key", envvar="REELGATE_KEY", help="An API key. [env: REELGATE_KEY]"),
        json_option,
    )  # fmt: skip

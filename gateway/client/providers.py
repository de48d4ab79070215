"""`reelgate providers ...`: what an operator asks of the providers, and orders them.

Held here: names and help. Not held here: the calls (`gateway.client.http`), how things look
(`gateway.client.output`).
"""

from __future__ import annotations

from urllib.parse import quote

import click

from gateway.client.http import Client, ClientError
from gateway.client.options import service
from gateway.client.output import Json, clock, print_json, said, table
from gateway.client.words import Group, did_you_mean, near


@click.group(cls=Group)
def providers() -> None:
    """Providers of a running gateway, for operators.

    reelgate providers list
    reelgate providers pause highway
    reelgate providers resume highway

    REELGATE_URL and REELGATE_KEY save --url and --key.
    """


@providers.command("list")
@service
def providers_list(client: Client, as_json: bool) -> None:
    """Show how each provider is, and why.

    reelgate providers list
    reelgate providers list --json
    """
    found = client.call("GET", "/v1/providers")
    if as_json:
        print_json(found)
    else:
        _show(found["data"])


@providers.command("get")
@click.argument("name")
@service
def providers_get(client: Client, name: str, as_json: bool) -> None:
    """Show all that is known of NAME.

    reelgate providers get highway
    reelgate providers get highway --json
    """
    every = {one["name"]: one for one in client.call("GET", "/v1/providers")["data"]}
    if name not in every:
        raise ClientError(did_you_mean(f"There is no provider {name!r}.", near(name, list(every))))
    if as_json:
        print_json(every[name])
    else:
        facts = every[name] | {"since": clock(every[name].get("since"))}
        width = max(map(len, facts)) + 2
        click.echo("\n".join(f"{fact:<{width}}{said(value) or '-'}" for fact, value in facts.items()))


@providers.command("pause")
@click.argument("name")
@service
def providers_pause(client: Client, name: str, as_json: bool) -> None:
    """Submit nothing more to NAME; its jobs are followed.

    reelgate providers pause highway
    """
    _order(client, name, "pause", as_json)


@providers.command("drain")
@click.argument("name")
@service
def providers_drain(client: Client, name: str, as_json: bool) -> None:
    """As pause, and no new video waits for NAME.

    reelgate providers drain highway
    """
    _order(client, name, "drain", as_json)


@providers.command("resume")
@click.argument("name")
@service
def providers_resume(client: Client, name: str, as_json: bool) -> None:
    """End a pause or drain of NAME, or a wait after failures.

    reelgate providers resume highway
    """
    _order(client, name, "resume", as_json)


def _order(client: Client, name: str, order: str, as_json: bool) -> None:
    found = client.call("POST", f"/v1/providers/{quote(name, safe='')}/{order}")
    if as_json:
        print_json(found)
    else:
        _show([found])


def _show(found: list[Json]) -> None:
    """One row a provider; `IN FLIGHT` of how many, where there is a limit."""
    rows = [
        [
            one["name"], one["state"],
            f"{one['in_flight']}/{one['max_in_flight'] if one['max_in_flight'] is not None else '-'}",
            one["waiting"], one["unknown"], _why(one),
        ]
        for one in found
    ]
    click.echo(table(["NAME", "STATE", "IN FLIGHT", "WAITING", "UNKNOWN", "WHY"], rows))


def _why(one: Json) -> str | None:
    """What keeps submissions away and who, else the last error that was met."""
    if one["why"] is not None:
        return f"{one['why']} ({one['held_by']})" if one["held_by"] else str(one["why"])
    return None if one["last_error"] is None else f"last error: {one['last_error']}"

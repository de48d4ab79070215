"""`reelgate audit ...`: what operators and admins did, and when.

Held here: names and help. Not held here: the calls (`gateway.client.http`), how things look
(`gateway.client.output`).
"""

from __future__ import annotations

import click

from gateway.client.http import Client
from gateway.client.options import service, with_options
from gateway.client.output import Json, Verb, clock, print_json, said, table
from gateway.client.words import Group


@click.group(cls=Group)
def audit() -> None:
    """What operators of a running gateway did.

    reelgate audit list
    reelgate audit list --action provider.paused --limit 5

    REELGATE_URL and REELGATE_KEY save --url and --key.
    """


def _filters(verb: Verb) -> Verb:
    return with_options(
        verb,
        click.option("--action", help="Such as provider.paused."),
        click.option("--actor", help="Who did it: a key's id, or all that ACTOR shows."),
        click.option("--target", help="The id or name of what was acted on."),
        click.option("--created-after", type=click.IntRange(0), metavar="UNIX_SECONDS"),
        click.option("--created-before", type=click.IntRange(0), metavar="UNIX_SECONDS"),
        click.option("--after", metavar="ID", help="Go on after the entry with this id."),
        click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True),
    )


@audit.command("list")
@_filters
@service
def audit_list(client: Client, as_json: bool, **query: str | int | None) -> None:
    """List who did what, newest first; an operator sees its own actions, an admin all.

    reelgate audit list
    reelgate audit list --action provider.paused --limit 5
    reelgate audit list --target highway --json
    """
    found = client.call("GET", "/v1/audit", query=query)
    if as_json:
        print_json(found)
        return
    rows = [
        [clock(one["created_at"]), one["actor"], one["action"], one["target"], _change(one)]
        for one in found["data"]
    ]
    click.echo(table(["AT", "ACTOR", "ACTION", "TARGET", "CHANGE"], rows))
    if found["has_more"]:
        click.echo(f"There is more: --after {found['last_id']}", err=True)


def _change(entry: Json) -> str:
    """What is different now, `name: before -> after`."""
    before, after = entry["before"] or {}, entry["after"] or {}
    pairs = [(name, before.get(name), value) for name, value in after.items() if before.get(name) != value]
    return ", ".join(f"{name}: {said(was) or '-'} -> {said(value) or '-'}" for name, was, value in pairs)

"""`reelgate usage`: what was spent, as a table or as CSV.

Held here: names and help. Not held here: the call (`gateway.client.http`), how things look
(`gateway.client.output`).
"""

from __future__ import annotations

import click

from gateway.client.http import Client
from gateway.client.options import service, with_options
from gateway.client.output import Verb, print_json, table
from gateway.client.words import Command

_COLUMNS = ("currency", "reserved", "settled", "accepted", "completed", "failed", "cancelled")


def _filters(verb: Verb) -> Verb:
    return with_options(
        verb,
        click.option("--start", metavar="YYYY-MM-DD", help="The first day (UTC)."),
        click.option("--end", metavar="YYYY-MM-DD", help="The last day, inclusive."),
        click.option("--by", "group_by", default="day", show_default=True,
                     help="Some of day, key, provider, model, owner."),
        click.option("--provider"), click.option("--model"),
        click.option("--of-key", "only", metavar="ID", help="Only what this key spent."),
        click.option("--all", "is_all", is_flag=True, help="Everybody's, for operators."),
        click.option("--csv", "as_csv", is_flag=True, help="As CSV."),
    )  # fmt: skip


@click.command("usage", cls=Command)
@_filters
@service
def usage(
    client: Client, as_json: bool, only: str | None, is_all: bool, as_csv: bool, **query: str | None
) -> None:
    """Show what was spent, put aside and settled.

    reelgate usage
    reelgate usage --by provider,model --start 2026-11-01
    reelgate usage --all --by day,key --csv > usage.csv
    """
    if as_csv and as_json:
        raise click.UsageError("Give one of --csv and --json.")
    asked = query | {"key": only, "scope": "all" if is_all else None}
    if as_csv:
        click.echo(client.text("/v1/usage", asked | {"format": "csv"}), nl=False)
        return
    found = client.call("GET", "/v1/usage", query=asked)
    if as_json:
        print_json(found)
        return
    names = (*found["group_by"], *_COLUMNS)
    rows = [[row.get(name) for name in names] for row in found["data"]]
    click.echo(table([name.upper() for name in names], rows))

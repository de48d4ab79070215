"""`reelgate keys ...`, `reelgate spending ...`: verbs that act on the store, also beside a running `serve`.

Held here: names, options, what is shown. Not held here: what they do (`gateway.upkeep`, imported by the verb
that needs it, so that the others start at once), verbs that call a running gateway (`gateway.client`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.client.imports import Later, lightly
from gateway.client.output import Json, Verb, clock, json_option, print_json, table
from gateway.client.words import Choice, Group

if TYPE_CHECKING:
    from gateway import upkeep
else:
    upkeep = Later("gateway.upkeep")

ROLES = ("caller", "viewer", "operator", "admin")
# What `curl` asks a running gateway for, in place of `spending`: stopped, started, neither.
_ASKED_FOR: Final = {
    True: "-X POST $URL/v1/spending/stop", False: "-X POST $URL/v1/spending/start", None: "$URL/v1/spending",
}


@contextmanager
def plainly(call: str | None = None) -> Iterator[None]:
    """What an operator can mend is told as a message; the rest is a fault of ours and keeps its traceback.

    `call`: what `curl` can ask a running gateway for instead, told where the file cannot be used.
    """
    with lightly():
        from gateway.errors import CannotListen, Problem  # noqa: PLC0415
        from gateway.settings import SettingsError  # noqa: PLC0415
        from gateway.storage.db import StorageError  # noqa: PLC0415
        from gateway.values import ReadError  # noqa: PLC0415
        from providers import RegisterError  # noqa: PLC0415

    try:
        yield
    except SettingsError as error:
        way = f'curl {call} -H "Authorization: Bearer $ADMIN_KEY"'
        also = "" if call is None else f"\nA running gateway does it, whatever the file says: {way}"
        raise click.ClickException(f"{error}{also}") from error
    except (CannotListen, StorageError, RegisterError, Problem, ReadError) as error:
        raise click.ClickException(str(error)) from error


def config_option(verb: Verb) -> Verb:
    """Give a verb --config, the path of the configuration."""
    path = click.Path(path_type=Path, readable=False)  # who reads it says better why it cannot
    text = "The configuration file."
    return click.option("--config", type=path, default="reelgate.toml", show_default=True, help=text)(verb)


class _Seconds(click.ParamType[int]):
    """A duration as the configuration writes one, in seconds: `90d`, `12h`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The whole seconds of `value`."""
        from gateway.values import ReadError, parse_duration  # noqa: PLC0415

        try:
            return int(parse_duration(str(value)))
        except ReadError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


_COUNT = click.IntRange(1, 1_000_000)


@click.group(cls=Group)
def keys() -> None:
    """API keys; acts on the store, also beside a running `serve`.

    reelgate keys create alice
    reelgate keys list
    reelgate keys rotate key_0123456789abcdef01234567
    """


@keys.command("create")
@click.argument("name")
@click.option("--role", type=Choice(ROLES), default="caller", show_default=True)
@click.option("--scope", "scopes", multiple=True, help="Narrow the role to this; several. [default: all]")
@click.option("--team", help="A team of the configuration: it owns what the key creates.")
@click.option("--provider", "providers", multiple=True, help="Allow only this provider; several.")
@click.option("--model", "models", multiple=True, help="Allow only this model; several.")
@click.option("--expires", "expires_in", type=_Seconds(), metavar="90d", help="End it after so long.")
@click.option("--requests-per-minute", type=_COUNT)
@click.option("--max-in-flight", type=_COUNT, help="Videos at vendors at once; others wait.")
@click.option("--max-queued", type=_COUNT, help="Videos that wait at once.")
@click.option("--money-per-day", metavar="12.50", help="Of the day (UTC), what is reserved counted.")
@click.option("--money-per-month", metavar="100", help="Of the month (UTC), likewise.")
@click.option("--currency", default="USD", show_default=True)
@config_option
@json_option
def keys_create(config: Path, as_json: bool, **asked: object) -> None:
    """Make an API key called NAME and show it, this once.

    reelgate keys create alice
    reelgate keys create ci --team video --scope videos:read --expires 90d
    export REELGATE_KEY=$(reelgate keys create alice)
    """
    with plainly("""$URL/v1/keys -d '{"name": "NAME"}'"""):
        made = upkeep.create_key(config, asked)
    _told_once(made, as_json=as_json)


@keys.command("list")
@config_option
@json_option
def keys_list(config: Path, as_json: bool) -> None:
    """List all keys, newest first, without their secrets.

    reelgate keys list
    """
    with plainly("$URL/v1/keys"):
        found = upkeep.list_keys(config)
    if as_json:
        print_json({"object": "list", "data": found})
        return
    head = ["ID", "NAME", "ROLE", "TEAM", "HINT", "CREATED", "LAST USED", "STATE"]
    rows = [
        [
            one["id"], one["name"], one["role"], one["team"], one["hint"], clock(one["created_at"]),
            clock(one["last_used_at"]), _state(one),
        ]
        for one in found
    ]
    click.echo(table(head, rows))


@keys.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option("--overlap", type=_Seconds(), default="24h", show_default=True,
              help="For how long the old secret is taken as well; 0s: not at all.")
@config_option
@json_option
def keys_rotate(key_id: str, overlap: int, config: Path, as_json: bool) -> None:
    """Give the key ID a new secret and show it, this once; what the key owns stays its own.

    reelgate keys rotate key_0123456789abcdef01234567
    reelgate keys rotate key_0123456789abcdef01234567 --overlap 0s
    """
    with plainly("-X POST $URL/v1/keys/ID/rotate"):
        made = upkeep.rotate_key(config, key_id, overlap)
    _told_once(made, as_json=as_json)
    if made["overlap_until"] is not None and not as_json:
        until = clock(made["overlap_until"])
        click.echo(f"The old one is taken until {until}; `keys revoke` ends all of them.", err=True)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@config_option
@json_option
def keys_revoke(key_id: str, config: Path, as_json: bool) -> None:
    """End the key ID, within 5 seconds on every replica.

    reelgate keys revoke key_0123456789abcdef01234567
    """
    with plainly("-X DELETE $URL/v1/keys/ID"):
        ended = upkeep.revoke_key(config, key_id)
    if as_json:
        print_json(ended)
    else:
        click.echo(f"Key {ended['name']} ({ended['id']}) is revoked.", err=True)


def _told_once(made: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    click.echo(f"Key {made['name']} ({made['role']}), shown this once:", err=True)
    click.echo(made["key"])


def _state(one: Json) -> str:
    if one["revoked_at"] is not None:
        return f"revoked {clock(one['revoked_at'])}"
    times = (("until", one["expires_at"]), ("old secret until", one["overlap_until"]))
    return ", ".join(f"{words} {clock(at)}" for words, at in times if at is not None)


# --- the stop switch ------------------------------------------------------------------------------
@click.group(cls=Group)
def spending() -> None:
    """The stop of all spending; acts on the store, and a running `serve` obeys within 5 seconds.

    reelgate spending status
    reelgate spending stop
    reelgate spending start
    """


@spending.command("stop")
@config_option
@json_option
def spending_stop(config: Path, as_json: bool) -> None:
    """Take no new video and send none that waits; what vendors have is followed to its end.

    reelgate spending stop
    """
    _tell(config, is_stopped=True, as_json=as_json)


@spending.command("start")
@config_option
@json_option
def spending_start(config: Path, as_json: bool) -> None:
    """Let spending begin again.

    reelgate spending start
    """
    _tell(config, is_stopped=False, as_json=as_json)


@spending.command("status")
@config_option
@json_option
def spending_status(config: Path, as_json: bool) -> None:
    """Show whether spending is stopped, and by whom.

    reelgate spending status
    """
    _tell(config, is_stopped=None, as_json=as_json)


def _tell(config: Path, *, is_stopped: bool | None, as_json: bool) -> None:
    with plainly(_ASKED_FOR[is_stopped]):
        found = upkeep.spending(config, is_stopped)
    if as_json:
        print_json({
            "object": "spending", "stopped": found is not None,
            "stopped_by": None if found is None else found.by,
            "since": None if found is None else int(found.at),
        })
    elif found is None:
        click.echo("Spending is not stopped.")
    else:
        click.echo(f"Spending is stopped by {found.by} since {clock(found.at)}.")

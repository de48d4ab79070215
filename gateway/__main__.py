"""The command line: one function per verb, its options, its output. Data on stdout, messages on stderr.

Held here: names, help, output. Not held here: what a verb does (`gateway.app`, `gateway.sandbox`), `keys`
(`gateway.store_verbs`), and those of the table LATER. What is large is imported only by the verb that needs
it, so that the others start at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from gateway import __version__
from gateway.client.imports import Later, lightly
from gateway.client.output import json_option, print_json
from gateway.client.words import Choice, Group, Number
from gateway.store_verbs import config_option, keys, plainly, spending

if TYPE_CHECKING:
    from gateway import app, upkeep
else:
    app, upkeep = Later("gateway.app"), Later("gateway.upkeep")

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_FILE = click.Path(path_type=Path, readable=False)
_SHORT_CHARS: Final = 90  # of a verb in the list of all
_IS_BYTES: Final = re.compile("[\udc80-\udcff]").search  # how Python keeps what a shell gave as no text


# Verbs that are imported when they are asked for: where they are, and what the list of verbs says of them.
LATER: Final[Mapping[str, tuple[str, str]]] = {
    "videos": ("gateway.client.verbs", "Videos of a running gateway."),
    "providers": ("gateway.client.providers", "Providers of a running gateway, for operators."),
    "audit": ("gateway.client.audit", "What operators of a running gateway did."),
    "usage": ("gateway.client.usage", "Show what was spent, put aside and settled."),
    "doctor": ("gateway.doctor.verb", "Find what is wrong with a configuration and what it names."),
    "completion": ("gateway.client.completion", "Print what makes SHELL complete verbs, options and values."),
}  # fmt: skip


class _Root(Group):
    """Knows verbs that it has not imported, and what Ctrl-C means to a shell."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb."""
        return sorted([*super().list_commands(ctx), *LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of that name, imported if it has to be."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        with lightly():
            found: click.Command = getattr(import_module(LATER[cmd_name][0]), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of all verbs, for which none is imported."""
        own = {name: verb.get_short_help_str(_SHORT_CHARS) for name, verb in self.commands.items()}
        rows = own | {name: text for name, (_, text) in LATER.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run the verb; Ctrl-C ends it with 130, not with click's 1, also where it asks something."""
        try:
            return super().invoke(ctx)
        except UnicodeEncodeError as error:
            if not _IS_BYTES(error.object):
                raise
            raise click.UsageError("A value holds bytes that are no text in UTF-8.", ctx) from error
        except (KeyboardInterrupt, click.Abort) as error:
            if not any(isinstance(one, KeyboardInterrupt) for one in (error, error.__context__)):
                raise
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


@click.group(cls=_Root, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="reelgate")
def cli() -> None:
    """One durable API over many vendors of AI video.

    reelgate demo                                  see it work, without any account
    reelgate check reelgate.toml                   what is wrong with a configuration
    reelgate doctor                                and with all that it names, and what to do
    reelgate serve                                 run the gateway by ./reelgate.toml
    reelgate keys create alice                     an API key
    reelgate videos create "a red fox" --watch     a video
    reelgate providers list                        how the vendors are

    Exit codes: 0 ok, 1 error, 2 usage, 3 cancelled or timed out, 4 authentication, 5 the task failed,
    6 outcome unknown, 130 interrupted.
    """


cli.add_command(keys)
cli.add_command(spending)


@cli.command()
@config_option
@click.option("--role", type=Choice(["all", "api", "engine"]), default="all", show_default=True,
              help="On PostgreSQL a replica may only answer callers, or only follow tasks.")
def serve(config: Path, role: Literal["all", "api", "engine"]) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP reloads the file.

    reelgate serve
    reelgate serve --config /etc/reelgate.toml
    reelgate serve --role engine
    """
    with plainly():
        sys.exit(app.run(config, role))


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0: any free.")
@click.option("--key", default="sandbox-key", show_default=True, help="What the vendors accept.")
@click.option("--render-seconds", type=Number(0), default=3.0, show_default=True, help="Median.")
@click.option("--render-spread", type=Number(0), default=0.35, show_default=True, help="0: none.")
@click.option("--link-seconds", type=Number(0), help="Life of a link. [default: the vendor's own]")
@click.option("--seed", type=int, help="Makes two runs alike.")
@click.option("--faults", is_flag=True, help="List every fault instead, and how to choose one.")
@json_option
def sandbox(faults: bool, as_json: bool, **chosen: object) -> None:
    """Run simulators of all vendors, with a money ledger and faults; prints its URL on stdout.

    reelgate sandbox
    reelgate sandbox --port 0 --render-seconds 0.5
    reelgate sandbox --faults
    curl -s http://127.0.0.1:8090/admin/ledger
    """
    import asyncio  # noqa: PLC0415

    from gateway.sandbox import NEEDS_EXTRA, catalogue  # noqa: PLC0415

    if faults:
        print_json(catalogue.described()) if as_json else click.echo(catalogue.table())
        return
    if as_json:
        raise click.UsageError("--json goes with --faults.")
    try:
        from gateway.sandbox import server  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(NEEDS_EXTRA) from error
    import msgspec  # noqa: PLC0415

    settings = msgspec.convert(chosen, server.SandboxSettings)
    try:
        asyncio.run(server.serve(settings, on_ready=click.echo))
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise click.ClickException(f"Cannot listen on {where}: {error.strerror}.") from error


@cli.command()
@click.option("--keep", is_flag=True, help="Leave it running, to play with, until Ctrl-C.")
@click.option("--out", type=_FILE, default="demo", show_default=True, help="Folder for the videos.")
def demo(keep: bool, out: Path) -> None:
    """See it work: simulated vendors, a gateway, and a video from each of five vendor endpoints.

    reelgate demo
    reelgate demo --keep
    """
    from gateway.sandbox.demo import run  # noqa: PLC0415

    run(out, keep=keep)


@cli.command()
@click.argument("file", type=_FILE)
@click.option("--show", is_flag=True, help="Every value in force and its origin, secrets hidden.")
@json_option
def check(file: Path, show: bool, as_json: bool) -> None:
    """Say everything that is wrong with a configuration FILE, or what it configures.

    reelgate check reelgate.toml
    reelgate check reelgate.toml --show
    """
    with lightly():
        from gateway.checked import facts_of, lines_of, warnings_of  # noqa: PLC0415
        from gateway.settings import SettingsError, load  # noqa: PLC0415
        from providers import adapters  # noqa: PLC0415
    with plainly():
        try:
            facts = facts_of(load(file, adapters(), os.environ), file, show=show)
        except SettingsError as error:
            if not as_json:
                raise
            problems = [{"path": problem.path, "message": problem.message} for problem in error.problems]
            print_json({"ok": False, "problems": problems})
            sys.exit(1)
    if as_json:
        print_json({"ok": True, "problems": [], **facts})
        return
    click.echo("\n".join(lines_of(facts, file)))
    for warning in warnings_of(facts):
        click.echo(f"Warning: {warning}", err=True)
    click.echo(f"{file} is fine.", err=True)


@cli.command()
@json_option
def openapi(as_json: bool) -> None:
    """Print the API's description as OpenAPI 3.1 in YAML.

    reelgate openapi > reelgate.yaml
    reelgate openapi --json > reelgate.json
    """
    text = app.openapi_yaml()
    if not as_json:
        click.echo(text, nl=False)
        return
    import yaml  # noqa: PLC0415 - slow, and this verb's alone

    print_json(yaml.safe_load(text))


@cli.group(cls=Group)
def db() -> None:
    """The database itself: schema, backups, checks, and moving to another one.

    reelgate db check
    reelgate db backup reelgate-backup.db
    """


@db.command("migrate")
@config_option
@json_option
def db_migrate(config: Path, as_json: bool) -> None:
    """Bring the schema up to date, as `serve` does when it starts.

    reelgate db migrate
    """
    with plainly():
        count = upkeep.migrate(config)
    _done({"migrations": count}, f"{count} migrations ran; the schema is up to date.", as_json=as_json)


@db.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@json_option
def db_backup(file: Path, config: Path, as_json: bool) -> None:
    """Copy everything, as it is at this moment, into a new SQLite FILE; also beside a running `serve`.

    reelgate db backup reelgate-backup.db

    A backup is a store itself: configure `sqlite:FILE` to look into it, or `db copy` it elsewhere. A gateway
    on it buys nothing before `reelgate spending start`: what waits in it may have been bought since.
    """
    with plainly():
        upkeep.backup(config, file, _copied)
    text = f"The backup is {file}; a gateway on it buys nothing before `reelgate spending start`."
    _done({"file": str(file)}, text, as_json=as_json)


@db.command("check")
@config_option
@json_option
def db_check(config: Path, as_json: bool) -> None:
    """Look for broken rows and broken rules; also beside a running `serve`. Exits 1 when there are any.

    reelgate db check
    """
    with plainly():
        problems = upkeep.check(config)
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        click.echo("\n".join(problems) or "All rules hold.")
    sys.exit(1 if problems else 0)


@db.command("copy")
@click.option("--to", "target", required=True, help="An empty store: URL, or configuration file.")
@config_option
@json_option
def db_copy(target: str, config: Path, as_json: bool) -> None:
    """Copy everything to another, empty store, tasks in flight included; stop `serve` first.

    reelgate db copy --config reelgate.toml --to reelgate-postgres.toml
    """
    with plainly():
        upkeep.move(config, target, _copied)
    text = "Everything is copied; start `serve` with the new store, and never again with the old one."
    _done({"copied": True}, text, as_json=as_json)


def _done(facts: dict[str, object], text: str, *, as_json: bool) -> None:
    """What was done, for programs or for people."""
    print_json(facts) if as_json else click.echo(text)


def _copied(table: str, rows: int) -> None:
    """Progress, for who watches."""
    if rows % 10_000 < 500:
        click.echo(f"{table}: {rows} rows", err=True)


def main() -> None:
    """Run `reelgate`; leaves by SystemExit with the codes of contract section 4."""
    cli(prog_name="reelgate")


if __name__ == "__main__":
    main()

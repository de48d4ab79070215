"""`reelgate videos ...`: one function per verb, its options, and what it prints.

Held here: names and help. Not held here: the calls (`gateway.client.http`), how things look
(`gateway.client.output`).
"""

from __future__ import annotations

import functools
import sys
import uuid
from pathlib import Path

import click

from gateway.client.http import Client, ClientError, Exit, Unavailable, outcome, path_of, request_body
from gateway.client.options import service, with_options
from gateway.client.output import (
    Board,
    Json,
    Verb,
    clock,
    described,
    money,
    print_json,
    state,
    table,
)  # fmt: skip
from gateway.client.words import Choice, Group, Number


@click.group(cls=Group)
def videos() -> None:
    """Videos of a running gateway.

    reelgate videos create "a red fox in the snow" --watch
    reelgate videos list --status failed
    reelgate videos download video_abc -o fox.mp4

    REELGATE_URL and REELGATE_KEY save --url and --key.
    """


def _pairs(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE`, repeatable, as a dict."""
    wrong = [text for text in given if "=" not in text]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not KEY=VALUE")
    pairs = [(key, value) for key, _, value in (text.partition("=") for text in given)]
    if len(dict(pairs)) < len(pairs):
        raise click.BadParameter("names a key twice; each has one value")
    return dict(pairs)


def _shots(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[Json, ...]:
    """`SECONDS:PROMPT`, repeatable, as the API's shots."""
    parts = [text.partition(":") for text in given]
    wrong = ["".join(part) for part in parts if not part[0].isdecimal() or not part[2]]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not SECONDS:PROMPT, such as '5:a fox runs'")
    return tuple({"prompt": prompt, "duration": int(seconds)} for seconds, _, prompt in parts)


def _header(_ctx: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    """What can travel in a header: anything else would break on its way, and look as if it had been sent."""
    if given is not None and not (given.isascii() and given.isprintable() and given == given.strip() != ""):
        raise click.BadParameter("is not printable ASCII without blanks around it")
    return given


_METADATA = click.option("--metadata", multiple=True, callback=_pairs, metavar="KEY=VALUE",
                         help="Repeatable.")  # fmt: skip
_IDEMPOTENCY_KEY = click.option(
    "--idempotency-key", callback=_header,
    help="Two orders with one key are one video. [default: a fresh one]",
)
_WATCH = click.option("--watch", is_flag=True, help="Follow it to its end.")
_CREATE_OPTIONS = (
    click.argument("prompt", required=False),
    click.option("--model", help="[default: the gateway's]"),
    click.option("--negative-prompt"),
    click.option("--image", metavar="URL|FILE", help="The first frame; makes it image-to-video."),
    click.option("--end-image", metavar="URL|FILE", help="The last frame."),
    click.option("--shot", "shots", multiple=True, callback=_shots, metavar="SECONDS:PROMPT",
                 help="Repeatable; the durations add up."),
    click.option("--resolution", type=Choice(["720p", "1080p", "4k"])),
    click.option("--aspect-ratio", type=Choice(["16:9", "9:16", "1:1"])),
    click.option("--duration", type=int, metavar="SECONDS", help="3 to 15, as the offering takes."),
    click.option("--audio/--no-audio", default=None),
    click.option("--voice-id", "voice_ids", multiple=True, help="Repeatable; needs --audio."),
    click.option("--cfg-scale", type=Number(0, 1), help="How closely to follow the prompt."),
    click.option("--provider", multiple=True, help="Only these, in this order. Repeatable."),
    click.option("--priority", type=int, help="-10 to 10; more goes first."),
    _METADATA,
    click.option("--webhook-url", metavar="URL", help="Told of this video, besides your endpoints."),
    click.option("--deadline", type=int, metavar="SECONDS", help="From acceptance to the end."),
    _IDEMPOTENCY_KEY,
    click.option("--plan", is_flag=True, help="Say what would be sent to whom; spends nothing."),
    _WATCH,
)


def _create_options(verb: Verb) -> Verb:
    return with_options(verb, *_CREATE_OPTIONS)


@videos.command("create")
@_create_options
@service
def videos_create(
    client: Client, *, idempotency_key: str | None, plan: bool, watch: bool, as_json: bool, **fields: object,
) -> None:
    """Order a video of PROMPT, or of several --shot.

    reelgate videos create "a red fox in the snow" --watch
    reelgate videos create "she turns around" --image first.png --resolution 1080p
    reelgate videos create --shot "2:a fox runs" --shot "3:it jumps" --provider myrouter
    reelgate videos create "a red fox" --plan
    """
    if fields["prompt"] is None and not fields["shots"]:
        raise click.UsageError('Say what to show: reelgate videos create "a red fox", or --shot, repeatedly.')
    body = request_body(fields)
    if plan:
        print_json(client.call("POST", "/v1/videos/plan", body=body))
        return
    _order(client, "/v1/videos", body, idempotency_key, watch=watch, as_json=as_json)


@videos.command("rerun")
@click.argument("video_id", metavar="ID")
@_IDEMPOTENCY_KEY
@_WATCH
@service
def videos_rerun(
    client: Client, video_id: str, idempotency_key: str | None, watch: bool, as_json: bool
) -> None:
    """Order the same once more, as a new video; it is paid like any other.

    reelgate videos rerun video_abc --watch
    """
    _order(client, path_of(video_id, "/rerun"), None, idempotency_key, watch=watch, as_json=as_json)


@videos.command("get")
@click.argument("video_id", metavar="ID")
@service
def videos_get(client: Client, video_id: str, as_json: bool) -> None:
    """Show a video as it stands.

    reelgate videos get video_abc
    reelgate videos get video_abc --json
    """
    _show(client.video(video_id), as_json)


@videos.command("watch")
@click.argument("video_id", metavar="ID")
@click.option("--timeout", type=Number(0), metavar="SECONDS", help="Then stop, with exit code 3.")
@service
def videos_watch(client: Client, video_id: str, timeout: float | None, as_json: bool) -> None:
    """Follow a video to its end; the exit code says how that was.

    reelgate videos watch video_abc && reelgate videos download video_abc
    reelgate videos watch video_abc --timeout 600
    """
    _watch(client, video_id, timeout, as_json)


@videos.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--after", metavar="ID", help="Go on after this one.")
@click.option("--order", type=Choice(["asc", "desc"]))
@click.option("--status", type=Choice(["queued", "in_progress", "completed", "failed", "cancelled"]))
@click.option("--stage")
@click.option("--model")
@click.option("--provider")
@click.option("--created-after", type=int, metavar="UNIX")
@click.option("--created-before", type=int, metavar="UNIX")
@_METADATA
@service
def videos_list(
    client: Client, *, metadata: dict[str, str], as_json: bool, **filters: str | int | None,
) -> None:
    """List your videos, newest first.

    reelgate videos list --status failed
    reelgate videos list --metadata project=fox --json
    """
    by_metadata = {f"metadata[{key}]": value for key, value in metadata.items()}
    found = client.call("GET", "/v1/videos", query=filters | by_metadata)
    if as_json:
        print_json(found)
        return
    names = ("id", "status", "stage", "provider", "offering", "seconds", "size")
    rows = [
        [*(video.get(name) for name in names), money(video), clock(video["created_at"])]
        for video in found["data"]
    ]
    click.echo(table([*map(str.upper, names), "COST", "CREATED"], rows))
    if found["has_more"]:
        click.echo(f"There are more: --after {found['last_id']}", err=True)


@videos.command("download")
@click.argument("video_id", metavar="ID")
@click.option("-o", "--output", type=click.Path(), default=".",
              help="File, folder, or - for stdout. [default: ID.mp4 here]")
@service
def videos_download(client: Client, video_id: str, output: str, as_json: bool) -> None:
    """Save a finished video; the file is there whole, or not at all.

    reelgate videos download video_abc -o fox.mp4
    reelgate videos download video_abc -o - | ffprobe -
    """
    if output == "-":
        _to_stdout(client, video_id, as_json=as_json)
        return
    target = Path(output)
    target = target / f"{Path(video_id).name}.mp4" if target.is_dir() else target
    with Board() as board:
        size = client.download(video_id, target, functools.partial(board.show, str(target), "downloading"))
    print_json({"file": str(target), "bytes": size}) if as_json else click.echo(target)


def _to_stdout(client: Client, video_id: str, *, as_json: bool) -> None:
    """The bytes alone, as they come: whoever reads them heeds the exit code."""
    if as_json or sys.stdout.isatty():
        wrong = "--json goes with a file" if as_json else "A terminal shows no video: pipe it, or name a file"
        raise click.UsageError(f"{wrong}, not with -o -.")
    with Board() as board:
        told = functools.partial(board.show, video_id, "downloading")
        client.download_into(sys.stdout.buffer, video_id, told)


@videos.command("cancel")
@click.argument("video_id", metavar="ID")
@click.option("--detach", is_flag=True, help="Stop following it, though the vendor goes on and charges.")
@service
def videos_cancel(client: Client, video_id: str, detach: bool, as_json: bool) -> None:
    """Cancel a video that waits, or that its vendor can cancel.

    reelgate videos cancel video_abc
    """
    query = {"detach": "true"} if detach else None
    _show(client.call("POST", path_of(video_id, "/cancel"), query=query), as_json)


@videos.command("resolve")
@click.argument("video_id", metavar="ID")
@click.option("--adopt", metavar="VENDOR_TASK_ID", help="The vendor has it, as this job: follow that.")
@click.option("--fail", is_flag=True, help="Give it up, though it may have been charged.")
@click.option("--resubmit", is_flag=True, help="Send it once more; it may be charged twice.")
@click.option("--yes", is_flag=True, help="Do not ask before --resubmit.")
@service
def videos_resolve(
    client: Client, video_id: str, *, yes: bool, as_json: bool, **decisions: str | bool | None,
) -> None:
    """Decide about a submission_unknown, for operators. The timeline keeps who did.

    reelgate videos resolve video_abc --adopt 8de24a25-39c9-4658-bf2e-0a7163f4f8d1
    reelgate videos resolve video_abc --fail
    reelgate videos resolve video_abc --resubmit
    """
    given = [(action, value) for action, value in decisions.items() if value]
    if len(given) != 1:
        raise click.UsageError("Give one of --adopt VENDOR_TASK_ID, --fail and --resubmit.")
    action, value = given[0]
    body = {"action": action} | ({"vendor_task_id": value} if action == "adopt" else {})
    if action == "resubmit" and not yes:
        asked = f"The vendor may have {video_id} already, and MAY CHARGE TWICE. Send it once more?"
        click.confirm(asked, abort=True, err=True)
    try:
        _show(client.call("POST", path_of(video_id, "/resolve"), body=body), as_json)
    except Unavailable as error:
        if not error.sent:
            raise
        hint = "Its timeline tells whether this arrived; only then say it again."
        raise ClientError(f"{error.message}\n{hint}", Exit.UNKNOWN) from error


@videos.command("timeline")
@click.argument("video_id", metavar="ID")
@service
def videos_timeline(client: Client, video_id: str, as_json: bool) -> None:
    """Show everything that happened to a video.

    reelgate videos timeline video_abc
    """
    found = client.call("GET", path_of(video_id, "/timeline"))
    if as_json:
        print_json(found)
        return
    names = ("type", "status", "stage", "provider", "offering")
    rows = [
        [event["seq"], clock(event["at"]), *(event.get(name) for name in names), event.get("detail") or None]
        for event in found["data"]
    ]
    click.echo(table(["SEQ", "AT", *map(str.upper, names), "DETAIL"], rows))


def _order(
    client: Client, path: str, body: Json | None, key: str | None, *, watch: bool, as_json: bool
) -> None:
    """Order a video, show it, and follow it if that is wanted."""
    key = key or str(uuid.uuid4())
    click.echo(f"Idempotency key: {key}", err=True)
    video = client.order(path, body, key)
    if watch:
        click.echo(video["id"], err=True)
        _watch(client, video["id"], None, as_json)
    _show(video, as_json)
    click.echo(f"To follow it: reelgate videos watch {video['id']}", err=True)


def _watch(client: Client, video_id: str, timeout_seconds: float | None, as_json: bool) -> None:
    """Follow to the end, show the video, and leave with the exit code of its outcome."""
    video: Json = {}
    with Board() as board:
        for video in client.follow(video_id, timeout_seconds):
            board.show(video_id, state(video), video.get("progress") or 0)
    _show(video, as_json)
    sys.exit(outcome(video))


def _show(video: Json, as_json: bool) -> None:
    if as_json:
        print_json(video)
    else:
        click.echo(described(video))

"""`reelgate doctor`: its options and what it prints. Not held here: the examination itself."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec.structs import asdict

from gateway.client.imports import lightly
from gateway.client.output import json_option, print_json, printable, table
from gateway.client.words import Command
from gateway.doctor.rules import RULES, Finding
from gateway.store_verbs import config_option, plainly


@click.command("doctor", cls=Command)
@click.option("--offline", "is_offline", is_flag=True, help="Ask no vendor.")
@click.option("--list", "is_list", is_flag=True, help="List all that can be found instead, and what to do.")
@config_option
@json_option
def doctor(config: Path, is_offline: bool, is_list: bool, as_json: bool) -> None:
    """Find what is wrong with a configuration and what it names.

    reelgate doctor
    reelgate doctor --config /etc/reelgate.toml --json
    reelgate doctor --offline
    reelgate doctor --list

    Each finding says why it matters and what to do. Looks at all that `check` refuses, values that make no
    sense together, files, disks, ports, the database, the keys in it, the bucket, and the way to each
    vendor, who is asked for a job that cannot exist: nothing is spent. Also beside a running `serve`. Run it
    as the user that runs `serve`. Exits 1 with findings.
    """
    if is_list:
        _list(as_json=as_json)
        return
    with lightly():
        from gateway.doctor.examination import examine  # noqa: PLC0415
        from gateway.doctor.machine import Machine  # noqa: PLC0415
    with plainly():
        machine = Machine(environ=os.environ)
        findings = asyncio.run(examine(config, machine, is_offline=is_offline, told=_told))
    if as_json:
        print_json({"ok": not findings, "findings": [finding.told() for finding in findings]})
    elif findings:
        click.echo("\n\n".join(map(_described, findings)))
    click.echo(_summary(findings), err=True)
    sys.exit(1 if findings else 0)


def _list(*, as_json: bool) -> None:
    if as_json:
        rules = [{"id": name, **asdict(rule)} for name, rule in RULES.items()]
        print_json({"object": "list", "data": rules})
    else:
        rows = [[name, rule.level, rule.fix] for name, rule in RULES.items()]
        click.echo(table(["ID", "LEVEL", "WHAT TO DO"], rows))


def _told(text: str) -> None:
    click.echo(text, err=True)


def _described(finding: Finding) -> str:
    """Four lines: what and where, what was met, why it matters, what to do."""
    rule = finding.meaning
    head = f"{rule.level}: {finding.rule}" + (f" at {printable(finding.where)}" if finding.where else "")
    rest = (("found", printable(finding.found)), ("why", rule.why), ("do", rule.fix))
    return "\n".join([head, *(f"  {name:<6}{text}" for name, text in rest)])


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Nothing is wrong."
    errors = sum(finding.meaning.level == "error" for finding in findings)
    return f"{errors} errors, {len(findings) - errors} warnings."

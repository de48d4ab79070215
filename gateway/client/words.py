"""How verbs speak: help with its examples as they are written, and the nearest right word for a wrong one.

Not held here: any verb, what a verb shows (`gateway.client.output`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

import click

_EXAMPLES: Final = re.compile(r"\n\n(?=( *)(?:reelgate|source|export) )")
# What other command lines call a verb, where no letters are alike.
_ELSEWHERE: Final[Mapping[str, tuple[str, ...]]] = {
    "ls": ("list",), "show": ("get", "list", "status", "check"), "describe": ("get",), "new": ("create",),
    "add": ("create",), "delete": ("revoke", "cancel"), "rm": ("revoke", "cancel"), "remove": ("revoke",),
    "follow": ("watch",), "wait": ("watch",), "fetch": ("download",), "logs": ("timeline",),
    "events": ("timeline",), "start": ("serve",), "run": ("serve",), "up": ("serve",),
    "validate": ("check",), "lint": ("check",), "diagnose": ("doctor",), "disable": ("pause",),
    "enable": ("resume",), "dump": ("backup",), "cost": ("usage",), "costs": ("usage",),
}


class Command(click.Command):
    """A verb whose docstring has its examples, lines beginning with `reelgate`, shown as they are written."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Click's own, told not to wrap the examples."""
        self.help = _EXAMPLES.sub("\n\n\\1\b\n", self.help or "")
        super().format_help_text(ctx, formatter)


class Group(Command, click.Group):
    """A group of such verbs; of a word that is none of them it says which was meant, and which below it."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str],
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does. Raises NoSuchCommand, with what was meant in its message."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            said = f"No such command {error.command_name!r}."
            meant = [self._meant(ctx, name, args[1:]) for name in near(args[0], self.list_commands(ctx))]
            raise click.NoSuchCommand(error.command_name, did_you_mean(said, meant), ctx=ctx) from None

    def _meant(self, ctx: click.Context, name: str, rest: Sequence[str]) -> str:
        """`name`, and the verb below it that the next word is or is like."""
        below = self.get_command(ctx, name)
        if not rest or not isinstance(below, click.Group):
            return name
        names = below.list_commands(ctx)
        return " ".join([name, *([rest[0]] if rest[0] in names else near(rest[0], names)[:1])])


class Choice(click.Choice[str]):
    """One word of several; for another it says which was meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Click's own, and the nearest."""
        said = super().get_invalid_choice_message(value, ctx)
        return did_you_mean(said, near(str(value), list(self.choices)))


class Number(click.FloatRange):
    """A finite number in a range: click's own also takes `nan`, which is in every one, and `inf`."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None  # noqa: ANN401
    ) -> float:
        """The number. Raises BadParameter."""
        found = float(super().convert(value, param, ctx))
        return found if math.isfinite(found) else self.fail(f"{value!r} is no finite number.", param, ctx)


def near(word: str, known: Sequence[str]) -> list[str]:
    """The words of `known` that may be meant by `word`, the nearest first, at most three."""
    elsewhere = [name for name in _ELSEWHERE.get(word.lower(), ()) if name in known]
    return elsewhere or get_close_matches(word.lower(), known)


def did_you_mean(said: str, meant: Sequence[str]) -> str:
    """`said`, and what was meant, if anything may be."""
    return f"{said} Did you mean {' or '.join(map(repr, meant))}?" if meant else said

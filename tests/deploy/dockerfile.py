"""A Dockerfile as data: its stages, and the steps of each.

Held here: reading. Not held here: doing what they say (`image`).
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_REFERENCE = re.compile(r"\$\{(\w+)\}")


class Step(NamedTuple):
    """One instruction: its word in capitals, and what follows it on one line."""

    word: str
    text: str


class Stage(NamedTuple):
    """What `FROM base AS name` begins, `base` being an earlier stage or an image of somebody else's."""

    name: str
    base: str
    steps: list[Step]

    def last(self, word: str) -> str | None:
        """The text of the last instruction of that word."""
        return next((step.text for step in reversed(self.steps) if step.word == word), None)


def instructions(text: str) -> list[Step]:
    """Every instruction, in order, lines that go on joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [Step(*line.split(maxsplit=1)) for line in joined if line.strip()]


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, with the defaults of the arguments that stand before the first put in."""
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    current: Stage | None = None
    for word, raw in instructions(text):
        line = raw if word == "RUN" else _REFERENCE.sub(lambda one: arguments.get(one[1], one[0]), raw)
        if word == "FROM":
            base, _, name = line.split()
            current = found[name] = Stage(name, base, [])
        elif current is None:
            assert word == "ARG", line
            name, _, value = line.partition("=")
            arguments[name] = value
        else:
            current.steps.append(Step(word, line))
    return found


def argv(text: str) -> list[str]:
    """The words of an instruction in its JSON form."""
    words: list[str] = json.loads(text)
    return words

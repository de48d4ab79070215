"""How a fault is chosen: by a directive in a prompt, or armed by the admin route; and which strike now.

A prompt chooses with `[[fault:NAME]]` or `[[fault:NAME key=value phase=poll]]`, as often as it likes. Beside
a row's own arguments there are four:

    phase    `submit`, `poll`, `download`, or `all` that the row names; without it the first one, and all of
             them for a window
    vendor   strikes at that vendor only
    times    a number or `always`; without it every submit, else the row's own. On a submit a number counts
             submits of the same prompt: `[[fault:rate_limited times=2]]` is accepted at the third try
    lasts    seconds from its first strike on, in place of a number: a window

`[[ref:WORD]]` puts a reference of the caller's into the ledger. Neither is drawn on the test card. The admin
route arms the same rows for the next calls of a vendor.

Not held here: the table of faults and what they do (`catalogue`). Those below HTTP strike a whole port, and
no prompt gets that far: see `ports`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from gateway.sandbox.catalogue import FAULTS, Fault, Phase
from gateway.sandbox.wire import Call

VENDOR_NAMES = ("highwayapi", "myrouter", "unified")
_DIRECTIVE = re.compile(r"\[\[(fault|ref):([^\]]*)\]\]")
_PhaseOrAll: TypeAlias = Phase | Literal["all"]


class Armed(msgspec.Struct, kw_only=True):
    """A fault waiting to strike: `left` times more, None for always. `vendor` `*` means any.

    A window `lasts` so many seconds, until `ends_at` (Unix seconds), which its first strike sets.
    """

    name: str
    phase: _PhaseOrAll
    args: dict[str, str | int | float]
    vendor: str = "*"
    left: int | None = 1
    lasts: float | None = None
    ends_at: float | None = None
    used: int = 0

    @property
    def fault(self) -> Fault:
        """Its row."""
        return FAULTS[self.name]

    def strikes_at(self, phase: Phase) -> bool:
        """Whether it was armed for this phase."""
        return self.phase == phase or (self.phase == "all" and phase in self.fault.phases)

    def is_over(self, now: float) -> bool:
        """Whether it will not strike any more."""
        return self.left == 0 or (self.ends_at is not None and now >= self.ends_at)


class Directives(msgspec.Struct, frozen=True):
    """What a prompt asks of the simulator, and what is left: the words, and the caller's own reference."""

    words: str
    reference: str | None
    faults: list[Armed]


def arm(name: str, given: Mapping[str, object]) -> Armed:
    """A fault and its arguments. Raises ValueError for an unknown name, phase or argument, or a bad value."""
    if name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}")
    fault = FAULTS[name]
    if fault.port is not None:
        raise ValueError(f"{name} strikes a whole port: POST /admin/ports opens one")
    rest = {key: str(value) for key, value in given.items()}
    wanted = rest.pop("phase", "all" if fault.lasts else fault.phases[0])
    phases: tuple[_PhaseOrAll, ...] = (*fault.phases, "all")
    phase = next((known for known in phases if known == wanted), None)
    if phase is None:
        raise ValueError(f"{name} strikes at {', '.join(fault.phases)}, not at {wanted}")
    vendor = rest.pop("vendor", "*")
    if vendor not in {"*", *VENDOR_NAMES}:
        raise ValueError(f"no vendor is called {vendor!r}")
    lasts = float(rest.pop("lasts", fault.lasts or 0)) or None
    is_always = bool(lasts) or phase == "submit" or fault.times is None
    times = rest.pop("times", "always" if is_always else str(fault.times))
    left = None if times == "always" else int(times)
    if unknown := rest.keys() - fault.args.keys():
        raise ValueError(f"{name} has no argument {', '.join(sorted(unknown))}")
    args = {key: type(default)(rest.get(key, default)) for key, default in fault.args.items()}
    return Armed(name=name, phase=phase, args=args, vendor=vendor, left=left, lasts=lasts)


def directives(prompt: str) -> Directives:
    """The directives in a prompt. Raises ValueError as `arm`: a misspelt one must not pass for a good run."""
    reference, faults = None, []
    for kind, text in _DIRECTIVE.findall(prompt):
        if kind == "ref":
            reference = text
            continue
        name, *pairs = shlex.split(text) or [""]
        faults.append(arm(name, dict(pair.partition("=")[::2] for pair in pairs)))
    return Directives(" ".join(_DIRECTIVE.sub(" ", prompt).split()), reference, faults)


def take(
    armed: Iterable[Armed], vendor: str, phase: Phase, now: float, previous_id: str | None = None,
) -> list[tuple[Fault, Call]]:
    """Those that strike now, each one used up by one."""
    struck = []
    for one in armed:
        if not one.strikes_at(phase) or one.vendor not in {"*", vendor} or one.is_over(now):
            continue
        struck.append((one.fault, Call(args=one.args, used=one.used, previous_id=previous_id)))
        one.used += 1
        one.left = None if one.left is None else one.left - 1
        if one.lasts is not None and one.ends_at is None:
            one.ends_at = now + one.lasts
    return struck

"""Vendor simulators with a money ledger and faults: three strict protocols in one process.

Held here: what the simulators need and nobody else has. Not held here: the commands that start them, and
anything of `providers`, since a simulator that shares the adapters' code would prove nothing about them.
"""

from __future__ import annotations

NEEDS_EXTRA = "reelgate sandbox needs the extra: pip install 'reelgate[sandbox]'"

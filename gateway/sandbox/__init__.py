"""Vendor simulators with a money ledger and faults: three protocols in one process, strict, sharing no adapter's code.

Held here: what the simulators need and nobody else has. Not held here: the commands that start them, and anything of
`providers`, since a simulator that shares the adapters' code would prove nothing about them.
"""

from __future__ import annotations

NEEDS_EXTRA = "reelgate sandbox needs the extra: pip install 'reelgate[sandbox]'"

"""A caller of a running gateway, by its HTTP API alone: what `reelgate videos ...` and the demo are made of.

Not held here: anything that the gateway itself is made of.
"""

from __future__ import annotations

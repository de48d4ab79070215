"""How the gateways of these tests log. Held here: nothing else."""

from __future__ import annotations

from tests.logged import logs_as_at_work

__all__ = ["logs_as_at_work"]

"""Reelgate: a self-hosted gateway for AI video generation. The floor plan is in README.md."""
from __future__ import annotations

__version__ = "0.1.0"

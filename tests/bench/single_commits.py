"""`reelgate`, but every write is committed alone: what group commit is compared with.

Nothing else differs, and nothing else is held here.
"""

from __future__ import annotations

from unittest.mock import patch

from gateway.__main__ import main

if __name__ == "__main__":
    with patch("gateway.storage.sqlite.BATCH_MAX", 1):
        main()

"""`reelgate`, but every write is committed alone: what group commit is compared with. Nothing else differs."""

from __future__ import annotations

import sys
from unittest.mock import patch

from gateway.__main__ import main

if __name__ == "__main__":
    with patch("gateway.storage.sqlite.BATCH_MAX", 1):
        sys.exit(main())

"""What of a document is run: its `sh` blocks, without those that `places` says cannot be run here.

Also what the reader of some page has already, and the page does not build: a gateway under way.
"""

from __future__ import annotations

from typing import Final

from tests.docs.blocks import Block, blocks
from tests.docs.places import NOT_HERE

# A gateway before the simulators of the default port, and an operator's key.
GATEWAY: Final = """
cat > reelgate.toml <<'EOT'
[server]
listen = "127.0.0.1:8080"
[providers.highway]
adapter = "highwayapi"
base_url = "http://127.0.0.1:8090/highwayapi"
api_key = { env = "HIGHWAYAPI_KEY" }
EOT
export HIGHWAYAPI_KEY=sandbox-key
reelgate serve > gateway.log 2>&1 &
curl --fail --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz
export REELGATE_KEY=$(reelgate keys create me --role operator)
"""


def scene(name: str, text: str) -> Block:
    """Commands of ours, to be run before those of a page."""
    return Block("tests/docs/scenes.py", name, 0, "sh", text, follows=False)


def runnable(document: str) -> list[Block]:
    """The commands of a document that are run here, in their order."""
    return [
        block for block in blocks(document)
        if block.kind == "sh" and (document, block.first_line) not in NOT_HERE
    ]

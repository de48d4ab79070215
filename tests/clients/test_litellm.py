"""LiteLLM's video functions pointed at the gateway: `litellm_life.py` lives a video's life.

In an environment of its own, which `make clients` makes: the newest version, so no part of the suite without
it. Not held here: what the script does.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from tests.api.bodies import png
from tests.clients.conftest import Place
from tests.serving import PATIENCE_SECONDS, Json

SCRIPT = Path(__file__).with_name("litellm_life.py")
PYTHON = Path(__file__).parents[2] / ".venv/litellm/bin/python"


@pytest.mark.long
def test_a_whole_life(place: Place) -> None:
    if not PYTHON.exists():
        pytest.skip("LiteLLM is not installed; to run this: make clients")
    environ = {
        "BASE_URL": place.base_url, "OPENAI_API_KEY": place.key, "LITELLM_TELEMETRY": "False",
        "PICTURE": base64.b64encode(png(640, 480)).decode(), "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    told: Json = {}
    with subprocess.Popen(
        [str(PYTHON), str(SCRIPT)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("{"):
                told |= json.loads(line)
            if list(told) == ["created"]:
                (with_image, plain) = place.client.get("/v1/videos").json()["data"]
                place.served.finish(with_image["id"], place.client)
                assert with_image["request"]["image"] is not None
                assert plain["size"] == told["created"]["size"] == "1280x720"
        complaint = process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 0, complaint
    assert told["ended"]["status"] == "completed"
    assert told["content"]["is_mp4"]
    assert told["listed"] == 2
    assert told["wrong"]["kind"] == "BadRequestError"
    assert "seconds" in told["wrong"]["message"]

"""The life of a video by LiteLLM's video functions, pointed at the gateway. Run by an environment of its own.

`OPENAI_API_KEY` and `BASE_URL` say where; prints one JSON object a line. Whoever started it lets the render
end when it has read `created`. Not held here: what is expected (`test_litellm`).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from typing import Any

import litellm  # type: ignore[import-not-found,unused-ignore]

WHERE: dict[str, Any] = {
    "api_base": os.environ["BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"],
    "custom_llm_provider": "openai",
}
POLL_SECONDS = 0.1


def say(name: str, value: object) -> None:
    """Tell who started it."""
    sys.stdout.write(json.dumps({name: value}) + "\n")
    sys.stdout.flush()


def refused(**arguments: object) -> dict[str, object]:
    """What LiteLLM makes of a refusal."""
    try:
        litellm.video_generation(**arguments, **WHERE)
    except Exception as error:  # noqa: BLE001 - whatever it raises is what is looked at
        return {"kind": type(error).__name__, "message": str(error)[:500]}
    return {}


def main() -> None:
    """Live it."""
    picture = base64.b64decode(os.environ["PICTURE"])
    asked = {"prompt": "a fox", "model": "openai/kling-v3", "seconds": "5"}
    plain = litellm.video_generation(**asked, size="1280x720", **WHERE)
    video = litellm.video_generation(**asked, input_reference=picture, **WHERE)
    say("created", {"id": video.id, "plain": plain.id, "size": plain.size})
    while (seen := litellm.video_status(video_id=video.id, **WHERE)).status in ("queued", "in_progress"):
        time.sleep(POLL_SECONDS)
    say("ended", {"id": seen.id, "status": seen.status})
    content = litellm.video_content(video_id=video.id, **WHERE)
    say("content", {"bytes": len(content), "is_mp4": content[4:8] == b"ftyp"})
    listed = litellm.video_list(**WHERE)
    say("listed", len(listed["data"] if isinstance(listed, dict) else listed.data))
    say("wrong", refused(prompt="a fox", model="openai/kling-v3", seconds="99"))


if __name__ == "__main__":
    main()

"""What already stops the start, told as findings: which rule each problem of the settings belongs to.

Not held here: the problems themselves (`gateway.settings`).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.doctor.rules import Finding
from gateway.reading import Problem

# The first row decides whose patterns are found in the problem's path and in its message.
_ROWS: Final = tuple((re.compile(path), re.compile(message), rule) for path, message, rule in (
    (r"^$", r"^(cannot be read|is not UTF-8)", "file-unreadable"),
    (r"", r"^not TOML", "not-toml"),
    (r"", r"environment variable \S+ is not set", "secret-variable-missing"),
    (r"", r"^(environment variable|file) \S+ is empty", "secret-empty"),
    (r"", r"^file .* (cannot be read|is longer than|is not UTF-8)", "secret-file-unreadable"),
    (r"", r"a secret is not written here|name of an environment variable, not a value", "secret-written-out"),
    (r"", r"holds a space, a line break", "secret-has-odd-characters"),
    (r"", r"whsec_", "webhook-secret-malformed"),
    (r"base_url$", r"^is required", "base-url-missing"),
    (r"base_url$", r"^plain http", "base-url-plain-http"),
    (r"^auth\.mode$", r"needs server\.listen to be loopback", "auth-off-public"),
    (r"^default_model$", r"no offering that is on", "default-model-unserved"),
    (r"poll_min$", r"longer than poll_max", "poll-bounds-crossed"),
    (r"^egress\.ca_file$", r"", "ca-file-unusable"),
    (r"^store\.url$", r"", "store-url-malformed"),
    (r"^providers$", r"no provider", "no-provider"),
    (r"", r"^unknown ", "unknown-name"),
    (r"", r"", "value-refused"),
))


def told(problem: Problem) -> Finding:
    """The problem as a finding."""
    rule = next(
        rule for path, message, rule in _ROWS if path.search(problem.path) and message.search(problem.message)
    )
    return Finding(rule, problem.path, problem.message)

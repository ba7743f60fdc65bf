"""Why clients are refused, and how each API says it."""

from pathlib import Path
from typing import NamedTuple

from tests.e2e.daemon import Daemon

WRONG_KEY = "whd_wrong"


class Request(NamedTuple):
    """What a client is to ask: of which daemon, about which file, by which key."""

    why: str  # it is refused
    daemon: Daemon
    path: Path
    key: str = "any"
    scenario: str = "json"  # of the clients' scripts

    @property
    def model(self):
        return "no-such-model" if self.scenario == "unknown_model" else "whisper-1"


OPENAI = {
    "bad_file": (400, "unsupported_media"),
    "unknown_model": (404, "model_not_found"),
    "wrong_key": (401, "invalid_api_key"),
    "full_queue": (429, "queue_full"),
}
OPENAI_ERRORS = {  # the classes of its client, which others raise, too
    "bad_file": "BadRequestError",
    "unknown_model": "NotFoundError",
    "wrong_key": "AuthenticationError",
    "full_queue": "RateLimitError",
}
OURS = {
    "bad_file": (415, "unsupported_media"),
    "unknown_model": (422, "model_not_found"),
    "wrong_key": (401, "invalid_api_key"),
    "full_queue": (503, "queue_full"),
}

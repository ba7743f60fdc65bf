"""Where the daemon listens, and whom it serves."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from whisperd.config.declaring import DAY_SECONDS, NotEmpty, key


class Http(Struct, frozen=True, kw_only=True):
    """Where the daemon listens, and whom it serves."""

    host: Annotated[NotEmpty, key("Address to bind. Without keys only loopback is served.")] = "127.0.0.1"
    port: Annotated[int, key("0 takes a free port; the ready line names it.", 0, 65535)] = 8002
    max_upload_bytes: Annotated[
        int, key("Larger submissions are refused with 413, before they are stored (4 GiB).", 1, 2**50)
    ] = 4 * 2**30
    allowed_hosts: Annotated[
        tuple[str, ...],
        key(
            "Host headers served, while there are no keys, besides localhost, 127.0.0.1 and [::1]; written "
            "without the port."
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        key(
            "Sites whose pages a browser lets read the answers (CORS), and which are served without keys "
            'besides the daemon\'s own: "https://app.example.org".'
        ),
    ] = ()
    allowed_roots: Annotated[
        tuple[str, ...],
        key("Folders below which `audio_path` may name a file. With none, `audio_path` is refused."),
    ] = ()
    max_connections: Annotated[
        int,
        key(
            "At a time. Beyond, requests are answered 503, but for /health, and connections that ask "
            "nothing are closed.",
            1,
            1_000_000,
        ),
    ] = 1000
    head_seconds: Annotated[
        float, key("How long the head of a request may take to come.", 0.001, DAY_SECONDS)
    ] = 10
    keep_alive_seconds: Annotated[
        int, key("How long a connection stays open for a next request.", 0, DAY_SECONDS)
    ] = 15
    slow_seconds: Annotated[
        float,
        key(
            "A client is cut off when the body that it sends, or the answer that it reads, for so long,",
            0.001,
            DAY_SECONDS,
        ),
    ] = 30
    min_bytes_per_second: Annotated[int, key("goes on more slowly than this.", 0, 2**30)] = 1024
    interactive_priority: Annotated[
        int, key("Of tasks whose client waits for the transcript, connected.", -100, 100, reload=True)
    ] = 10
    abandoned_seconds: Annotated[
        float,
        key("Such a task is cancelled when its client has been gone for so long.", 0, 86_400, reload=True),
    ] = 30
    heartbeat_after_seconds: Annotated[
        float,
        key(
            "An answer in JSON that takes longer is begun: with spaces, so that no client gives up.",
            0,
            86_400,
            reload=True,
        ),
    ] = 15
    heartbeat_seconds: Annotated[float, key("Wait between two such spaces.", 0.001, 86_400, reload=True)] = 10
    session_hours: Annotated[
        float, key("How long a browser stays signed in to the dashboard.", 0.001, 8784, reload=True)
    ] = 168

"""The keys of what the daemon calls."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from whisperd.config.declaring import DAY_SECONDS, key

_ENDPOINT = r"^https?://[^@/?#\s]+([/?][^#\s]*)?$"
# Of 24 bytes (no padding), to 64.
_SIGNING_SECRET = r"^whsec_(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class Outbound(Struct, frozen=True, kw_only=True):
    """Requests to addresses that users name: only to the public internet, but for what is allowed here."""

    allowed_networks: Annotated[
        tuple[str, ...],
        key(
            'Networks that may be called too: "10.1.0.0/16". The daemon is in 127.0.0.0/8.',
            networks=True,
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...], key('Hosts that may be called whatever their address: "nas.lan"; without the port.')
    ] = ()
    connect_seconds: Annotated[
        float,
        key("How long a host may take to be found, and to take a connection.", 0.001, 600),
    ] = 10
    download_seconds: Annotated[
        float, key("How long the file of an `audio_url` may take to come.", 0.001, DAY_SECONDS)
    ] = 300


class Webhooks(Struct, frozen=True, kw_only=True):
    """Who is told of tasks that are over, besides their `callback_url`: see docs/webhooks.md."""

    endpoints: Annotated[
        tuple[Annotated[str, Meta(pattern=_ENDPOINT, title="URLs with no user or password in them")], ...],
        key(
            "Hear of every task. Never printed, since their paths are often secret. May be on a private "
            "network.",
            reload=True,
            secret=True,
        ),
    ] = ()
    secrets: Annotated[
        tuple[Annotated[str, Meta(pattern=_SIGNING_SECRET, title='texts "whsec_…" (base64)')], ...],
        key(
            'Sign what is sent: "whsec_" and 24 to 64 bytes as base64. With several each signs, so that '
            "one can be replaced without a break. []: one is made and kept in data_dir; see `whisperd "
            "webhooks secret`.",
            reload=True,
            secret=True,
        ),
    ] = ()

    def __repr__(self) -> str:
        return f"Webhooks(<{len(self.endpoints)} endpoints>, …)"

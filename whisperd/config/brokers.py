"""The keys of the message broker."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from whisperd.config.declaring import NotEmpty, key

_URL = r"^(amqps?://[^@/?#\s]+(/[^@/?#\s]*)?)?$"


class Brokers(Struct, frozen=True, kw_only=True):
    """Tasks from RabbitMQ, see docs/brokers.md. Needs the extra brokers: pip install 'whisperd[brokers]'."""

    url: Annotated[
        str,
        Meta(pattern=_URL, title='a URL like "amqp://host:5672/vhost" with no user or password in it'),
        key('"amqp://host:5672/vhost"; amqps:// is TLS. "": none.'),
    ] = ""
    username: Annotated[str, key('"": RabbitMQ\'s guest.')] = ""
    password_file: Annotated[str, key("A file with the password.")] = ""
    ca_file: Annotated[str, key('Certificates of those who may vouch for the server; "": the system\'s.')] = (
        ""
    )
    tasks: Annotated[str, key('The queue that tasks come from; "": none come.')] = "whisperd.tasks"
    dead: Annotated[NotEmpty, key("The queue for messages that are refused.")] = "whisperd.dead"
    events: Annotated[str, key('The exchange that is told of tasks that are over; "": none is.')] = (
        "whisperd.events"
    )
    key_file: Annotated[
        str, key("A file with the key that tasks are submitted with, where whisperd has keys.")
    ] = ""

    @property
    def address(self) -> str | None:
        """What hears of tasks that are over, as a URL; None: nothing does."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{self.events}" if self.url and self.events else None

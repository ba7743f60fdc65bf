"""The keys of the message broker."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from whisperd.config.declaring import NotEmpty, key

_URL = r"^(amqps?://[^@/?#\s]+(/[^@/?#\s]*)?|kafkas?://[^@/?#,\s]+(,[^@/?#,\s]+)*)?$"
_LIKE = '"amqp://host:5672/vhost" or "kafka://host:9092,host2:9092"'


class Brokers(Struct, frozen=True, kw_only=True):
    """Tasks from RabbitMQ or Kafka, see docs/brokers.md. Needs the extra: pip install 'whisperd[brokers]'."""

    url: Annotated[
        str,
        Meta(pattern=_URL, title=f"a URL like {_LIKE} with no user or password in it"),
        key(f'{_LIKE}; amqps:// and kafkas:// are TLS. "": none.'),
    ] = ""
    username: Annotated[str, key('"": RabbitMQ\'s guest; with Kafka, none.')] = ""
    password_file: Annotated[str, key("A file with the password.")] = ""
    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], key("How Kafka is shown the password.")
    ] = "PLAIN"
    ca_file: Annotated[str, key('Certificates of those who may vouch for the server; "": the system\'s.')] = (
        ""
    )
    tasks: Annotated[str, key('The queue, or topic, that tasks come from; "": none come.')] = "whisperd.tasks"
    dead: Annotated[NotEmpty, key("The queue, or topic, for messages that are refused.")] = "whisperd.dead"
    events: Annotated[str, key('The exchange, or topic, that is told of ended tasks; "": none is.')] = (
        "whisperd.events"
    )
    group: Annotated[NotEmpty, key("The consumer group, with Kafka.")] = "whisperd"
    key_file: Annotated[
        str, key("A file with the key that tasks are submitted with, where whisperd has keys.")
    ] = ""

    @property
    def address(self) -> str | None:
        """What hears of tasks that are over, as a URL; of Kafka without its hosts, which may change.

        None: nothing does.
        """
        scheme, _, rest = self.url.partition("://")
        host = "" if scheme.startswith("kafka") else rest.partition("/")[0]
        return f"{scheme}://{host}/{self.events}" if self.url and self.events else None

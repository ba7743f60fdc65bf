"""The keys of the queue that several hosts share."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from whisperd.config.declaring import NotEmpty, key

_URL = r"^(rediss?://([^@/?#\s]*@)?[^@/?#\s]+(/[0-9]*)?)?$"
_Queue = Annotated[
    str, Meta(pattern=r"^[^:\s]+$", title="a name without colons and blanks")  # BullMQ's rule, and ours
]
_TAGS = r"^(model|tenant):\S+( (model|tenant):\S+)*$"
_STORAGE = r"^(s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9](/[^?#\s]*)?|/.*)?$"


class Redis(Struct, frozen=True, kw_only=True):
    """Several hosts, one queue, see docs/redis.md. Needs the extra redis: pip install 'whisperd[redis]'."""

    url: Annotated[
        str,
        Meta(pattern=_URL, title='a URL like "redis://host:6379/0", or rediss:// for TLS'),
        key(
            '"": this host has a queue of its own. "redis://host:6379/0"; rediss:// is TLS; of a Redis '
            'Cluster some nodes: "redis://one,two". Never printed: there may be a password in it.',
            secret=True,
        ),
    ] = ""
    sentinel_master: Annotated[
        str,
        key(
            "The name by which Sentinels know the master; then url names them: "
            '"redis://one:26379,two:26379/0". "": url names the server.'
        ),
    ] = ""
    sentinel_password_file: Annotated[str, key('A file with the Sentinels\' own password; "": none.')] = ""
    role: Annotated[
        Literal["both", "api", "worker"],
        key(
            "What this host does for the others. both; api: takes submissions and questions, but no tasks, "
            "and needs no model; worker: takes tasks, and answers for its own state only."
        ),
    ] = "both"
    username: Annotated[str, key('Of an ACL; "": the default user, or the one in the URL.')] = ""
    password_file: Annotated[str, key('A file with the password; "": the one in the URL, or none.')] = ""
    ca_file: Annotated[str, key('Certificates of those who may vouch for the server; "": the system\'s.')] = (
        ""
    )
    cert_file: Annotated[str, key("Of this client, where the server asks for one, with its")] = ""
    key_file: Annotated[str, key("key.")] = ""
    queue: Annotated[_Queue, key("The name of the queue.")] = "transcription"
    take_from: Annotated[
        tuple[_Queue, ...],
        key("The queues that this host takes tasks from: the first of them that has one. []: from queue."),
    ] = ()
    routes: Annotated[
        dict[Annotated[str, Meta(pattern=_TAGS)], _Queue],
        key(
            "Into which other queue a task goes, by the first entry that fits: "
            '{ "model:large-v3" = "gpu", "tenant:acme model:base" = "acme" }'
        ),
    ] = {}
    prefix: Annotated[
        NotEmpty,
        key(
            "What the names of its keys in Redis begin with. In a Redis Cluster it has a hash tag, which "
            'puts them on one node: "{bull}".'
        ),
    ] = "bull"
    storage: Annotated[
        str,
        Meta(pattern=_STORAGE, title='"s3://bucket/prefix" or the path of a folder'),
        key(
            'Where audio and transcripts lie for all hosts: "s3://bucket/prefix", a bucket of s3.buckets; or '
            "a folder that each of them has mounted."
        ),
    ] = ""
    lock_seconds: Annotated[
        float, key("What a host took is taken from it when it gives no sign of life for so long.", 2, 3600)
    ] = 15
    stalled_seconds: Annotated[float, key("Between two looks for what was left so.", 0.5, 3600)] = 10
    max_stalled: Annotated[
        int, key("A task that was left so more often has failed: it may be what kills its hosts.", 1, 1000)
    ] = 3

    @property
    def takes_tasks(self) -> bool:
        return self.role != "api"

    @property
    def takes_from(self) -> tuple[str, ...]:
        return self.take_from or (self.queue,)

    @property
    def answers(self) -> bool:
        """Whether others ask this host about tasks."""
        return self.role != "worker"

    def __repr__(self) -> str:
        return f"Redis(queue={self.queue!r}, …)"

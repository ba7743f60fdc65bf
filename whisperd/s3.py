"""The way to a bucket in S3, or in what speaks like it: the client, and its troubles in our words.

Needs obstore (`pip install 'whisperd[s3]'`), which is loaded with the first bucket. What the service says in
an error may quote keys and signatures: nothing of it is passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from whisperd.config import S3Service

if TYPE_CHECKING:  # it costs memory, and need not be installed
    from obstore.store import S3Config, S3Store


class S3Error(Exception):
    """The bucket cannot be reached, or answers with an error; later it may. The message is safe to show."""


class S3Missing(S3Error):
    """The library is not installed."""


class S3Refused(S3Error):
    """The access key may not do this."""


class S3NotFound(S3Error):
    """There is no such object, or no such bucket."""


class S3Exists(S3Error):
    """There is an object of this name, and it was to be a new one."""


def opened(settings: S3Service, bucket: str, prefix: str = "") -> S3Store:
    """A client for one bucket; connects to nothing yet. Raises S3Missing."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise S3Missing("S3 needs a library more: pip install 'whisperd[s3]'") from error
    config: S3Config = {
        "region": settings.region,
        "virtual_hosted_style_request": not settings.path_style,
    }
    if settings.endpoint:
        config["endpoint"] = settings.endpoint
    if settings.access_key_id:  # else obstore looks at AWS_ACCESS_KEY_ID and its like
        config["access_key_id"] = settings.access_key_id
        config["secret_access_key"] = settings.secret_access_key
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        config=config,
        client_options={
            "allow_http": settings.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=10),
            "timeout": timedelta(seconds=120),  # of a request, so of one part
        },
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=120)},
    )


@contextmanager
def troubles(where: str, name: str = "") -> Iterator[None]:
    """What goes wrong in the block becomes an S3Error that names the bucket, as `where` has it."""
    from obstore import exceptions as theirs

    try:
        yield
    except (theirs.UnauthenticatedError, theirs.PermissionDeniedError) as error:
        raise S3Refused(f"the {where} refuses the access key") from error
    except (FileNotFoundError, theirs.NotFoundError) as error:  # which of them: the version decides
        raise S3NotFound(f"there is no {name + ' in the ' if name else ''}{where}") from error
    except (theirs.AlreadyExistsError, theirs.PreconditionError) as error:
        raise S3Exists(f"there is such an object in the {where}") from error
    except theirs.BaseError as error:
        raise S3Error(f"the {where} cannot be reached, or answers with an error") from error

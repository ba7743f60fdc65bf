"""The way to a bucket in S3, or in what speaks like it: the client, and its troubles in our words.

Needs obstore (`pip install 'whisperd[s3]'`), which is loaded with the first bucket. What the service says in
an error may quote keys and signatures: nothing of it is passed on.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from whisperd.config import S3Service

if TYPE_CHECKING:  # it costs memory, and need not be installed
    from obstore.store import S3Config, S3Store

_STATUS = re.compile("status code: (401|403|404)")
AT_ONCE = 1000  # objects of a list, which S3 takes for one removal
T = TypeVar("T")


class S3Error(Exception):
    """The bucket cannot be reached, or answers with an error; later it may. The message is safe to show."""


class S3Unusable(S3Error):
    """The settings do not go together, or the library is missing: whoever runs this has to look."""


class S3Missing(S3Unusable):
    """The library is not installed."""


class S3Refused(S3Error):
    """The access key may not do this."""


class S3NotFound(S3Error):
    """There is no such object, or no such bucket."""


class S3Exists(S3Error):
    """There is an object of this name, and it was to be a new one."""


class Link(NamedTuple):
    url: str  # whoever has it reads that object, without a key
    expires_at: float  # Unix seconds


def opened(settings: S3Service, bucket: str, prefix: str = "") -> S3Store:
    """A client for one bucket; connects to nothing yet. Raises S3Unusable."""
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
    _encrypt(config, settings)
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


def _encrypt(config: S3Config, settings: S3Service) -> None:
    if settings.encryption != "default":
        config["server_side_encryption"] = settings.encryption
    if settings.kms_key_id:
        if not settings.encryption.startswith("aws:kms"):  # else it is not sent, or means nothing
            raise S3Unusable("kms_key_id is a key for aws:kms or aws:kms:dsse: set encryption to one of them")
        config["sse_kms_key_id"] = settings.kms_key_id


async def link(store: S3Store, key: str, seconds: int) -> Link:
    """To an object, whether it is there or not: it is signed here. Raises what obstore does."""
    import obstore

    url = await obstore.sign_async(store, "GET", key, timedelta(seconds=seconds))
    signed = parse_qs(urlsplit(url).query)
    made_at = datetime.strptime(signed["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return Link(url, made_at.timestamp() + int(signed["X-Amz-Expires"][0]))


async def each(
    stream: AsyncIterator[T], troubles: Callable[[], AbstractContextManager[None]]
) -> AsyncIterator[T]:
    """What it yields; what goes wrong in it is told as `troubles` tells it."""
    while True:
        with troubles():  # not around the yield: what goes wrong there is no trouble of the bucket
            one = await anext(stream, None)
        if one is None:
            return
        yield one


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
        raise _of_list(str(error), where) from error


def _of_list(said: str, where: str) -> S3Error:
    """Why a list is refused stands in the library's words alone; of any other trouble they tell nothing."""
    status = _STATUS.search(said)
    if status is not None and status[1] == "404":
        return S3NotFound(f"there is no {where}")
    if status is not None:
        return S3Refused(f"the {where} refuses the access key")
    return S3Error(f"the {where} cannot be reached, or answers with an error")

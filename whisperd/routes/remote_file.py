"""`audio_url`: a file at an address that the client names, fetched before the task is acknowledged.

So what is wrong with it is told at once. The URL is not kept and not logged: there may be a secret in it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from whisperd.buckets import is_s3
from whisperd.outbound import AnswerTooLarge, OutboundError, UrlRefused
from whisperd.routes import Services
from whisperd.routes.errors import RETRY_AFTER, Refusal, explained
from whisperd.routes.form import file_name
from whisperd.spool import Incoming, TooLarge
from whisperd.turns import NoTurn


async def fetch_remote(url: str, incoming: Incoming, here: Services, tenant: str) -> str:
    """Write what is at `url` to the spool. Returns its name. Raises Refusal, StorageFull."""
    try:
        async with here.sources.open(url, here.config.http.max_upload_bytes, tenant) as download:
            incoming.expect(download.declared)
            async for piece in download.pieces:
                await incoming.write(piece)
    except NoTurn as error:
        raise _crowded(error) from None
    except UrlRefused as error:
        raise Refusal(422, "url_refused", str(error), "audio_url") from None
    except (AnswerTooLarge, TooLarge) as error:
        raise Refusal(413, "too_large", explained(error), "audio_url") from None
    except OutboundError as error:
        raise Refusal(422, "download_failed", f"the file was not fetched: {error}", "audio_url") from None
    return _last_part(url)


def _crowded(error: NoTurn) -> Refusal:
    if error.own:
        message = "as many files are being fetched for this tenant as may be at a time; try again later"
        return Refusal(429, "concurrency_limit", message, "audio_url", RETRY_AFTER)
    message = "as many files are being fetched as may be at a time; try again later"
    return Refusal(503, "too_many_downloads", message, "audio_url", RETRY_AFTER)


def _last_part(url: str) -> str:
    """Of its path; what stands behind a ? is nobody's business."""
    if is_s3(url):  # where a ? or a % means nothing else
        return file_name(url.rpartition("/")[2].encode())
    path = re.split(r"[?#]", url)[0].partition("://")[2].partition("/")[2]
    return file_name(unquote_to_bytes(path))

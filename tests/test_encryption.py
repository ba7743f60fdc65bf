"""What is written to a bucket asks its service to encrypt it, as the settings have it."""

import asyncio

import obstore
import pytest

from tests.redis.conftest import in_s3
from tests.s3_server import KEY, SECRET, serving
from whisperd import s3
from whisperd.backup import Keep
from whisperd.buckets import Buckets
from whisperd.config import S3, BackupS3
from whisperd.offsite import Offsite, OffsiteError

ENCRYPTION, KMS_KEY = "HTTP_X_AMZ_SERVER_SIDE_ENCRYPTION", "HTTP_X_AMZ_SERVER_SIDE_ENCRYPTION_AWS_KMS_KEY_ID"
PART = 5 * 2**20  # what is larger is sent in parts


class Notes:
    """What the server was asked for, of each object that was written."""

    def __init__(self):
        self.asked = []

    def __call__(self, environ):
        is_new = environ["REQUEST_METHOD"] in ("PUT", "POST") and "uploadId" not in environ["QUERY_STRING"]
        if is_new and environ["PATH_INFO"].count("/") > 2:
            self.asked.append((environ.get(ENCRYPTION), environ.get(KMS_KEY)))
        return False


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, (None, None)),
        ({"encryption": "AES256"}, ("AES256", None)),
        ({"encryption": "aws:kms"}, ("aws:kms", None)),
        ({"encryption": "aws:kms:dsse", "kms_key_id": "alias/w"}, ("aws:kms:dsse", "alias/w")),
    ],
)
def test_whatever_is_written_asks_for_what_is_set(tmp_path, settings, asked):
    large = tmp_path / "large.wav"
    large.write_bytes(b"s" * (2 * PART))

    async def body(port):
        storage = in_s3(port, "shared", **settings)
        await storage.keep_audio("t1", large)
        await storage.keep_result("t1", b"said")
        await storage.keep_rendered("t1.srt", b"said", "text/plain")
        await obstore.put_async(storage.checkpoints, "t1/f00d/12", b"{}")
        keys = {"endpoint": f"http://127.0.0.1:{port}", "access_key_id": KEY, "secret_access_key": SECRET}
        await Buckets(S3(**keys, buckets=("media",), **settings)).write("s3://media/out/a", b"", "text/plain")
        copies = s3.opened(BackupS3(**keys, bucket="media", **settings), "media", "copies")
        await obstore.put_async(copies, "a.zst", b"")

    notes = Notes()
    with serving(bucket="media", refuses=notes) as port:
        asyncio.run(body(port))

    assert notes.asked == [asked] * 6


@pytest.mark.parametrize("encryption", ["default", "AES256"])
def test_a_key_without_the_encryption_that_it_is_for_is_refused(encryption):
    with pytest.raises(s3.S3Unusable, match="set encryption to one of them"):
        Buckets(S3(buckets=("media",), encryption=encryption, kms_key_id="alias/w"))
    with pytest.raises(OffsiteError, match="set encryption to one of them"):
        Offsite(BackupS3(bucket="b", encryption=encryption, kms_key_id="alias/w"), Keep())

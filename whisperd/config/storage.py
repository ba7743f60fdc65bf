"""The keys of what is kept: in folders, in S3, in backups."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from whisperd.config.declaring import DAY_SECONDS, PLAIN_URL, NotEmpty, key

_BUCKET = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"
_PLACE = r"^(s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]/[A-Za-z0-9._/-]*[A-Za-z0-9._-]/?)?$"


class Storage(Struct, frozen=True, kw_only=True):
    """Where everything is kept."""

    data_dir: Annotated[
        str, key('"": $STATE_DIRECTORY, else $XDG_DATA_HOME/whisperd, else ~/.local/share/whisperd.')
    ] = ""
    models_dir: Annotated[str, key('"": the folder models in data_dir.')] = ""
    warn_free_mb: Annotated[
        int,
        key(
            "With less disk space free /health is degraded, while all goes on; 0: never.",
            0,
            2**30,
            reload=True,
        ),
    ] = 1000
    min_free_mb: Annotated[
        int, key("Submissions are refused (507) when less disk space is free.", 0, 2**30, reload=True)
    ] = 200


class S3Service(Struct, frozen=True, kw_only=True):
    """S3, or what speaks like it: where it is, and the key to it."""

    endpoint: Annotated[
        str,
        Meta(pattern=PLAIN_URL),
        key('"": Amazon\'s; else the URL of the service, without user and password.'),
    ] = ""
    region: Annotated[NotEmpty, key("Where the buckets are.")] = "us-east-1"
    access_key_id: Annotated[
        str,
        key('"": AWS_ACCESS_KEY_ID and the other AWS_ variables hold. Is never printed.', secret=True),
    ] = ""
    secret_access_key: Annotated[
        str,
        key("Is never printed. Better kept in a variable than in a file that others may read.", secret=True),
    ] = ""
    path_style: Annotated[bool, key("Name the bucket in the path of the URL, not in the host.")] = True
    encryption: Annotated[
        Literal["default", "AES256", "aws:kms", "aws:kms:dsse"],
        key(
            "How the service is asked to encrypt what is written: AES256, aws:kms or aws:kms:dsse. default: "
            "as the bucket has it."
        ),
    ] = "default"
    kms_key_id: Annotated[
        str, key('The key, with aws:kms and aws:kms:dsse; "": that of the account. It is an id, no secret.')
    ] = ""


class S3(S3Service, frozen=True, kw_only=True):
    """Where `s3://` of `audio_url` and `result_url` leads. Needs the extra s3: pip install 'whisperd[s3]'."""

    buckets: Annotated[
        tuple[Annotated[str, Meta(pattern=_BUCKET)], ...],
        key(
            "Those that whoever may submit can read and write with the key above. With none, `s3://` is "
            "refused."
        ),
    ] = ()
    links: Annotated[
        str,
        Meta(pattern=_PLACE, title='"s3://bucket/prefix"'),
        key(
            'Where the transcripts lie that GET /tasks/{id}/link leads to: "s3://bucket/prefix", for these '
            'alone. "": the folder links of redis.storage where that is a bucket; else there are no links.'
        ),
    ] = ""
    link_seconds: Annotated[
        int, key("How long a link works, at most and if nobody asks for less: up to a week.", 1, 604_800)
    ] = 3600

    def __repr__(self) -> str:
        return f"S3(buckets={self.buckets!r}, …)"  # a log line or a traceback is no place for the key


class BackupS3(S3Service, frozen=True, kw_only=True):
    """A copy of each backup in S3, or what speaks like it. Needs the extra s3: pip install 'whisperd[s3]'."""

    bucket: Annotated[str, key('"": no copy is made.')] = ""
    prefix: Annotated[str, key("What the names of the copies begin with.")] = "whisperd/"

    def __repr__(self) -> str:
        return f"BackupS3(bucket={self.bucket!r}, …)"


class Backup(Struct, frozen=True, kw_only=True):
    """Snapshots of the database while it runs: checked, compressed, and thinned out as they age."""

    interval_seconds: Annotated[
        float, key("From one backup to the next, at most a day.", 1, DAY_SECONDS, reload=True)
    ] = 300
    folder: Annotated[str, key('"": the folder backups in data_dir. Another disk is better.')] = ""
    keep_newest: Annotated[int, key("So many of the newest are kept,", 1, 100_000, reload=True)] = 12
    keep_hourly: Annotated[
        int, key("and the last one of each of so many hours,", 0, 100_000, reload=True)
    ] = 24
    keep_daily: Annotated[int, key("and of so many days (UTC).", 0, 100_000, reload=True)] = 14
    compression_level: Annotated[int, key("Of zstd: 1 is quick, 19 small.", 1, 19)] = 3
    s3: BackupS3 = BackupS3()

"""config.toml + environment -> one frozen Config.

`keys` declares what can be set and is the single source of it; `reading` takes it from file, environment and
command line; `printing` shows it. Every key is also the environment variable `WHISPERD_SECTION__KEY`.
"""

from whisperd.config.keys import (
    DATABASE,
    KEYS,
    S3,
    Audio,
    Backup,
    BackupS3,
    Config,
    Http,
    Key,
    Log,
    Outbound,
    PlanLimits,
    Plans,
    Queue,
    Retention,
    S3Service,
    Shutdown,
    Storage,
    TenantLimits,
    Webhooks,
    Workers,
    cores,
    with_values,
)
from whisperd.config.printing import hidden, to_toml
from whisperd.config.reading import ConfigError, find, load, read

__all__ = [
    "DATABASE",
    "KEYS",
    "S3",
    "Audio",
    "Backup",
    "BackupS3",
    "Config",
    "ConfigError",
    "Http",
    "Key",
    "Log",
    "Outbound",
    "PlanLimits",
    "Plans",
    "Queue",
    "Retention",
    "S3Service",
    "Shutdown",
    "Storage",
    "TenantLimits",
    "Webhooks",
    "Workers",
    "cores",
    "find",
    "hidden",
    "load",
    "read",
    "to_toml",
    "with_values",
]

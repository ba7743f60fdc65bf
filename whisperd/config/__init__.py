"""config.toml + environment -> one frozen Config.

`http`, `queue`, `workers`, `storage`, `risk`, `redis`, `brokers`, `outbound` and `daemon` declare what can be
set, each its sections, and `keys` joins them: the single source of it. `reading` takes it from file,
environment and the command line; `printing` shows it. Every key is also the environment variable
`WHISPERD_SECTION__KEY`.
"""

from whisperd.config.brokers import Brokers
from whisperd.config.daemon import Logging, Metrics, Shutdown, Tracing
from whisperd.config.http import Http
from whisperd.config.keys import DATABASE, KEYS, Config, Key, with_values
from whisperd.config.outbound import Outbound, Webhooks
from whisperd.config.printing import hidden, to_toml
from whisperd.config.queue import Cache, PlanLimits, Plans, Queue, Retention, Search, TenantLimits
from whisperd.config.reading import ConfigError, find, load, read
from whisperd.config.redis import Redis
from whisperd.config.risk import Risk
from whisperd.config.storage import S3, Backup, BackupS3, S3Service, Storage
from whisperd.config.workers import Audio, Models, Workers, cores

__all__ = [
    "DATABASE",
    "KEYS",
    "S3",
    "Audio",
    "Backup",
    "BackupS3",
    "Brokers",
    "Cache",
    "Config",
    "ConfigError",
    "Http",
    "Key",
    "Logging",
    "Metrics",
    "Models",
    "Outbound",
    "PlanLimits",
    "Plans",
    "Queue",
    "Redis",
    "Retention",
    "Risk",
    "S3Service",
    "Search",
    "Shutdown",
    "Storage",
    "TenantLimits",
    "Tracing",
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

"""The folder of backups as the settings have it: for the daemon, and for the commands that do without one."""

from __future__ import annotations

from whisperd.backup import BackupStore, Keep
from whisperd.config import Config


def store(config: Config) -> BackupStore:
    """Raises OSError when the folder cannot be read."""
    return BackupStore(config.backups_dir, keep(config), config.backup.compression_level)


def keep(config: Config) -> Keep:
    return Keep(config.backup.keep_newest, config.backup.keep_hourly, config.backup.keep_daily)

"""Who we are to a broker, and whom we trust there, as FastStream takes it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from whisperd.config import Brokers


class BrokersMissing(Exception):
    """The library is not installed."""


class BrokersUnusable(Exception):
    """A file of the settings is no good. The message is safe to show."""


def identity(settings: Brokers) -> Any:
    """Reads the files, so it blocks. Raises BrokersUnusable."""
    from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

    tls = settings.url.startswith(("amqps:", "kafkas:"))
    context = _trusting(settings.ca_file) if tls else None
    if not settings.username:
        return BaseSecurity(ssl_context=context, use_ssl=tls)
    try:
        password = Path(settings.password_file).read_text().strip() if settings.password_file else ""
    except (OSError, UnicodeError):
        raise BrokersUnusable("brokers.password_file cannot be read") from None
    mechanisms = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    shown = mechanisms[settings.mechanism if settings.url.startswith("kafka") else "PLAIN"]
    return shown(username=settings.username, password=password, ssl_context=context, use_ssl=tls)


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError):
        raise BrokersUnusable("brokers.ca_file is no file of certificates") from None

"""The keys of risk detection."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from whisperd.config.declaring import key


class Risk(Struct, frozen=True, kw_only=True):
    """Rules that look for risk: see docs/risk.md. Needs the extra risk: pip install 'whisperd[risk]'."""

    rules_dir: Annotated[
        str,
        key('A folder of rule packs of your own (*.toml, *.yaml). "": the folder rules in data_dir.'),
    ] = ""
    max_seconds: Annotated[
        float,
        key("What takes longer to be looked through fails, whatever its rules are.", 1, 3600, reload=True),
    ] = 30.0

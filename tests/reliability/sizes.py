"""Which attacks are for --long alone: what the short form of another test, or tests/e2e, has in small."""

import pytest

with_long = pytest.mark.skipif("not config.getoption('--long')", reason="with --long")

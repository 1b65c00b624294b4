"""The mark of tests that need a sandbox which works on this machine."""

import pytest

from privcode.execution import sandboxes

sandboxed = pytest.mark.skipif(
    not any(found.available for found in sandboxes()), reason="no sandbox works on this machine"
)

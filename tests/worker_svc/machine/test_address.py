"""Whether an address can be served on is known before anything is loaded."""

from __future__ import annotations

import pytest

from stepserve.protocol.errors import StepserveError
from worker_svc.machine.address import check_address


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_here_is_refused(host: str) -> None:
    with pytest.raises(StepserveError, match=f"{host}:0 can't be served on"):
        check_address(host, 0)

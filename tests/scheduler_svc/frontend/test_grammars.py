"""What texts have to be is compiled once, however many requests ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scheduler_svc.frontend import grammars
from scheduler_svc.frontend.grammars import Grammars
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.structured import StructuredOutputs


async def test_what_was_judged_waits_in_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "MAX_REMEMBERED", 2)
    checked = Grammars()
    compile_in_turn, tenants = checked._line.run, []

    async def run(tenant: str, work: Callable[[], Any]) -> Any:
        tenants.append(tenant)
        return await compile_in_turn(tenant, work)

    monkeypatch.setattr(checked._line, "run", run)
    good, wrong = StructuredOutputs(regex="[ab]+"), StructuredOutputs(regex="(")
    for tenant in ("a", "b", "a"):
        await checked.check(good, tenant)
        with pytest.raises(InvalidRequest, match=r"^sampling.structured_outputs.regex: "):
            await checked.check(wrong, tenant)
        await checked.check(None, tenant)
    assert tenants == ["a", "a"]
    await checked.check(StructuredOutputs(grammar='start: "[ab]+"'), "c")
    await checked.check(good, "d")
    assert tenants == ["a", "a", "c", "d"], "no more than so many are remembered"

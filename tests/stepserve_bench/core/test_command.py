"""``stepserve bench core`` measures what it says: how, not how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from stepserve.process.command_line import parse_settings
from stepserve.protocol.errors import StepserveError
from stepserve_bench.core.command import CoreBench, peak_bytes
from stepserve_bench.core.peers.process import Peer
from stepserve_bench.core.steady_decode import DecodeCase, SteadyDecode, random_prompts

FEW = "--running 8,4 --num-steps 6 --num-rounds 2 --num-warm-up-steps 2"
FEW_WAITING = "--waiting-beside 4 --waiting 0,12 --num-traced-steps 3"
# What a peer must be able to say; its steps take 100 and 300 µs.
PEER = """
import json, sys
print(json.dumps({"vllm": "0"}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "prompts" in order:
        answer = {"num_running": len(order["prompts"])}
    else:
        num_steps = order["num_steps"]
        answer = {"schedule_us": [100.0] * num_steps, "update_us": [300.0] * num_steps}
    print(json.dumps(answer), flush=True)
"""


def workload(num_running: int = 8, num_waiting: int = 0) -> DecodeCase:
    return DecodeCase(random_prompts(num_running, (20, 40), 0), 200, 4, num_waiting)


def measured(flags: str, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the command; return the object on its last line."""
    bench = parse_settings(CoreBench, "stepserve bench core", flags.split())
    assert bench.run() == 0
    result: dict[str, Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
    return result


def test_the_last_line_holds_the_figures(capfd: pytest.CaptureFixture[str]) -> None:
    result = measured(f"{FEW} {FEW_WAITING}", capfd)
    for num_running in (8, 4):
        row = result[f"running_{num_running}"]
        assert row["num_steps"] == 6
        assert 0 < row["handle_us_p50"] <= row["handle_us_p90"] <= row["handle_us_p99"]
        assert row["handle_us_p50_per_sequence"] == row["handle_us_p50"] / num_running
        assert "ratio_p50" not in row
    assert [(row["num_running"], row["num_waiting"]) for row in result["waiting"]] == [
        (4, 0),
        (4, 12),
    ]


def test_core_and_peer_take_turns(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    monkeypatch.setattr("stepserve_bench.core.peers.process.SCRIPT", script)
    result = measured(f"{FEW} {FEW_WAITING} --peer-python {sys.executable}", capfd)
    row = result["running_8"]
    assert result["peer"] == {"vllm": "0"}
    assert row["peer_us_p50"] == row["peer_us_p99"] == row["peer_us_mean"] == 400.0
    assert row["ratio_p50"] == row["handle_us_p50"] / 400.0


def test_a_python_without_vllm_is_no_peer(tmp_path: Path) -> None:
    with pytest.raises(StepserveError, match="No module named 'vllm'"):
        Peer(sys.executable)
    with pytest.raises(StepserveError, match="--peer-python"):
        Peer(str(tmp_path / "python"))


def test_every_step_decodes_every_sequence_and_blocks_fill() -> None:
    decode = SteadyDecode(workload())
    num_free = decode.core.num_free_blocks
    for _ in range(4 * 4):
        decode.step()
        decode.core.check()
        assert decode.core.num_steps_in_flight == 2
        assert [list(command.row_num_tokens) for command in decode.in_flight] == [[1] * 8] * 2
        assert not any(command.release_ids for command in decode.in_flight)
    assert num_free - decode.core.num_free_blocks == 4 * 8
    assert (decode.core.num_running, decode.core.num_waiting) == (8, 0)


def test_waiting_sequences_wait_and_change_nothing_of_the_running() -> None:
    alone, beside = SteadyDecode(workload()), SteadyDecode(workload(num_waiting=100))
    assert beside.core.num_waiting == 100
    for _ in range(8):
        assert alone.in_flight == beside.in_flight
        alone.step()
        beside.step()


def test_what_a_step_allocates_does_not_grow_with_the_waiting_sequences() -> None:
    typical_bytes = []
    for num_waiting in (0, 50, 5000):
        decode = SteadyDecode(workload(num_waiting=num_waiting))
        typical_bytes.append(median(peak_bytes(decode, 20)))
    assert min(typical_bytes) > 0
    # Python keeps some freed objects for the next use: that is worth a few of them.
    assert max(typical_bytes) - min(typical_bytes) < 500

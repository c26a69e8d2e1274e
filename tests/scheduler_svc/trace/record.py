"""Record the golden traces again: ``python -m tests.scheduler_svc.trace.record``.

To be run when a change of the core is meant to change what it wants; a difference in any
other change is a mistake. The model worlds give the same files as long as the core wants
the same; real lanes never do.
"""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from pathlib import Path

from scheduler_svc.queue.embedded import EmbeddedRedis
from tests.scheduler_svc.trace import real_lanes, worlds

GOLDENS = Path(__file__).parent / "goldens"


def main() -> None:
    GOLDENS.mkdir(exist_ok=True)
    for path in goldens():
        path.unlink()
    for name in worlds.WORLDS:
        for life, tape in enumerate(worlds.record(name), start=1):
            _write(f"{name}-{life}", tape.text)
    for number, text in enumerate(_record_real_lanes(), start=1):
        _write(f"real-{number}", text)
    print(f"{len(goldens())} traces, {sum(path.stat().st_size for path in goldens())} bytes")


def goldens() -> list[Path]:
    return sorted(GOLDENS.glob("*.jsonl.gz"))


def _record_real_lanes() -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        redis = EmbeddedRedis.start(directory, "local")
        try:
            model = real_lanes.checkpoint(directory)
            asked = real_lanes.requests(seed=3)
            asyncio.run(real_lanes.record(model, redis.url, directory / "traces", asked))
        finally:
            redis.stop()
        return [path.read_text() for path in real_lanes.traces_of(directory / "traces")]


def _write(name: str, text: str) -> None:
    # Without a time in it, the same trace is the same file.
    (GOLDENS / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()

"""The live page in a real browser: it draws, it streams, it attaches again, it fits."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from scheduler_svc.text.model_card import ModelCard
from stepserve.local.ready import ready_fields
from stepserve.protocol.job import Finish
from stepserve_bench.demo.storyteller import MODEL_DIR
from tests.scheduler_svc.http.browser import Page, browsing, chromium
from tests.scheduler_svc.http.served import http_serving

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on the PATH"),
]
# So that jobs wait, and prompts come in chunks.
SLOW = ("--max-batch-size=3", "--max-step-tokens=8", "--num-blocks=64", "--num-threads=1")
TEXT = " a dog and a cat went for a long walk by the river"
OUTPUT = "document.getElementById('p-output').textContent"
IS_LIVE = "document.body.className === 'is-live'"
STEPS = "document.getElementById('steps-text').textContent"


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[str]:
    """Serve the demo model by processes of their own; yield where HTTP is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "stepserve", "up", f"--model={MODEL_DIR}", "--port=0",
        f"--data-dir={tmp_path / 'redis'}", *SLOW,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(240):
            while "http" not in (
                fields := ready_fields((await process.stdout.readline()).decode())
            ):
                assert process.returncode is None
        yield fields["http"]
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[tuple[Page, str]]:
    program = chromium()
    assert program is not None
    async with serving(tmp_path) as http, browsing(program, tmp_path / "profile") as page:
        await page.looks(1280, 1000)
        await page.open(f"http://{http}/")
        await page.until(IS_LIVE)
        yield page, http


def text_of(element: str) -> str:
    return f"document.getElementById('{element}').textContent"


async def send(page: Page, mode: str, prompt: str, max_tokens: int) -> None:
    await page.value(
        f"""(() => {{
          document.getElementById('p-mode').value = {mode!r};
          document.getElementById('p-text').value = {prompt!r};
          document.getElementById('p-max').value = {max_tokens};
          document.getElementById('p-send').click();
        }})()"""
    )


@pytest.mark.timeout(600)
async def test_it_draws_what_happens(tmp_path: Path) -> None:
    async with opened(tmp_path) as (page, http), httpx2.AsyncClient(timeout=60) as client:
        for tenant in ("acme", "birdsong") * 4:
            body = {"input": "Once upon a time,", "background": True, "max_output_tokens": 80}
            await client.post(
                f"http://{http}/v1/responses", json=body, headers={"x-tenant": tenant}
            )
        await page.until(f"/Step [0-9]+: [1-9]/.test({STEPS})")
        await page.until(f"{text_of('t-running')}.startsWith('3')")
        await page.until(f"/acme/.test({text_of('queue')}) && /birdsong/.test({text_of('queue')})")
        await page.until(f"/driven by /.test({text_of('workers')})")
        await page.until("document.querySelectorAll('#lives tbody tr').length > 4")
        # What is drawn is not one colour: rows that decode are there, as pixels.
        drawn = """(() => {
          const canvas = document.getElementById('steps');
          const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          const seen = new Set();
          for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 4).join());
          return seen.size;
        })()"""
        assert await page.value(drawn) > 4
        await page.value("document.querySelector('#lives tbody button').click()")
        await page.until("!document.getElementById('life').hidden")
        assert page.problems == [], "nothing was refused by the policy, and nothing raised"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["complete", "chat"])
async def test_the_playground_reads_on_where_it_was(
    redis_url: str, card: ModelCard, tmp_path: Path, mode: str
) -> None:
    """The page is loaded again in the middle of a stream; the lane's part is the test's."""
    program = chromium()
    assert program is not None
    async with (
        http_serving(redis_url, card, grace_s=300) as served,
        browsing(program, tmp_path / "profile") as page,
    ):
        await page.open(f"http://{served.address}/")
        await page.until(IS_LIVE)
        await send(page, mode, "Hi", 50)
        await page.until(f"!/^$/.test({text_of('p-note')})")
        async with asyncio.timeout(60):
            while not await served.queue.num_queued():
                await asyncio.sleep(0.05)
        job = await served.lane.claim()
        ids = served.ids(TEXT)
        await served.lane.commit(job.spec.job_id, ids[:8])
        before = await page.until(f"{OUTPUT}.length > 8 && {OUTPUT}")
        await page.call("Page.reload")
        await page.until(f"/attached again, read on after/.test({text_of('p-note')})")
        assert (await page.value(OUTPUT)).startswith(before), "what was read is there at once"
        await served.lane.commit(job.spec.job_id, ids[8:])
        await served.lane.commit(job.spec.job_id, [], Finish("stop"))
        await page.until(f"/ended: /.test({text_of('p-note')})")
        given = "Hi" if mode == "complete" else ""
        assert await page.value(OUTPUT) == given + TEXT, "nothing twice, nothing missing"
        assert not await page.value("document.getElementById('p-send').disabled")
        await page.call("Page.reload")
        await page.until(f"/ended: /.test({text_of('p-note')})")
        assert page.problems == []


@pytest.mark.timeout(600)
async def test_it_fits_a_phone_and_both_tastes(
    redis_url: str, card: ModelCard, tmp_path: Path
) -> None:
    program = chromium()
    assert program is not None
    async with http_serving(redis_url, card) as served, browsing(program, tmp_path / "p") as page:
        await page.open(f"http://{served.address}/")
        await page.until(IS_LIVE)
        for width, dark in ((390, True), (390, False), (1280, True), (1280, False)):
            await page.looks(width, 844, dark=dark)
            await page.until("document.documentElement.scrollWidth <= window.innerWidth")
            ground = await page.value("getComputedStyle(document.body).backgroundColor")
            ink = await page.value("getComputedStyle(document.body).color")
            assert _contrast(ground, ink) > 7
            quiet = await page.value("getComputedStyle(document.querySelector('.quiet')).color")
            assert _contrast(ground, quiet) > 4.5
        for name in ("Queue", "Workers", "Playground", "Lives of jobs"):
            assert await page.value(f"document.body.innerText.includes({name!r})")
        assert page.problems == []


def _contrast(one: str, other: str) -> float:
    """As WCAG has it, of two colours as a browser writes them."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [float(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

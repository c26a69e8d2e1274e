"""The live page in a real browser over a real service: it draws, it streams, it attaches again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from stepserve.local.ready import ready_fields
from stepserve_bench.demo.storyteller import MODEL_DIR
from tests.scheduler_svc.http.browser import Page, browsing, chromium

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on the PATH"),
]
# So slow that a page can be left and come back to in the middle of it.
SLOW = ("--max-batch-size=3", "--max-step-tokens=8", "--num-blocks=64", "--num-threads=1")
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
async def test_it_draws_what_happens_and_attaches_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (page, http), httpx2.AsyncClient(timeout=60) as client:
        for tenant in ("acme", "birdsong") * 6:
            body = {"input": "Once upon a time,", "background": True, "max_output_tokens": 300}
            await client.post(
                f"http://{http}/v1/responses", json=body, headers={"x-tenant": tenant}
            )
        await page.until(f"/Step [0-9]+: [1-9]/.test({STEPS})")
        await page.until(f"{text_of('t-running')}.startsWith('3')")
        await page.until(f"/acme/.test({text_of('queue')}) && /birdsong/.test({text_of('queue')})")
        await page.until(f"/driven by /.test({text_of('workers')})")
        await page.until("document.querySelectorAll('#lives tbody tr').length > 5")
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
        await _reloads(page, "complete")
        await _reloads(page, "chat")
        assert page.problems == [], "nothing was refused by the policy, and nothing raised"


async def _reloads(page: Page, mode: str) -> None:
    """What a playground's job gives is the same, also where the page is loaded again meanwhile."""
    await page.until("!document.getElementById('p-send').disabled")
    await send(page, mode, "Once upon a time, a bear", 120)
    await page.until(f"{text_of('p-output')}.length > 60", 200)
    before = await page.value(text_of("p-output"))
    assert await page.value("document.getElementById('p-send').disabled"), "it goes on"
    await page.call("Page.reload")
    await page.until(f"/attached again/.test({text_of('p-note')})")
    await page.until(f"/ended: /.test({text_of('p-note')})", 200)
    after = await page.value(text_of("p-output"))
    assert after.startswith(before)
    assert len(after) > len(before)
    kept = await page.value("JSON.parse(localStorage.getItem('stepserve.playground'))")
    assert kept["isOver"] is True
    assert after.endswith(kept["text"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
async def test_it_fits_a_phone_and_both_tastes(tmp_path: Path, width: int, dark: bool) -> None:
    async with opened(tmp_path) as (page, _):
        await page.looks(width, 844, dark=dark)
        await page.until("document.documentElement.scrollWidth <= window.innerWidth")
        ground = await page.value("getComputedStyle(document.body).backgroundColor")
        ink = await page.value("getComputedStyle(document.body).color")
        assert _contrast(ground, ink) > 7
        quiet = await page.value("getComputedStyle(document.querySelector('.quiet')).color")
        assert _contrast(ground, quiet) > 4.5
        for name in ("Queue", "Workers", "Playground", "Lives of jobs"):
            assert await page.value(f"document.body.innerText.includes({name!r})")


def _contrast(one: str, other: str) -> float:
    """As WCAG has it, of two colours as a browser writes them."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [float(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

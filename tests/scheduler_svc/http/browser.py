"""A real browser, headless, by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

WAIT_S = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str | None:
    """Return where it is, None where it is not."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab: what is wrong in it (errors, what its policy refused) is kept in ``problems``."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []

    async def read(self) -> None:
        """Take what the browser says, until it is gone."""
        with suppress(ConnectionClosed):
            await self._read()

    async def _read(self) -> None:
        async for text in self._socket:
            told = json.loads(text)
            if (answer := self._answers.pop(told.get("id", 0), None)) is not None:
                if not answer.done():  # whoever asked may wait no more
                    answer.set_result(told)
            elif told.get("method") == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(told["params"]["exceptionDetails"])[:2000])
            elif told.get("method") == "Log.entryAdded":
                entry = told["params"]["entry"]
                # An answer that says to try again later is no fault of the page's.
                if entry["level"] == "error" and entry["source"] != "network":
                    self.problems.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(WAIT_S):
            told = await answer
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def value(self, script: str) -> Any:
        """Return what an expression is, awaited where it is a promise."""
        told = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, script: str, timeout_s: float = WAIT_S) -> Any:
        """Wait until an expression is true; return it."""
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(AssertionError):  # while a page is left for another
                    if found := await self.value(script):
                        return found
                await asyncio.sleep(0.1)

    async def looks(self, width: int, height: int, *, dark: bool = False, scale: int = 1) -> None:
        """Let the window have this size, and its user this taste."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        taste = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[taste])

    async def shoot(self, path: Path) -> None:
        """Write what is seen as a PNG file."""
        told = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(told["data"]))


@asynccontextmanager
async def browsing(program: str, profile: Path) -> AsyncIterator[Page]:
    """Yield a tab of a browser that lives for the time of the block."""
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with connect(await _address(profile), max_size=None, ping_interval=None) as socket:
            page = Page(socket)
            reading = asyncio.create_task(page.read())
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            yield page
            reading.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _address(profile: Path) -> str:
    """Return the address of its first tab, once the browser has written where it is."""
    written = profile / "DevToolsActivePort"
    async with asyncio.timeout(WAIT_S):
        while not (written.exists() and written.read_text().count("\n")):
            await asyncio.sleep(0.05)
    port = written.read_text().splitlines()[0]

    def ask() -> Any:
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            return json.loads(answer.read())

    tabs = await asyncio.to_thread(ask)
    return next(str(t["webSocketDebuggerUrl"]) for t in tabs if t["type"] == "page")

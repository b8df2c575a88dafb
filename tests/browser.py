"""A real browser for the tests of pages: headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
NEEDED = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH to open the page with"
)


@contextmanager
def open_chromium() -> Iterator[str]:
    """A headless Chromium's address for its DevTools protocol."""
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless",
            "--disable-gpu",
            "--no-sandbox",
            "--no-first-run",
            "--disable-background-networking",
        ]
        command = [
            str(CHROMIUM),
            *options,
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        browser = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        port = Path(profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port.exists() or len(port.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline and browser.poll() is None, "Chromium did not start"
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        finally:
            os.killpg(browser.pid, 9)
            browser.wait()


def drive(
    address: str,
    page: Path,
    script: str,
    theme: str = "light",
    drawn: str = "document.readyState === 'complete'",
    picture: Path | None = None,
) -> tuple[Any, list[str]]:
    """Open the page, wait until `drawn` holds, run `script` in it; return its value and every address asked for.

    picture: where to save what is then seen, as PNG. An error in the page is an AssertionError.
    """

    async def run() -> tuple[Any, list[str]]:
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{address}/json/new?about:blank") as reply:
                target = await reply.json()
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                asked: list[str] = []
                number = 0

                async def call(method: str, **params: Any) -> dict[str, Any]:
                    nonlocal number
                    number += 1
                    await socket.send_json({"id": number, "method": method, "params": params})
                    while True:
                        message = json.loads((await socket.receive(timeout=60)).data)
                        if message.get("method") == "Network.requestWillBeSent":
                            asked.append(message["params"]["request"]["url"])
                        assert message.get("method") != "Runtime.exceptionThrown", message["params"]
                        if message.get("id") == number:
                            return message["result"]

                async def evaluate(expression: str) -> Any:
                    result = await call(
                        "Runtime.evaluate",
                        expression=expression,
                        awaitPromise=True,
                        returnByValue=True,
                    )
                    assert "exceptionDetails" not in result, result["exceptionDetails"]
                    return result["result"].get("value")

                for domain in ("Network", "Runtime", "Page"):
                    await call(f"{domain}.enable")
                size = {"width": 1280, "height": 2400, "deviceScaleFactor": 1, "mobile": False}
                await call("Emulation.setDeviceMetricsOverride", **size)
                await call(
                    "Emulation.setEmulatedMedia",
                    features=[{"name": "prefers-color-scheme", "value": theme}],
                )
                await call("Page.navigate", url=page.as_uri())
                deadline = time.monotonic() + 60
                while not await evaluate(f"document.body && ({drawn})"):
                    assert time.monotonic() < deadline, "the page was never drawn"
                    await asyncio.sleep(0.05)
                value = await evaluate(f"(async () => {{ {script} }})()")
                if picture:
                    shot = await call("Page.captureScreenshot", captureBeyondViewport=True)
                    picture.write_bytes(base64.b64decode(shot["data"]))
                await call("Page.close")
                return value, asked

    return asyncio.run(run())

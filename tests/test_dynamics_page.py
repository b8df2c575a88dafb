"""The page in a real browser: filter, search, follow a question, two runs; nothing leaves it; nothing is markup."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from eval.dynamics.simulate import simulate_rollouts, write_run
from eval.report import make_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SKIP = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH to open the page with")
pytestmark = [pytest.mark.slow, SKIP]
HOSTILE = '<think> <img src=x onerror="document.title=1"></script><script>document.title=2</script> </think>'


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run of phases 1, 3 and 5, with a hostile rollout, and one of two runs."""
    folder = tmp_path_factory.mktemp("page")
    for name, schedule in (("paper", [1] * 6 + [3] * 6 + [5] * 6), ("strict", [1] * 6 + [3] * 12)):
        rows, questions = simulate_rollouts(schedule, per_step=24, seed=1)
        if name == "paper":
            rows[5] |= {"response": HOSTILE}
        write_run(folder / name, rows, questions)
    runs = [("paper", folder / "paper"), ("strict", folder / "strict")]
    (folder / "one.html").write_text(make_page(runs[:1], 30)[1])
    (folder / "two.html").write_text(make_page(runs, 30)[1])
    return {"one": folder / "one.html", "two": folder / "two.html"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[str]:
    """A headless Chromium's address for its DevTools protocol."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--disable-background-networking"]
        command = [str(CHROMIUM), *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
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
    address: str, page: Path, script: str, theme: str = "light", picture: Path | None = None
) -> tuple[Any, list[str]]:
    """Open the page, wait until it is drawn, run `script` in it; returns its value and every address asked for.

    An error in the page is an AssertionError.
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
                        "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
                    )
                    assert "exceptionDetails" not in result, result["exceptionDetails"]
                    return result["result"].get("value")

                for domain in ("Network", "Runtime", "Page"):
                    await call(f"{domain}.enable")
                size = {"width": 1280, "height": 2400, "deviceScaleFactor": 1, "mobile": False}
                await call("Emulation.setDeviceMetricsOverride", **size)
                await call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
                await call("Page.navigate", url=page.as_uri())
                deadline = time.monotonic() + 60
                while await evaluate("document.body && document.body.dataset.drawn") != "all":
                    assert time.monotonic() < deadline, "the page was never drawn"
                    await asyncio.sleep(0.05)
                value = await evaluate(f"(async () => {{ {HELPERS} {script} }})()")
                if picture:
                    import base64

                    shot = await call("Page.captureScreenshot", format="png")
                    picture.write_bytes(base64.b64decode(shot["data"]))
                await call("Page.close")
                return value, asked

    return asyncio.run(run())


HELPERS = """
const set = async (id, value) => { document.getElementById(id).value = value; await applyFilters(); };
const count = () => document.getElementById("count").textContent;
const texts = () => Promise.all(hits.map(([r, i]) => readText(r, i)));
const steps = () => hits.map(([r, i]) => report.runs[r].columns.step[i]);
const rest = () => new Promise((done) => setTimeout(done, 300));
"""


def test_nothing_leaves_the_page_and_model_output_is_text(chromium: str, pages: dict[str, Path]) -> None:
    script = f"""await set("f-text", "onerror"); await rest();
    const detail = document.getElementById("detail"), shown = detail.textContent.includes({json.dumps(HOSTILE)});
    return [document.title, hits.length, detail.querySelectorAll("img, script").length, shown]"""
    (title, hits, elements, shown), asked = drive(chromium, pages["one"], script)
    assert title == "Training dynamics: paper" and hits == 1 and elements == 0 and shown
    assert [url for url in asked if not url.startswith("data:")] == [pages["one"].as_uri()]


def test_filters(chromium: str, pages: dict[str, Path]) -> None:
    script = """const result = {all: count()};
    await set("f-from", 13); await set("f-to", 13); result.step = steps();
    await set("f-verdict", "right"); result.right = hits.map(([r, i]) => report.runs[r].columns.flags[i] & 1);
    clearFilters(); await set("f-phase", "5"); result.phase = steps();
    await set("f-habit", "pre_think"); result.texts = await texts();
    clearFilters(); await set("f-verdict", "failed"); result.failed = hits.length;
    return result"""
    result, _ = drive(chromium, pages["one"], script)
    assert result["all"] == "432 of 432 rollouts"
    assert result["step"] == [13] * 24 and 0 < len(result["right"]) < 24 and set(result["right"]) == {1}
    assert set(range(15, 19)) <= set(result["phase"]) <= set(range(11, 19))
    assert result["texts"] and all(text.index("<think>") > 10 for text in result["texts"])
    assert 50 < result["failed"] < 250


def test_search_finds_what_a_search_of_the_files_finds(chromium: str, pages: dict[str, Path]) -> None:
    rows = (pages["one"].parent / "paper" / "rollouts" / "simulated-1.jsonl").read_text().splitlines()
    expected = sum("the answer is b" in json.loads(row)["response"].lower() for row in rows)
    result, _ = drive(
        chromium, pages["one"], 'await set("f-text", "The answer is B"); return [hits.length, await texts()]'
    )
    assert result[0] == expected > 0 and all("the answer is b" in text.lower() for text in result[1])


def test_a_question_is_followed_over_training(chromium: str, pages: dict[str, Path]) -> None:
    script = """await rest(); document.getElementById("follow").click(); await rest();
    const ids = hits.map(([r, i]) => report.questions[report.runs[r].columns.question[i]]);
    const timeline = document.getElementById("timeline");
    return [ids, timeline.querySelectorAll("circle").length, document.querySelector(".prompt").textContent,
      timeline.textContent]"""
    (ids, dots, prompt, said), _ = drive(chromium, pages["one"], script)
    assert len(set(ids)) == 1 and len(ids) == dots == 9
    assert "User:" in prompt and f"{ids[0]} over training" in said and "of 9" in said


def test_two_runs_side_by_side(chromium: str, pages: dict[str, Path]) -> None:
    script = """const ribbons = document.querySelectorAll("#ribbons .ribbon-label").length; const all = hits.length;
    await set("f-run", "1"); const one = hits.length; await set("f-habit", "pre_think");
    return {ribbons, all, one, pre_think: hits.length, monitors: document.getElementById("monitors").textContent,
      bands: report.runs.map((run) => run.bands.map((band) => band[2]).filter(Boolean))}"""
    result, asked = drive(chromium, pages["two"], script)
    assert result["ribbons"] == 2 and result["all"] == 2 * result["one"] == 864
    assert result["bands"] == [[1, 3, 5], [1, 3]] and "pre_think" in result["monitors"]
    assert result["pre_think"] < 40 and len([url for url in asked if url.startswith("file:")]) == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(chromium: str, pages: dict[str, Path], theme: str) -> None:
    script = """const paper = () => getComputedStyle(document.body).backgroundColor; const before = paper();
    document.getElementById("theme").click(); return [before, paper()]"""
    found, _ = drive(chromium, pages["one"], script, theme)
    light, dark = "rgb(251, 251, 250)", "rgb(17, 20, 24)"
    assert found == ([light, dark] if theme == "light" else [dark, light])

"""The page in a real browser: filter, search, follow a question, two runs; nothing leaves it; nothing is markup."""

import json
from pathlib import Path
from typing import Any

import pytest

from dev.simulate_run import simulate_rollouts, write_run
from eval.dynamics.report import make_page
from tests import browser

pytestmark = [pytest.mark.slow, browser.NEEDED]
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


HELPERS = """
const set = async (id, value) => { document.getElementById(id).value = value; await applyFilters(); };
const count = () => document.getElementById("count").textContent;
const texts = () => Promise.all(hits.map(([r, i]) => readText(r, i)));
const steps = () => hits.map(([r, i]) => report.runs[r].columns.step[i]);
const rest = () => new Promise((done) => setTimeout(done, 300));
"""


def drive(address: str, page: Path, script: str, theme: str = "light") -> tuple[Any, list[str]]:
    """browser.drive with HELPERS, once every rollout is listed."""
    return browser.drive(
        address, page, HELPERS + script, theme, "document.body.dataset.drawn === 'all'"
    )


def test_nothing_leaves_the_page_and_model_output_is_text(
    chromium: str, pages: dict[str, Path]
) -> None:
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
    assert (
        result["step"] == [13] * 24
        and 0 < len(result["right"]) < 24
        and set(result["right"]) == {1}
    )
    assert set(range(15, 19)) <= set(result["phase"]) <= set(range(11, 19))
    assert result["texts"] and all(text.index("<think>") > 10 for text in result["texts"])
    assert 50 < result["failed"] < 250


def test_search_finds_what_a_search_of_the_files_finds(
    chromium: str, pages: dict[str, Path]
) -> None:
    rows = (
        (pages["one"].parent / "paper" / "rollouts" / "simulated-1.jsonl").read_text().splitlines()
    )
    expected = sum("the answer is b" in json.loads(row)["response"].lower() for row in rows)
    result, _ = drive(
        chromium,
        pages["one"],
        'await set("f-text", "The answer is B"); return [hits.length, await texts()]',
    )
    assert result[0] == expected > 0 and all(
        "the answer is b" in text.lower() for text in result[1]
    )


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
def test_the_theme_follows_the_system_and_the_button(
    chromium: str, pages: dict[str, Path], theme: str
) -> None:
    script = """const paper = () => getComputedStyle(document.body).backgroundColor; const before = paper();
    document.getElementById("theme").click(); return [before, paper()]"""
    found, _ = drive(chromium, pages["one"], script, theme)
    light, dark = "rgb(251, 251, 250)", "rgb(17, 20, 24)"
    assert found == ([light, dark] if theme == "light" else [dark, light])

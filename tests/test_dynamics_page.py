"""The page in a real browser: filter, search, follow a question, two runs; nothing leaves it; nothing is markup."""

import json
from pathlib import Path
from typing import Any

import pytest

from dev.simulate_run import simulate_rollouts, write_run
from eval.dynamics.analysis import analyse
from eval.dynamics.report import render_page
from eval.dynamics.run_files import read_run
from reward_server.signals import SIGNALS, Signal
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
    names = ["paper", "strict"]
    for page, count, shown in (("one", 1, 20000), ("two", 2, 20000), ("few", 2, 100)):
        # the hook's table with one signal more, of which nothing else knows
        signal = Signal("shouting", "fraction", lambda response, verdict, options: 0.25, "capitals")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("reward_server.signals.SIGNALS", (*SIGNALS, signal))
            patch.setattr("eval.dynamics.figures.SIGNALS", (*SIGNALS, signal))
            analyses = [analyse(read_run(folder / name), name, name) for name in names]
            text = render_page(analyses[:count], "made", shown, overlay=True)
        (folder / f"{page}.html").write_text(text)
    return {page: folder / f"{page}.html" for page in ("one", "two", "few")}


HELPERS = """
const fields = document.getElementById("filters").elements;
const set = async (name, value) => { fields[name].value = value; await applyFilters(); };
const clearFilters = () => document.getElementById("filters").reset();
const count = () => document.getElementById("count").textContent;
const texts = () => hits.map(([r, i]) => runs[r].response[i]);
const steps = () => hits.map(([r, i]) => runs[r].step[i]);
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
    script = f"""await set("text", "onerror"); await rest();
    const detail = document.getElementById("detail"), shown = detail.textContent.includes({json.dumps(HOSTILE)});
    return [document.title, hits.length, detail.querySelectorAll("img, script").length, shown]"""
    (title, hits, elements, shown), asked = drive(chromium, pages["one"], script)
    assert title == "Training dynamics: paper" and hits == 1 and elements == 0 and shown
    assert [url for url in asked if not url.startswith("data:")] == [pages["one"].as_uri()]


def test_filters(chromium: str, pages: dict[str, Path]) -> None:
    script = """const result = {all: count()};
    await set("from", 13); await set("to", 13); result.step = steps();
    await set("verdict", "right"); result.right = hits.map(([r, i]) => runs[r].verdict[i] === "right" ? 1 : 0);
    clearFilters(); await set("phase", "5"); result.phase = steps();
    await set("habit", "pre_think"); result.texts = await texts();
    clearFilters(); await set("verdict", "failed"); result.failed = hits.length;
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
        'await set("text", "The answer is B"); return [hits.length, await texts()]',
    )
    assert result[0] == expected > 0 and all(
        "the answer is b" in text.lower() for text in result[1]
    )


def test_a_question_is_followed_over_training(chromium: str, pages: dict[str, Path]) -> None:
    script = """await rest(); document.getElementById("follow").click(); await rest();
    const ids = hits.map(([r, i]) => questions[runs[r].question[i]].id);
    const timeline = document.getElementById("timeline");
    return [ids, timeline.querySelectorAll("button").length, document.querySelector(".prompt").textContent,
      timeline.textContent]"""
    (ids, dots, prompt, said), _ = drive(chromium, pages["one"], script)
    assert len(set(ids)) == 1 and len(ids) == dots == 9
    assert "User:" in prompt and f"{ids[0]} over training" in said and "of 9" in said


def test_two_runs_side_by_side(chromium: str, pages: dict[str, Path]) -> None:
    script = """const ribbons = document.querySelectorAll("#ribbons .ribbon-label").length; const all = hits.length;
    await set("run", "1"); const one = hits.length; await set("habit", "pre_think");
    return {ribbons, all, one, pre_think: hits.length, monitors: document.getElementById("monitors").textContent,
      bands: [...document.querySelectorAll(".ribbon")].map((ribbon) => [...ribbon.querySelectorAll("button")]
        .map((band) => parseInt(band.textContent)).filter(Boolean))}"""
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


def test_one_cursor_reads_off_every_chart(chromium: str, pages: dict[str, Path]) -> None:
    script = """const over = charts[2].over, box = over.getBoundingClientRect();
    const point = (kind) => over.dispatchEvent(new MouseEvent(kind,
      { clientX: box.left + box.width / 2, clientY: box.top + 9, bubbles: true }));
    ["mouseenter", "mousemove"].forEach(point);
    await rest();
    ["mousedown", "mouseup", "click"].forEach(point);
    const keys = charts.map((chart) => chart.root.parentNode.querySelector(".key").textContent);
    return [keys, steps()]"""
    (keys, steps), _ = drive(chromium, pages["one"], script)
    assert len(keys) > 8 and all("step 9" in key for key in keys)
    assert set(steps) == {9}  # a click selects the step in the list


def test_the_papers_curve_lies_under_accuracy_and_characters_only(
    chromium: str, pages: dict[str, Path]
) -> None:
    script = """return charts.map((chart) => [chart.root.parentNode.querySelector("h3").textContent,
      chart.series.some((one) => one.label === "the paper"), chart.data[0].at(-1)])"""
    found, _ = drive(chromium, pages["one"], script)
    assert {title for title, paper, _ in found if paper} == {
        "Accuracy and format",
        "Response length: characters",
    }
    assert {last for _, _, last in found} == {18}  # its last step lies on the run's


def test_what_is_not_shown_is_said_and_drawn_evenly(chromium: str, pages: dict[str, Path]) -> None:
    script = """await rest(); const all = count();
    return [all, [0, 1].map((r) => runs[r].step), document.querySelector(".note").textContent]"""
    (all_, steps, note), _ = drive(chromium, pages["few"], script)
    assert all_ == "100 of 100 rollouts" and "764 of 864 rollouts are not in the list" in note
    for of_run in steps:
        counts = [of_run.count(step) for step in range(1, 19)]
        assert max(counts) - min(counts) <= 1


def test_a_new_signal_of_the_hook_has_a_panel_and_nothing_else_to_change(
    chromium: str, pages: dict[str, Path]
) -> None:
    script = """return charts.map((chart) => [chart.root.parentNode.querySelector("h3").textContent,
      chart.series.at(-1).label, chart.data.at(-1)[0]])"""
    found, _ = drive(chromium, pages["one"], script)
    assert ["shouting", "capitals", 0.25] in found
    titles = [title for title, _, _ in found]
    assert len(titles) == len(set(titles)) and "think_words" not in titles


def test_arrow_keys_move_through_the_list_and_only_what_is_seen_is_drawn(
    chromium: str, pages: dict[str, Path]
) -> None:
    script = """const list = document.getElementById("list"), rows = () => list.querySelectorAll(".row");
    rows()[3].click();
    for (let n = 0; n < 40; n++) list.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
    await rest();
    const [on] = list.querySelectorAll(".on"), box = on.getBoundingClientRect(), frame = list.getBoundingClientRect();
    const seen = box.top >= frame.top && box.bottom <= frame.bottom + 1;
    return [Number(on.dataset.at), seen, rows().length, document.getElementById("detail").textContent, steps()[43]]"""
    (at, seen, drawn, detail, step), _ = drive(chromium, pages["one"], script)
    assert at == 43 and seen and drawn < 40 and detail.startswith(f"step {step}, ")


def test_clear_and_a_ribbon_set_the_filters(chromium: str, pages: dict[str, Path]) -> None:
    script = """await set("text", "zzz"); const none = [hits.length, document.getElementById("detail").textContent];
    document.querySelector("button[type=reset]").click(); await rest(); const all = hits.length;
    const bar = document.querySelectorAll("#ribbons button")[0]; bar.click(); await rest();
    return [none, all, Math.max(...steps()), Number(bar.dataset.to)]"""
    (none, all_, last, to), _ = drive(chromium, pages["one"], script)
    assert none == [0, "No rollout passes these filters."] and all_ == 432 and last == to > 1

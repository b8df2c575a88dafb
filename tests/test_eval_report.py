"""Numbers from samples, comparisons and verdicts, and the pages that show them."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.errors import UserError
from eval.compare import compare_systems, judge_claims
from eval.page import find_differing, render_page, render_text
from eval.plots import plot_accuracy
from eval.summary import summarise_samples
from eval.tables import build_results, build_scores, render_markdown, select
from tests import browser

CLAIMS = {
    "of": "rlvr.think",
    "over": "sft.direct",
    "margin": 0.03,
    "points": 0.08,
    "level": ["medqa/test"],
    "ahead": ["mmlu_pro_health/test"],
    "format_rate": {"think": 0.9, "direct": 0.9},
}
SETTINGS = {
    "seed": 42,
    "benchmark": {
        "state": None,
        "sha256": "0" * 64,
        "prompt": {"name": "plain", "file": None, "sha256": None},
    },
}
HOSTILE = '<script>fetch("https://example.org")</script><img src=x onerror=alert(1)>&amp;'


def make_samples(correct: list[Any], **fields: Any) -> list[dict[str, Any]]:
    """Samples with gold letter A; a field given as a list has one value for each sample."""
    samples = []
    for i, right in enumerate(correct):
        own = {key: value[i] if isinstance(value, list) else value for key, value in fields.items()}
        choice = "A" if right else "B"
        sample: dict[str, Any] = {
            **{
                "id": f"q{i}",
                "sample": 0,
                "response": choice,
                "tokens": i,
                "truncated": False,
                "format_ok": True,
            },
            **{
                "reason": "correct" if right else "wrong",
                "choice": choice,
                "choice_lenient": choice,
            },
            **{
                "correct": bool(right),
                "correct_lenient": bool(right),
                "answer": "A",
                "num_options": 4,
                "group": "g",
            },
            **{"cluster": f"q{i}", "overlap": False, "error": None},
        }
        samples.append({**sample, **own})
    return samples


def draw(rng: np.random.Generator, n: int, rate: float) -> list[bool]:
    return list(rng.random(n) < rate)


def test_summary_counts() -> None:
    samples = make_samples(
        [1, 1, 0, 0],
        overlap=[True, False, False, False],
        num_options=[4, 4, 10, 10],
        group=["x", "y", "y", "y"],
    )
    result = summarise_samples(samples)
    assert result["accuracy"]["value"] == 0.5 and result["accuracy"]["method"] == "wilson"
    assert result["accuracy_clean"]["n"] == 3 and result["accuracy_clean"][
        "value"
    ] == pytest.approx(1 / 3, abs=1e-6)
    assert result["chance"] == pytest.approx(0.175)
    assert (
        list(result["by_num_options"]) == ["4", "10"]
        and result["by_num_options"]["10"]["chance"] == 0.1
    )
    assert result["by_group"]["y"]["n"] == 3 and result["reasons"] == {"correct": 2, "wrong": 2}
    assert sum(part["n"] for part in result["by_length"].values()) == 4
    assert summarise_samples(make_samples([1], overlap=True))["accuracy_clean"] is None


def test_the_same_row_twice_does_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    correct = draw(rng, 200, 0.6)
    once = summarise_samples(make_samples(correct))
    twice = summarise_samples(
        make_samples(
            correct * 2,
            id=[f"r{i}" for i in range(400)],
            cluster=[f"q{i % 200}" for i in range(400)],
        )
    )
    width = {
        name: r["accuracy"]["high"] - r["accuracy"]["low"]
        for name, r in (("once", once), ("twice", twice))
    }
    assert width["twice"] > 0.97 * width["once"]
    assert (
        twice["accuracy_unique"] == once["accuracy_unique"]
        and twice["accuracy"]["method"] == "cluster bootstrap"
    )


def test_several_samples() -> None:
    choices = ["A", "A", "B", "B", "B", None]
    samples = make_samples(
        [choice == "A" for choice in choices],
        id=["q0"] * 3 + ["q1"] * 3,
        cluster=["q0"] * 3 + ["q1"] * 3,
        sample=[0, 1, 2] * 2,
        choice=choices,
    )
    sampled = summarise_samples(samples)["sampled"]
    assert sampled["avg@3"] == pytest.approx(1 / 3, abs=1e-6) and sampled["maj@3"] == 0.5
    assert (sampled["pass@1"], sampled["pass@2"], sampled["pass@3"]) == (
        pytest.approx(1 / 3, abs=1e-6),
        0.5,
        0.5,
    )
    assert sampled["accuracy_of_each_sample"] == [0.5, 0.5, 0.0]
    assert summarise_samples(make_samples([1, 0]))["sampled"] is None


def claim_of(of: list[bool], over: list[bool], benchmark: str) -> dict[str, Any]:
    systems = {benchmark: {"rlvr.think": make_samples(of), "sft.direct": make_samples(over)}}
    (verdict,) = judge_claims(compare_systems(systems, None, 0), CLAIMS, list_results(systems))
    return verdict


def list_results(systems: dict[str, Any]) -> list[dict[str, Any]]:
    """Results as they stand in a summary."""
    results = []
    for benchmark, by_system in systems.items():
        for system, samples in by_system.items():
            model, mode = system.split(".")
            head = {"model": model, "benchmark": benchmark, "mode": mode}
            results.append({**head, **summarise_samples(samples), "settings": SETTINGS})
    return results


def shift(base: list[bool], gains: int, losses: int) -> list[bool]:
    """The same answers with so many wrong ones made right, and right ones made wrong."""
    changed = np.array(base)
    changed[np.flatnonzero(~np.array(base))[:gains]] = True
    changed[np.flatnonzero(np.array(base))[:losses]] = False
    return list(changed)


@pytest.mark.parametrize(
    ("gains", "losses", "verdict", "words"),
    [
        (20, 20, "shown", "stays above −3 points"),
        (120, 20, "shown", "better, not only level"),
        (0, 200, "refuted", "worse by more than that margin"),
        (150, 180, "open", "too few questions to tell"),
        (30, 65, "open", "worse, by more than the margin or by less"),
    ],
)
def test_verdict_on_level(gains: int, losses: int, verdict: str, words: str) -> None:
    base = draw(np.random.default_rng(1), 1273, 0.5)
    claim = claim_of(shift(base, gains, losses), base, "medqa/test")
    assert (
        claim["verdict"] == verdict
        and words in claim["sentence"]
        and "n = 1,273" in claim["sentence"]
    )


@pytest.mark.parametrize(
    ("gains", "losses", "verdict", "words"),
    [
        (120, 55, "shown", "can be 8 points"),
        (200, 5, "shown", "is more than 8 points"),
        (40, 15, "smaller", "is less than 8 points"),
        (195, 162, "open", "holds both 0 and 8 points"),
        (20, 25, "refuted", "not ahead by 8 points"),
        (5, 100, "refuted", "behind"),
    ],
)
def test_verdict_on_ahead(gains: int, losses: int, verdict: str, words: str) -> None:
    base = draw(np.random.default_rng(2), 818, 0.5)
    claim = claim_of(shift(base, gains, losses), base, "mmlu_pro_health/test")
    assert (
        claim["verdict"] == verdict
        and words in claim["sentence"]
        and "McNemar" in claim["sentence"]
    )


def test_a_comparison_in_either_order_gives_the_same_verdict() -> None:
    base = draw(np.random.default_rng(3), 400, 0.5)
    better = shift(base, 60, 10)
    systems = {"medqa/test": {"rlvr.think": make_samples(better), "sft.direct": make_samples(base)}}
    verdicts = [
        judge_claims(compare_systems(systems, [pair], 0), CLAIMS, list_results(systems))[0]
        for pair in (["rlvr.think", "sft.direct"], ["sft.direct", "rlvr.think"])
    ]
    assert [v["verdict"] for v in verdicts] == ["shown", "shown"]
    values = [re.search(r"Difference (\S+) points", v["sentence"])[1] for v in verdicts]  # type: ignore[index]
    assert values == ["+12.5", "+12.5"]


def test_holm_is_over_the_benchmarks_of_a_pair() -> None:
    base = draw(np.random.default_rng(4), 300, 0.5)
    systems = {
        name: {"a.think": make_samples(shift(base, gains, 10)), "b.think": make_samples(base)}
        for name, gains in (("x", 30), ("y", 24))
    }
    first, second = compare_systems(systems, None, 0)
    assert first["p"] < second["p"] and first["p_holm"] == pytest.approx(2 * first["p"], abs=2e-6)
    assert second["p_holm"] == pytest.approx(max(second["p"], first["p_holm"]), abs=2e-6)


def test_unknown_system_is_named() -> None:
    with pytest.raises(UserError, match=r"c\.think not evaluated here: there are a\.think"):
        compare_systems({"x": {"a.think": make_samples([1, 0])}}, [["a.think", "c.think"]], 0)


@pytest.fixture(scope="module")
def shown() -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """A summary of three systems with hostile text in every place that a model or a data set can fill."""
    rng = np.random.default_rng(5)
    systems: dict[str, dict[str, Any]] = {}
    results = []
    for benchmark in ("medqa/test", "mmlu_pro_health/test"):
        base = draw(rng, 60, 0.5)
        for number, (model, mode) in enumerate(
            (("base", "cot"), ("sft", "direct"), ("rlvr", "think"))
        ):
            groups = [f"{HOSTILE if i % 2 else 'plain'}" for i in range(60)]
            options = [4 + i % 3 for i in range(60)]
            samples = make_samples(
                shift(base, 6 * number, 3), response=HOSTILE, group=groups, num_options=options
            )
            systems.setdefault(benchmark, {})[f"{model}.{mode}"] = samples
    results = list_results(systems)
    comparisons = compare_systems(systems, None, 0)
    claims = judge_claims(comparisons, CLAIMS, results)
    summary = {"name": "toy", "results": results, "comparisons": comparisons, "claims": claims}
    row = {"question": HOSTILE, "options": [HOSTILE, "b", "c", "d"], "answer": "A"}
    return summary, find_differing(
        summary, systems, {f"q{i}": {"id": f"q{i}", **row} for i in range(60)}
    )


@pytest.fixture(scope="module")
def page(shown: tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]) -> str:
    return render_page(*shown, "2026-01-01")


class Tags(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_asks_for_nothing(page: str) -> None:
    parser = Tags()
    parser.feed(page)
    assert not parser.open
    names = {tag for tag, _ in parser.seen}
    assert {"svg", "table", "details", "blockquote"} <= names
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form", "base", "a"}
    for tag, attributes in parser.seen:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value and value.startswith("#"), (tag, key, value)
    assert re.findall(r"url\((?!#)", page) == [] and "@import" not in page
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert any(
        attributes.get("content") == policy for tag, attributes in parser.seen if tag == "meta"
    )
    assert "&lt;script&gt;fetch(" in page


def test_page_and_text_show_the_same_numbers(
    shown: tuple[dict[str, Any], dict[str, list[dict[str, Any]]]], page: str
) -> None:
    summary, _ = shown
    text = render_text(summary, "x")
    for table in (build_results(summary["results"]), select("comparisons", summary["comparisons"])):
        for row in table.frame.to_numpy().tolist():
            assert f"| {' | '.join(row)} |" in text
            assert "".join(f">{cell.replace('<', '&lt;')}</td>" for cell in row[:1]) in page
    for claim in summary["claims"]:
        assert f"> {claim['sentence']}" in text
    assert plot_accuracy(summary["results"][:3]) in page, "the same bytes each time"


def test_questions_side_by_side_are_those_that_differ(
    shown: tuple[dict[str, Any], dict[str, list[dict[str, Any]]]],
) -> None:
    _, differing = shown
    assert len(differing) == 12  # three pairs, two directions, two benchmarks
    for heading, questions in differing.items():
        assert len(questions) <= 10
        for question in questions:
            (right, first), (wrong, second) = question["sides"]
            assert first["choice"] == "A" and second["choice"] == "B"
            assert f"{right} right, {wrong} wrong" in heading


def test_readme_rows(shown: tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]) -> None:
    table = render_markdown(build_scores(shown[0]["results"], commit="abc123", date="2026-01-01"))
    lines = table.splitlines()
    assert len(lines) == 8 and {line.count("|") for line in lines} == {17}
    assert "| 42 | abc123 | 2026-01-01 |" in lines[2] and re.search(
        r"\d+\.\d \| \d+\.\d–\d+\.\d", lines[2]
    )


@pytest.mark.slow
@browser.NEEDED
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_in_a_browser_asks_for_nothing_and_shows_text_as_text(
    chromium: str, page: str, tmp_path: Path, theme: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    script = """for (const part of document.querySelectorAll("details")) part.open = true;
    return {colour: getComputedStyle(document.body).backgroundColor, plots: document.querySelectorAll("svg").length,
      foreign: document.querySelectorAll("script, img, link, iframe").length,
      shown: document.body.innerText.includes("fetch("), wide: document.documentElement.scrollWidth - innerWidth}"""
    found, asked = browser.drive(chromium, path, script, theme)
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert found["foreign"] == 0 and found["shown"] and found["plots"] >= 4 and found["wide"] <= 0
    assert (sum(map(int, re.findall(r"\d+", found["colour"])[:3])) > 380) == (theme == "light")

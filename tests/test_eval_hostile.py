# ruff: noqa: F811
"""Whatever an endpoint, a data set or a user hands to evaluation: an answer, an error row, or one clear line."""

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from aiohttp import web
from omegaconf import DictConfig, OmegaConf

from data_prep.errors import UserError
from eval import endpoint
from eval.card import make_card
from eval.page import render_page
from eval.plots import plot_accuracy, plot_parts
from eval.run import evaluate, main, print_results
from eval.samples import Request, build_sample, load_samples
from eval.settings import check_settings
from eval.summary import summarise_samples
from eval.tables import Table, render_markdown
from eval.tasks import make_plan
from tests.test_card import run as run_folder  # noqa: F401
from tests.test_eval_endpoint import SAMPLING, Server, ask, cfg, say, server, write_toy_data  # noqa: F401
from tests.test_eval_report import HOSTILE, list_results, make_samples

DEEP = "[" * 100_000
GOOD = {"choices": [{"text": "C", "finish_reason": "stop"}]}


def answer_with(**facts: Any) -> web.Response:
    return web.json_response({**GOOD, **facts})


def raw(body: bytes, status: int = 200, **headers: str) -> web.Response:
    return web.Response(body=body, status=status, headers=headers or None)


BODIES: dict[str, Callable[[], web.Response]] = {
    "deep": lambda: raw(DEEP.encode()),
    "deep in place": lambda: raw(f'{{"choices": {DEEP}'.encode()),
    "no text": lambda: raw(b""),
    "null": lambda: raw(b"null"),
    "a list": lambda: raw(b"[1]"),
    "choices a text": lambda: raw(b'{"choices": "C"}'),
    "text a list": lambda: raw(b'{"choices": [{"text": ["C"]}]}'),
    "message a text": lambda: raw(b'{"choices": [{"message": "C"}]}'),
    "charset": lambda: raw(
        json.dumps(GOOD).encode("utf-16"), **{"Content-Type": "a/b; charset=rot13"}
    ),
    "gzip": lambda: raw(gzip.compress(b" " * 100_000), **{"Content-Encoding": "gzip"}),
    "large": lambda: raw(b" " * 300_000),
    "400 of no text": lambda: raw(b"\xff\xfe\x80", 400),
    "retry-after": lambda: raw(b"", 429, **{"Retry-After": "²"}),
    "bare newline": lambda: raw(b"\x00\n\x00"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_an_error_and_the_run_continues(
    cfg: DictConfig, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return BODIES[name]() if body["prompt"] == "prompt 1" else say("C")

    monkeypatch.setattr(endpoint, "MAX_BODY", 200_000)
    server.handler = answer
    cfg.endpoint_options.retries = 1
    answers = ask(cfg, 3)
    assert [a.response for a in answers] in (["C", "", "C"], ["C", "C", "C"])
    assert answers[1].error or name == "charset"


@pytest.mark.parametrize(
    "usage",
    [
        [1],
        "many",
        {"completion_tokens": 10**400},
        {"completion_tokens": -1},
        {"completion_tokens": "9"},
        {"completion_tokens": True},
        None,
    ],
)
def test_odd_counts_of_tokens_are_no_counts(cfg: DictConfig, server: Server, usage: Any) -> None:
    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return answer_with(usage=usage)

    server.handler = answer
    (found,) = ask(cfg)
    assert (found.response, found.tokens, found.error) == ("C", 0, None)
    assert type(found.tokens) is int, "or the row that is written cannot be read back"


@pytest.mark.parametrize(
    ("choice", "response", "truncated", "error"),
    [
        ({"message": {"content": None}, "finish_reason": "length"}, "", True, None),
        ({"message": {"content": None}, "finish_reason": "stop"}, "", False, None),
        (
            {"message": {"content": None, "reasoning_content": "It is"}, "finish_reason": "length"},
            "<think>It is",
            True,
            None,
        ),
        (
            {
                "message": {"content": "<answer>C</answer>", "reasoning": "So"},
                "finish_reason": "stop",
            },
            "<think>So</think><answer>C</answer>",
            False,
            None,
        ),
        (
            {"message": {"content": ""}, "finish_reason": "content_filter"},
            "",
            False,
            "content_filter",
        ),
        (
            {"text": "half an emoji \ud83d", "finish_reason": "stop"},
            "half an emoji \ud83d",
            False,
            None,
        ),
    ],
)
def test_null_content_and_reasoning_are_read_and_asked_for_once(
    cfg: DictConfig,
    server: Server,
    choice: dict[str, Any],
    response: str,
    truncated: bool,
    error: str | None,
) -> None:
    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return web.json_response({"choices": [choice]})

    server.handler = answer
    (found,) = ask(cfg)
    assert (found.response, found.truncated) == (response, truncated)
    assert (found.error or "").startswith(error or "") and bool(found.error) == bool(error)
    assert server.asked["prompt 0"] == 1


@pytest.mark.parametrize("ended", ["abort", "error"])
def test_half_an_answer_is_asked_for_again(cfg: DictConfig, server: Server, ended: str) -> None:
    """vLLM's finish_reason where its engine stopped in the middle of an answer."""

    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return say("A", finish_reason=ended) if attempt == 1 else say("C")

    server.handler = answer
    (found,) = ask(cfg)
    assert (found.response, server.asked["prompt 0"]) == ("C", 2)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), {"a": [1]}, [["x"] * 9]])
def test_odd_facts_of_a_model_are_no_facts(
    make_cfg: Callable[..., DictConfig], server: Server, odd: Any
) -> None:
    server.models = [{"id": "tiny", "root": "/models/a", "parent": odd, "max_model_len": odd}]
    summary = evaluate(make_cfg())
    print_of = summary["results"][0]["settings"]["model"]["fingerprint"]
    assert print_of == {"root": "/models/a", "parent": None, "max_model_len": None}
    server.models = [{"id": "tiny", "root": odd}]
    assert (
        evaluate(make_cfg("name=other"))["results"][0]["settings"]["model"]["fingerprint"] is None
    )


def test_prompts_with_their_own_bos_forbid_another_one(cfg: DictConfig) -> None:
    bodies = [
        endpoint.build_body("m", Request({}, 0, 7, "<s>Hi"), SAMPLING, markup, cfg.endpoint_options)
        for markup in (True, False)
    ]
    assert bodies[0]["add_special_tokens"] is False and "add_special_tokens" not in bodies[1]
    cfg.endpoint_options.extra = {"add_special_tokens": None}
    body = endpoint.build_body("m", Request({}, 0, 7, "p"), SAMPLING, True, cfg.endpoint_options)
    assert "add_special_tokens" not in body, "null removes a field that a server refuses"


@pytest.fixture
def make_cfg(
    compose_config: Callable[..., DictConfig], server: Server, tmp_path: Path
) -> Callable[..., DictConfig]:
    """make_cfg(*overrides): an evaluation of a toy benchmark over the endpoint."""
    write_toy_data(tmp_path / "data" / "toy")
    places = [
        f"data_dir={tmp_path}/data",
        f"results_dir={tmp_path}/results",
        f"endpoint={server.url}",
    ]
    quick = ["endpoint_options.backoff=0.01", "endpoint_options.retries=0", "models={m:tiny}"]
    return lambda *overrides: compose_config(
        "eval", *places, *quick, "benchmarks=[toy/test]", *overrides
    )


def test_hostile_answers_reach_the_report(
    make_cfg: Callable[..., DictConfig], server: Server
) -> None:
    texts = [HOSTILE, "half \ud83d", "a\x00b\u2028c", "<answer>" * 5000, "\\frac{$", "| x |\n| y |"]
    rng = random.Random(0)

    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        if rng.random() < 0.3:
            return BODIES[rng.choice(list(BODIES))]()
        return answer_with(choices=[{"text": rng.choice(texts), "finish_reason": "stop"}])

    server.handler = answer
    summary = evaluate(make_cfg())
    assert summary["results"][0]["n"] == 10
    assert evaluate(make_cfg()) == summary, "read back from disk as it was written"


def test_a_refused_request_is_shown_with_its_reason(
    make_cfg: Callable[..., DictConfig],
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return raw(b"max_tokens is | not\nsupported", 400)

    server.handler = refuse
    summary = evaluate(make_cfg())
    print_results(summary)
    assert "10 of 10 answers are errors and count as wrong: 10 × http_400: max_tokens is | not" in (
        " ".join(capsys.readouterr().out.split())
    )
    table = (tmp_path / "results" / "laptop" / "table.md").read_text()
    assert "10 × http_400: max_tokens is \\| not supported" in table
    monkeypatch.setattr("eval.run.evaluate", lambda cfg: summary)
    with pytest.raises(SystemExit) as ended:
        main(make_cfg())
    assert ended.value.code == 1


def test_control_characters_of_a_server_are_shown(
    make_cfg: Callable[..., DictConfig],
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its reasons, and a benchmark's folder, in the table, in the lines below it and in the progress."""
    (tmp_path / "data" / "toy").rename(tmp_path / "data" / "[b]\x1b[2J")

    async def refuse(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        return raw("\x1b]0;owned\x07 no \u202e".encode(), 400)

    server.handler = refuse
    cfg = make_cfg()
    cfg.benchmarks = ["[b]\x1b[2J/test"]
    print_results(evaluate(cfg))
    said = "".join(capsys.readouterr())
    assert "\\x1b]0;owned\\x07" in said and not set("\x1b\x07\u202e") & set(said)


def test_another_model_under_the_same_name_is_noticed(
    make_cfg: Callable[..., DictConfig], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(make_cfg())
    assert "does not say which weights it serves as 'tiny'" in capsys.readouterr().err
    evaluate(make_cfg())
    assert "10 answers were in" in capsys.readouterr().err, "answers from disk are announced"
    server.models = [{"id": "tiny", "root": "/models/a", "created": 1}]
    evaluate(make_cfg("name=other"))
    server.models = [{"id": "tiny", "root": "/models/b", "created": 2}]
    with pytest.raises(UserError, match=r"model.fingerprint.root was /models/a, is /models/b"):
        evaluate(make_cfg("name=other"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("samples=3", "samples=3 with temperature=0"),
        ("temperature=-1", "temperature=-1"),
        ("temperature=hot", "temperature='hot'"),
        ("temperature=null", "temperature=None"),
        ("top_p=0", "top_p=0"),
        ("seed=null", "seed=None"),
        ("chunk=0", "chunk=0"),
        ("samples=true", "samples=True"),
        ("name=null", "name=None"),
        ("name='a b'", "name='a b'"),
        ("results_dir=null", "results_dir=None"),
        ("max_new_tokens=0", "max_new_tokens=0"),
        ("endpoint_options=null", "endpoint_options=None"),
        ("endpoint_options.concurrency=0", "endpoint_options.concurrency=0"),
        ("endpoint_options.api=both", "endpoint_options.api='both'"),
        ("claims.margin=0", "claims.margin=0"),
        ("modes=[thinking]", "modes: "),
        ("modes={x:[think]}", "modes.x: no such model, there is m"),
        ("endpoint=localhost:8000", "no address"),
        ("endpoint=http://user:SECRET@host/v1", "OPENAI_API_KEY"),
        ("endpoint='http://host/v1?api_key=SECRET'", "OPENAI_API_KEY"),
    ],
)
def test_settings_that_cannot_evaluate_are_refused(
    make_cfg: Callable[..., DictConfig], override: str, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(make_cfg(override))
    assert any(told in problem for problem in caught.value.problems), caught.value.problems
    assert "SECRET" not in str(caught.value)


NULL_OR_OPEN = [
    ["claims=null", "compare=null", "modes=null", "vllm=null"],
    ["claims.level=null", "limit=null", "max_len=null", "vllm.max_num_seqs=4"],
    [
        "claims.format_rate=null",
        "vllm.extra={swap_space:4}",
        "out_of_distribution=null",
        "endpoint_options.extra={skip_special_tokens:false}",
    ],
]


@pytest.mark.parametrize("overrides", NULL_OR_OPEN)
def test_settings_that_can_be_null_or_open_work_together(
    make_cfg: Callable[..., DictConfig], overrides: list[str]
) -> None:
    assert evaluate(make_cfg(*overrides))["results"]


@pytest.mark.slow
@pytest.mark.parametrize("override", [one for group in NULL_OR_OPEN for one in group])
def test_settings_that_can_be_null_or_open_work(
    make_cfg: Callable[..., DictConfig], override: str
) -> None:
    assert evaluate(make_cfg(override))["results"]


def test_odd_subjects_and_names_are_drawn_as_they_are() -> None:
    odd = [
        "Dose $\\bad$ cost",
        "cost $5 to $9",
        "a_b_c",
        "_x",
        "<b>|",
        "x" * 400,
        "two\nlines",
        "心",
    ]
    samples = make_samples([1, 0] * 8, group=odd * 2)
    result = {"model": "_m$x$", "benchmark": "b$/t", "mode": "think", **summarise_samples(samples)}
    drawn = plot_parts([result, {**result, "model": "n"}], "by_group", "sub$ject_")
    for text in (
        "Dose $\\bad$ cost",
        "cost $5 to $9",
        "&lt;b&gt;|",
        "two lines",
        "_m$x$.think",
        "_x",
    ):
        assert text in drawn, text
    assert "_m$x$.think" in plot_accuracy([result]) and "x" * 100 not in drawn
    result["settings"] = list_results({"b/t": {"m.think": samples}})[0]["settings"]
    summary = {"name": "n", "results": [result], "comparisons": [], "claims": []}
    assert "cost $5 to $9" in render_page(summary, {}, "now")


def test_texts_of_others_stay_in_their_cell_of_a_table() -> None:
    """By GitHub's rule a backslash escapes the next sign, so `\\\\|` ends a cell; a picture would be loaded."""
    odd = [
        "back\\|slash",
        "![p](http://e/x.png)",
        "<b>",
        "two\nlines",
        "\x1b[2J",
        "end\\",
        "p < 0.05",
    ]
    text = render_markdown(Table("t", pd.DataFrame([odd], columns=list("abcdefg")), 7))
    cells = re.sub(r"\\.", "", text).split("\n")[2].split("|")
    assert len(cells) == len(odd) + 2 and text.count("\n") == 3
    assert "](" not in re.sub(r"\\.", "", text) and "<b" not in text and "\x1b" not in text
    assert "p < 0.05" in text


def test_half_an_emoji_may_name_a_subject() -> None:
    row = {"id": "a", "answer": "A", "options": ["x", "y"], "meta": {"group": "\ud83d"}}
    request, answer = Request(row, 0, 1, "p"), endpoint.Answer("A")
    samples = [build_sample(request, answer, "direct"), *make_samples([1])]
    assert summarise_samples(samples)["n"] == 2


def test_a_baseline_at_chance_cannot_be_judged(compose_config: Callable[..., DictConfig]) -> None:
    from eval.compare import compare_systems, judge_claims

    claims = OmegaConf.to_container(compose_config("eval").claims)
    better, chance = make_samples([1, 1, 1, 0] * 50), make_samples([1, 0, 0, 0] * 50)
    unformed = make_samples([1, 1, 1, 0] * 50, format_ok=[i % 4 > 0 for i in range(200)])
    for of, over, told in (
        (better, chance, "sft.direct is not above chance: 25.0 %"),
        (
            unformed,
            better,
            "rlvr.think follows its format in 75.0 % of its answers, 90 % are needed",
        ),
    ):
        systems = {"bank/ood": {"rlvr.think": of, "sft.direct": over}}
        found = compare_systems(systems, None, 0)
        (claim,) = judge_claims(found, claims, list_results(systems))
        assert claim["verdict"] == "cannot be judged" and told in claim["sentence"]
    assert judge_claims(found, None, []) == []


BREAKS: dict[str, Callable[[Path], object]] = {
    "empty run.json": lambda run: (run / "run.json").write_text(""),
    "run.json a list": lambda run: (run / "run.json").write_text("[]"),
    "run.json of nulls": lambda run: (run / "run.json").write_text(
        '{"git": null, "machine": 3, "data": "x"}'
    ),
    "deep run.json": lambda run: (run / "run.json").write_text(DEEP),
    "no text": lambda run: (run / "run.json").write_bytes(b"\xff\xfe"),
    "config a text": lambda run: (run / "config.yaml").write_text("hello"),
    "config broken": lambda run: (run / "config.yaml").write_text("a: [b"),
    "config empty": lambda run: (run / "config.yaml").write_text(
        "model: {path: null}\nreward: 3\n"
    ),
    "yaml tag": lambda run: (run / "config.yaml").write_text(
        "!!python/object/apply:os.system [id]"
    ),
    "dynamics a number": lambda run: (run / "report" / "dynamics.json").write_text("3"),
    "dynamics empty": lambda run: (run / "report" / "dynamics.json").write_text("[]"),
    "dynamics odd": lambda run: (run / "report" / "dynamics.json").write_text('[{"phases": [1]}]'),
    "summary broken": lambda run: (run.parent / "evaluation" / "summary.json").write_text("{"),
    "summary odd": lambda run: (run.parent / "evaluation" / "summary.json").write_text(
        '{"results": [{"path": 3}, 4]}'
    ),
    "results a number": lambda run: (run.parent / "evaluation" / "summary.json").write_text(
        '{"results": 4}'
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_card_of_a_damaged_folder_says_what_is_missing(run_folder: Path, name: str) -> None:
    BREAKS[name](run_folder)
    settings = {"run": str(run_folder), "evaluation": str(run_folder.parent / "evaluation")}
    text = make_card(OmegaConf.create({**settings, "licence": None})).read_text()
    assert "Missing in this card" in text or "not recorded" in text, text


def test_a_card_holds_hostile_names_as_text(run_folder: Path) -> None:
    path = run_folder / "config.yaml"
    config = OmegaConf.load(path)
    config.name = "x\n# y [a](javascript:alert) <script>alert(1)</script> | z"
    OmegaConf.save(config, path)
    settings = {"run": str(run_folder), "evaluation": "none", "licence": "mit <b>"}
    text = make_card(OmegaConf.create(settings)).read_text().split("---\n", 2)[2]
    assert "<script" not in text and "[a](javascript" not in text and "\n# y" not in text
    assert "<b>" not in text


def test_samples_of_errors_are_rows_too(
    make_cfg: Callable[..., DictConfig], tmp_path: Path
) -> None:
    request = Request(
        {"id": "a", "answer": "A", "options": ["x", "y"], "meta": {}, "datasource": "d"},
        0,
        1,
        "\ud83d",
    )
    sample = build_sample(request, endpoint.Answer(error="timeout"), "think")
    assert sample["reason"] == "error" and not sample["correct"]
    assert load_samples(tmp_path / "none") == []
    assert check_settings(make_cfg()) == []


ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**400, float("nan"), float("inf"), "", "x" * 3000, HOSTILE, "half \ud83d", "a\x00b",
    "$x$ | y\n", [], [1], {}, {"a": {"b": []}}, "../../x", "{{ 7 * 7 }}", "${oc.env:HOME}",
]  # fmt: skip


def mutate(value: Any, rng: random.Random) -> Any:
    """The same nested value with one of its parts, at any depth, left out or replaced by an odd one."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(ODD)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        changed = {name: part for name, part in value.items() if name != key}
        return changed if rng.random() < 0.2 else {**changed, key: mutate(value[key], rng)}
    place = rng.randrange(len(value))
    return [*value[:place], mutate(value[place], rng), *value[place + 1 :]]


DAMAGES = {
    "samples a word": ("samples/*.jsonl", "x\n"),
    "samples a list": ("samples/*.jsonl", "[1]\n"),
    "samples deep": ("samples/*.jsonl", DEEP + "\n"),
    "samples of another kind": ("samples/*.jsonl", '{"id": "toy/test/0", "sample": "x"}\n'),
    "settings a list": ("settings.json", "[1]"),
    "settings cut": ("settings.json", "{"),
    "run a mapping": ("run.json", "{}"),
    "run of nothing": ("run.json", "[{}]"),
    "run cut": ("run.json", "["),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_of_results_is_one_line(
    make_cfg: Callable[..., DictConfig], tmp_path: Path, name: str
) -> None:
    evaluate(make_cfg())
    pattern, content = DAMAGES[name]
    (path,) = (tmp_path / "results/laptop").glob(pattern)
    path.write_text(content)
    with pytest.raises(UserError) as error:
        evaluate(make_cfg())
    assert str(path) in error.value.problems[0] and "\n" not in str(error.value)
    path.unlink()
    if path.name != "settings.json":  # without it nobody knows what the answers depend on
        assert evaluate(make_cfg())["results"][0]["n"] == 10


@pytest.mark.slow
def test_thousands_of_odd_answers_end_in_rows(cfg: DictConfig, server: Server) -> None:
    rng = random.Random(1)
    message = {"content": "C", "reasoning_content": None, "role": "assistant"}
    choice = {"text": "C", "finish_reason": "stop", "message": message}
    whole = {"choices": [choice], "usage": {"completion_tokens": 3}, "id": "x"}

    async def answer(request: web.Request, body: dict[str, Any], attempt: int) -> web.Response:
        if rng.random() < 0.1:
            return BODIES[rng.choice(list(BODIES))]()
        return raw(json.dumps(mutate(whole, rng)).encode(), rng.choice([200] * 9 + [400, 418, 500]))

    server.handler = answer
    cfg.endpoint_options.retries = 0
    answers = ask(cfg, 3000)
    row = {"id": "a", "answer": "C", "options": ["x"] * 4, "meta": {}, "datasource": "d"}
    samples = [build_sample(Request(row, i, 1, "p"), a, "think") for i, a in enumerate(answers)]
    assert 100 < sum(sample["error"] is not None for sample in samples) < 2900
    assert summarise_samples(json.loads(json.dumps(samples)))["n"] == 3000


@pytest.mark.slow
def test_thousands_of_odd_settings_are_taken_or_refused(
    make_cfg: Callable[..., DictConfig],
) -> None:
    rng = random.Random(2)
    keys = [
        "samples", "temperature", "top_p", "max_new_tokens", "max_len", "limit", "seed", "chunk", "name", "modes",
        "models", "benchmarks", "claims", "vllm", "endpoint", "endpoint_options", "results_dir", "data_dir",
        "claims.margin", "claims.level", "endpoint_options.extra", "endpoint_options.retries", "out_of_distribution",
    ]  # fmt: skip
    refused = 0
    for _ in range(2000):
        cfg, key, value = make_cfg(), rng.choice(keys), rng.choice(ODD)
        if isinstance(value, str) and "${" in value:
            continue
        cfg.endpoint = None
        try:
            OmegaConf.update(cfg, key, value, force_add=True)
        except Exception:  # OmegaConf's own refusal
            continue
        try:
            make_plan(cfg)
        except UserError:
            refused += 1
    assert refused > 1000


@pytest.mark.slow
def test_thousands_of_damaged_folders_give_a_card(run_folder: Path) -> None:
    rng = random.Random(3)
    summary = run_folder.parent / "evaluation" / "summary.json"
    paths = [run_folder / "run.json", run_folder / "report" / "dynamics.json", summary]
    sound = {path: json.loads(path.read_text()) for path in paths}
    config = OmegaConf.to_container(OmegaConf.load(run_folder / "config.yaml"))
    settings = {"run": str(run_folder), "evaluation": str(summary.parent), "licence": None}
    for _ in range(2000):
        for path, value in sound.items():
            path.write_text(json.dumps(mutate(value, rng) if rng.random() < 0.5 else value))
        damaged = mutate(config, rng)
        (run_folder / "config.yaml").write_text(json.dumps(damaged))
        text = make_card(OmegaConf.create(settings)).read_text()
        assert "<script" not in text.split("\n---\n", 1)[1]

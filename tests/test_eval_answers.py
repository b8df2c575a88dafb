"""From questions to samples on disk: requests, resuming, settings; no model is loaded here."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import lock_file
from data_prep.prepared import FORMAT, open_prepared
from data_prep.rows import Question, build_row
from eval import ask
from eval.ask import answer_tasks, cut_chunks
from eval.modes import judge, render
from eval.run import evaluate
from eval.samples import Answer, Request, append_samples, build_sample, load_samples, make_seed
from eval.summary import summarise_samples
from eval.tasks import make_plan


def write_data(
    folder: Path, name: str = "toy/test", count: int = 10, options: int = 4, **meta: Any
) -> Path:
    """A prepared file of `count` questions, gold letters in turn, with its manifest."""
    dataset, split = name.split("/")
    path = folder / dataset / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"option {number}" for number in range(options)]
    questions = [
        Question(
            f"{name}/{i}",
            f"Question {i}?\u2028",
            texts,
            "ABCDEFGHIJ"[i % options],
            {"cluster": f"c{i}", **meta},
        )
        for i in range(count)
    ]
    lines = [
        json.dumps(build_row(question, split, "<e>"), ensure_ascii=False) for question in questions
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_manifest(path.parent)
    return path


def write_manifest(folder: Path, **facts: Any) -> None:
    files = {
        file.name: {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "rows": len(file.read_bytes().splitlines()),
        }
        for file in folder.glob("*.jsonl")
    }
    manifest = {"format": FORMAT, "files": files, **facts}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_model(folder: Path, text: str = "weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(text)
    return folder


@pytest.fixture
def make_cfg(
    compose_config: Callable[..., DictConfig], tmp_path: Path
) -> Callable[..., DictConfig]:
    """make_cfg(*overrides): eval.yaml for a toy benchmark and one model folder."""
    write_data(tmp_path / "data")
    model = write_model(tmp_path / "model")

    def make(*overrides: str) -> DictConfig:
        places = [
            f"data_dir={tmp_path}/data",
            f"results_dir={tmp_path}/results",
            f"models={{m:{model}}}",
        ]
        return compose_config("eval", *places, "benchmarks=[toy/test]", *overrides)

    return make


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the process with vLLM: answers B to everything; the list collects the jobs it was given."""
    jobs: list[dict[str, Any]] = []

    def run_engine(job: dict[str, Any], log: Path):  # type: ignore[no-untyped-def]
        jobs.append(job)
        for task in job["tasks"]:
            for chunk in task["chunks"]:
                text = {"response": "<think>x</think><answer>B</answer>", "tokens": 3}
                yield {"event": "answers", "answers": [text for _ in chunk]}
        yield {"event": "done"}

    monkeypatch.setattr(ask, "run_engine", run_engine)
    return jobs


def run(cfg: DictConfig) -> tuple[dict[str, list[dict[str, Any]]], int]:
    return answer_tasks(
        cfg, make_plan(cfg), Path(cfg.results_dir) / cfg.name, lambda task, done: None
    )


def problems_of(cfg: DictConfig) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(cfg)
    return "\n".join(caught.value.problems)


def test_all_problems_are_told_at_once(make_cfg: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = make_cfg(
        "samples=3",
        "limit=0",
        "modes=[thinking]",
        "name=a/b",
        "benchmarks=[toy/test,toy/nope,data/no/x.jsonl]",
    )
    cfg.models = {"a": "/nope", "b": str(tmp_path)}
    told = problems_of(cfg)
    for part in (
        "samples=3 with temperature=0",
        "limit=0",
        "'thinking' is not one of think, direct, cot, loglikelihood",
        "name='a/b'",
        "models.a=/nope is no folder",
        "has no config.json",
        "toy has no split 'nope', it has test",
        f"run `make prep data=no data_dir={tmp_path}/data`",
    ):
        assert part in told, told


def test_data_that_differs_from_its_manifest_is_refused(
    make_cfg: Callable[..., DictConfig], tmp_path: Path
) -> None:
    path = tmp_path / "data" / "toy" / "test.jsonl"
    path.write_text(path.read_text().replace("option 2", "option two"))
    assert "is not what its manifest says" in problems_of(make_cfg())
    (path.parent / "manifest.json").unlink()
    mend = f"run `make prep data=toy data_dir={tmp_path}/data`"
    assert f"manifest.json not found: {mend}" in problems_of(make_cfg())


def test_default_models_that_are_missing_are_noted_and_named_ones_are_errors(
    compose_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    places = [f"data_dir={tmp_path}/data", "benchmarks=[toy/test]", f"model.path={tmp_path}/base"]
    told = problems_of(compose_config("eval", *places))
    assert "make setup" in told and "`make sft` makes it" in told and "`make rlvr` makes it" in told
    write_model(tmp_path / "base")
    write_model(tmp_path / "runs" / "rlvr" / "laptop" / "model")
    plan = make_plan(compose_config("eval", *places))
    assert (
        list(plan.models) == ["base", "rlvr"]
        and len(plan.notes) == 1
        and "sft is left out" in plan.notes[0]
    )
    assert [task.key for task in plan.tasks] == [
        *(f"base.toy-test.{mode}" for mode in ("direct", "cot", "think")),
        "rlvr.toy-test.think",
    ]


def test_default_benchmarks_are_test_and_ood_where_there_is_one(
    compose_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    write_data(tmp_path, "bank/test")
    model = write_model(tmp_path / "model")
    overrides = [f"data_dir={tmp_path}", f"models={{m:{model}}}"]
    assert [
        task.benchmark.name for task in make_plan(compose_config("eval", *overrides)).tasks
    ] == ["bank/test"]
    write_data(tmp_path, "bank/ood", options=10)
    names = [task.benchmark.name for task in make_plan(compose_config("eval", *overrides)).tasks]
    assert names == ["bank/test", "bank/ood"]


def test_limit_draws_the_same_rows_for_every_model(make_cfg: Callable[..., DictConfig]) -> None:
    first, again = (make_plan(make_cfg("limit=4")).tasks[0].requests for _ in range(2))
    ids = [request.row["id"] for request in first]
    assert ids == [request.row["id"] for request in again] and len(ids) == 4
    assert ids == sorted(ids, key=lambda name: int(name.rpartition("/")[2])) and ids != [
        f"toy/test/{i}" for i in range(4)
    ]


def test_modes_render_what_was_trained_on(make_cfg: Callable[..., DictConfig]) -> None:
    row = make_plan(make_cfg()).tasks[0].requests[0].row
    assert render(row, "think") == row["prompt"] and render(row, "direct") == row["direct_prompt"]
    assert render(row, "loglikelihood") == row["direct_prompt"]
    cot = render(row, "cot")
    assert (
        cot.endswith("D. option 3\nAssistant:\n") and "<think>" not in cot and "step by step" in cot
    )


@pytest.mark.parametrize(
    ("mode", "response", "format_ok", "choice", "lenient"),
    [
        ("think", "<think>x</think><answer>B</answer>", True, "B", "B"),
        ("think", "The answer is B.", False, None, "B"),
        ("direct", "B", True, "B", "B"),
        ("direct", "Perhaps", False, None, None),
        ("cot", "Since x, y.\nAnswer: B", True, "B", "B"),
        ("cot", "Since x, y.\n\n**Answer: (B)**\n\n", True, "B", "B"),
        ("cot", "The answer is B. Now let me go on", False, None, "B"),
        ("cot", "A. one\nB. two\nC. three\nD. four", False, None, None),
        ("cot", "Answer: B\nAnswer: C or D", False, None, None),
        ("loglikelihood", "B", True, "B", "B"),
    ],
)
def test_each_mode_reads_its_own_format(
    mode: str, response: str, format_ok: bool, choice: str | None, lenient: str | None
) -> None:
    judgement = judge(response, "B", ["one", "two", "three", "four"], mode)
    assert (judgement.format_ok, judgement.choice) == (format_ok, choice)
    assert judgement.choice_lenient == lenient


def test_a_second_call_asks_nothing(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]]
) -> None:
    first, asked = run(make_cfg())
    assert asked == 10 and len(engine) == 1
    assert [sample["correct"] for sample in first["m.toy-test.think"]] == [
        i % 4 == 1 for i in range(10)
    ]
    again, asked = run(make_cfg())
    assert (again, asked, len(engine)) == (first, 0, 1)


def test_a_killed_run_asks_only_what_is_missing(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]]
) -> None:
    whole, _ = run(make_cfg("chunk=4"))
    path = Path(make_cfg().results_dir) / "laptop" / "samples" / "m.toy-test.think.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:30])  # five answers and a torn sixth
    again, asked = run(make_cfg("chunk=4"))
    assert asked == 5 and again == whole and path.read_bytes() == b"".join(lines)
    prompts = [prompt["text"] for chunk in engine[1]["tasks"][0]["chunks"] for prompt in chunk]
    assert [text.partition("Question ")[2][0] for text in prompts] == ["5", "6", "7", "8", "9"]
    assert [len(chunk) for chunk in engine[1]["tasks"][0]["chunks"]] == [3, 2], (
        "cut where the first run cut"
    )


def test_chunks_do_not_move() -> None:
    requests = [Request({}, 0, 0, str(i)) for i in range(10)]
    missing = [(i, request) for i, request in enumerate(requests) if i not in (0, 1, 2, 3, 6)]
    assert [[r.prompt for r in chunk] for chunk in cut_chunks(missing, 4)] == [
        ["4", "5", "7"],
        ["8", "9"],
    ]


def test_other_settings_are_refused_and_named(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    run(make_cfg())
    with pytest.raises(
        UserError, match=r"sampling.max_new_tokens was 128, is 7.*\n.*overwrite=true"
    ):
        run(make_cfg("max_new_tokens=7"))
    write_model(tmp_path / "model", "other weights")
    with pytest.raises(UserError, match=r"model.sha256 was"):
        run(make_cfg())
    _, asked = run(make_cfg("overwrite=true"))
    assert asked == 10
    _, asked = run(
        make_cfg("models={m:" + str(write_model(tmp_path / "copy", "other weights")) + "}")
    )
    assert asked == 0, "a copy of the same model elsewhere is the same model"


def test_errors_count_as_wrong_and_are_asked_again_on_demand(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]]
) -> None:
    run(make_cfg())
    path = Path(make_cfg().results_dir) / "laptop" / "samples" / "m.toy-test.think.jsonl"
    request = make_plan(make_cfg()).tasks[0].requests[1]
    samples = load_samples(path)
    samples[1] = build_sample(request, Answer(error="timeout"), "think")
    path.unlink()
    append_samples(path, samples)
    results, asked = run(make_cfg())
    assert asked == 0 and not samples[1]["correct"] and samples[1]["reason"] == "error"
    assert summarise_samples(results["m.toy-test.think"])["errors"] == 1
    results, asked = run(make_cfg("retry_errors=true"))
    assert asked == 1 and summarise_samples(results["m.toy-test.think"])["errors"] == 0


def test_a_second_run_in_the_same_folder_is_kept_out(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "results" / "laptop"
    folder.mkdir(parents=True)
    with (
        lock_file(folder / ".lock"),
        pytest.raises(UserError, match="another evaluation is writing"),
    ):
        evaluate(make_cfg())
    evaluate(make_cfg())


def test_a_full_disk_is_told(
    make_cfg: Callable[..., DictConfig], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, samples: list[dict[str, Any]]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ask, "append_samples", refuse)
    with pytest.raises(
        UserError, match="No space left on device; fix that, and the same command continues"
    ):
        evaluate(make_cfg())


def test_seeds_differ_between_questions_and_samples() -> None:
    seeds = {make_seed(42, f"q/{i}", sample) for i in range(300) for sample in range(4)}
    assert len(seeds) == 1200 and all(0 <= seed < 2**31 for seed in seeds)
    assert make_seed(42, "bank/test/0", 0) == 1274458592, "the same on every machine"


def test_a_sample_has_what_the_statistics_need(
    make_cfg: Callable[..., DictConfig], tmp_path: Path
) -> None:
    write_data(
        tmp_path / "data",
        relation="drug_class",
        subject="aspirin",
        overlap_id="toy/train/3",
        overlap_share=0.9,
    )
    request = make_plan(make_cfg()).tasks[0].requests[3]
    sample = build_sample(request, Answer("D", tokens=2, truncated=True), "direct")
    assert sample["prompt_sha256"] == hashlib.sha256(request.prompt.encode()).hexdigest()
    expected = {
        "id": "toy/test/3",
        "cluster": "c3",
        "overlap": True,
        "group": "drug_class",
        "tokens": 2,
    }
    assert sample == {**sample, **expected, "truncated": True, "correct": True, "error": None}
    assert "scores" in build_sample(request, Answer("D", scores={"A": -1.0}), "loglikelihood")


def test_the_training_sets_own_list_flags_rows_of_other_benchmarks(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Also of answers that are on disk already: the training set may be prepared after they were asked for."""
    overlapping = "m.toy-test.think"
    assert not any(sample["overlap"] for sample in run(make_cfg())[0][overlapping])
    rows = {
        f"toy/test/{i}": {"train_id": "bank/train/0", "share": 0.9, "train_row_dropped": i == 2}
        for i in (1, 2)
    }
    manifest = tmp_path / "data" / "bank" / "manifest.json"
    manifest.parent.mkdir()
    (manifest.parent / "train.jsonl").write_text("")
    overlap = {"evaluation_rows": rows, "not_checked_against": []}
    write_manifest(manifest.parent, overlap=overlap)
    samples, asked = run(make_cfg())
    assert [sample["id"] for sample in samples[overlapping] if sample["overlap"]] == [
        "toy/test/1"
    ] and asked == 0
    assert summarise_samples(samples[overlapping])["accuracy_clean"]["n"] == 9
    overlap = {"evaluation_rows": {}, "not_checked_against": ["toy"]}
    write_manifest(manifest.parent, overlap=overlap)
    (note,) = make_plan(make_cfg()).notes
    assert (
        "toy/test was not compared with the training rows of bank" in note
        and "make prep data=bank" in note
    )


def test_right_responses_become_rows_for_sft(
    make_cfg: Callable[..., DictConfig], engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_manifest(
        tmp_path / "data" / "toy", tokenizer={"eos_token": "<e>", "path": "", "sha256": ""}
    )
    words = ["modes=[think]", "temperature=1", "samples=3", "accepted=toy_own", "claims=null"]
    cfg = make_cfg(*words)
    evaluate(cfg)
    own = open_prepared(tmp_path / "data" / "toy_own")
    rows = own.read_rows("test")
    # B is right for questions 1, 5, 9; the same response three times is one row
    assert [row["id"] for row in rows] == ["toy/test/1", "toy/test/5", "toy/test/9"]
    asked = {row["id"]: row for row in open_prepared(tmp_path / "data" / "toy").read_rows("test")}
    for row in rows:
        assert row["direct_prompt"] == asked[row["id"]]["prompt"]
        assert row["response"] == "<think>x</think><answer>B</answer><e>"
    assert own.manifest["accepted"]["m.toy-test.think"]["sampling"]["samples"] == 3
    evaluate(cfg)  # the same again
    # another data set is never replaced, and rows are never none
    with pytest.raises(UserError, match=r"accepted=toy: .* is another data set"):
        evaluate(make_cfg(*words[:-2], "accepted=toy", "claims=null"))
    write_data(tmp_path / "data", "two/test", count=1)
    write_manifest(
        tmp_path / "data" / "two", tokenizer={"eos_token": "<e>", "path": "", "sha256": ""}
    )
    with pytest.raises(UserError, match="no right response for test"):
        evaluate(make_cfg(*words[:-2], "accepted=none", "benchmarks=[two/test]", "name=two"))

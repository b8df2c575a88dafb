"""`experiment=paper` is the paper: its values, typed here from the paper, against what is handed to the engine."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from statsmodels.stats.proportion import confint_proportions_2indep

from data_prep.prepare import prepare
from data_prep.prepared import open_prepared
from data_prep.prompt import TEMPLATES
from eval.questions import Benchmark
from eval.samples import list_requests
from eval.tables import format_points
from recipes.flags import build_parser
from recipes.launcher import build_argv
from recipes.preflight import find_problems

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "recipes/configs/experiment"
FILES = ROOT.parent / "shared/data/medqa_5"

# flag of OpenRLHF 0.11.2 → value. The paper says the first block; the rest are OpenRLHF's defaults of February 2025.
PAPER = {
    "train.num_episodes": 10,
    "actor.loss_agg_mode": "seq-mean-token-mean",
    "algo.advantage.estimator": "gae",
    "actor.model_name_or_path": "Qwen/Qwen2.5-3B",
    "eval.steps": 4,
    "rollout.batch_size": 1024,
    "rollout.n_samples_per_prompt": 1,
    "train.batch_size": 128,
    "train.max_epochs": 1,
    "data.max_len": 2048,
    "rollout.max_new_tokens": 1024,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "actor.adam.lr": 1e-6,
    "critic.adam.lr": 9e-6,
    "actor.eps_clip": 0.2,
    "critic.value_clip": 0.2,
    "algo.kl.init_coef": 0.01,
    "algo.kl.estimator": "k1",
    "algo.advantage.gamma": 1,
    "algo.advantage.lambd": 1,
    "actor.lr_scheduler": "cosine_with_min_lr",
    "actor.lr_warmup_ratio": 0.03,
    "actor.min_lr_ratio": 0.1,
    "actor.max_norm": 1.0,
    "actor.num_nodes": 4,
    "actor.num_gpus_per_node": 8,
    "critic.num_nodes": 4,
    "vllm.num_engines": 32,
    # measured (vllm_kl) and never applied: the weight is clipped to exactly 1
    "algo.advantage.is_correction_level": "token",
    "algo.advantage.is_correction_mode": "clip",
    "algo.advantage.is_correction_threshold": [1.0, 1.0],
    # the test split makes the figure and chooses nothing
    "ckpt.best_metric_key": "none",
}


@pytest.fixture(autouse=True)
def without_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time to draw; tests/test_prep.py looks at the picture."""
    monkeypatch.setattr("data_prep.prepare.draw_lengths", lambda *_: None)


@pytest.fixture
def engine_values(compose_config) -> dict:
    """What the engine's own parser reads from the command that `dry_run=true` prints."""
    argv = build_argv(compose_config("rlvr", "experiment=paper", "hardware=4x8x40gb"), "ppo")
    return vars(build_parser("ppo").parse_args(argv))


def test_the_engine_gets_the_papers_values(engine_values: dict) -> None:
    assert {flag: engine_values[flag] for flag in PAPER} == PAPER
    assert engine_values["eval.dataset"].endswith("data/paper/medqa_5/test.jsonl")


@pytest.mark.parametrize("root_name", ["prep", "rlvr", "sft", "eval"])
@pytest.mark.parametrize("name", ["paper", "paper_laptop"])
def test_every_stage_reads_the_same_rows(compose_config, root_name: str, name: str) -> None:
    folder = "sft/" if root_name == "sft" else ""
    cfg = compose_config(root_name, f"experiment={folder}{name}")
    assert cfg.data.name == {"paper": "medqa_5", "paper_laptop": "bank_5"}[name]
    assert (cfg.data_dir, cfg.data.prompt.name) == ("data/paper", "paper")
    assert cfg.data.options.none_of_the_above == "add"


def test_the_laptop_twin_has_the_papers_switches(compose_config) -> None:
    paper, twin = (
        compose_config("rlvr", f"experiment={name}") for name in ("paper", "paper_laptop")
    )
    for key in (
        "train.num_episodes",
        "train.max_epochs",
        "rollout.n_samples_per_prompt",
        "actor.loss_agg_mode",
        "actor.eps_clip",
        "critic.value_clip",
        "algo.advantage",
        "algo.kl",
        "eval.steps",
        "ckpt.best_metric_key",
    ):
        assert OmegaConf.select(paper.openrlhf, key) == OmegaConf.select(twin.openrlhf, key), key
    assert twin.openrlhf.eval.dataset == "data/paper/bank_5/test.jsonl"


def test_every_mode_asks_in_the_papers_layout(compose_config, tmp_path: Path) -> None:
    words = ["experiment=paper_laptop", f"data_dir={tmp_path}"]
    prepare(compose_config("prep", *words))
    prepared = open_prepared(tmp_path / "bank_5")
    assert prepared.template is TEMPLATES["paper"]
    row, *shown = prepared.read_rows("dev")[:3]
    for mode, examples in (("think", []), ("direct", []), ("cot", []), ("cot@2", shown)):
        [request] = list_requests(Benchmark("b", "0", [row], prepared), mode, 1, 0, examples)
        assert request.prompt.count("\nOptions:\nA. ") == 1 + len(examples), mode
        assert request.prompt.endswith("\nF. None of the above\nAssistant:\n")


def test_rows_of_another_prompt_or_view_are_not_trained_on(compose_config, bank: Path) -> None:
    cfg = compose_config("rlvr", "experiment=paper_laptop", "data=bank", f"data_dir={bank}")
    told = [problem for problem in find_problems(cfg, "ppo") if "was prepared with" in problem]
    assert len(told) == 1
    assert (
        "with prompt plain, none_of_the_above null, not prompt paper, none_of_the_above add"
        in told[0]
    )
    assert "run `make prep" in told[0]


def test_sft_refuses_rows_with_another_target(compose_config, bank: Path) -> None:
    words = ["experiment=sft/laptop", f"data_dir={bank}"]
    assert not any("target" in p for p in find_problems(compose_config("sft", *words), "sft"))
    cfg = compose_config("sft", *words, "data.direct_response=letter")
    [problem] = [p for p in find_problems(cfg, "sft") if "was prepared with" in p]
    assert "direct_response named, not " in problem and "make prep" in problem


def test_rows_from_before_targets_had_names_are_taken_for_letters(
    compose_config, bank: Path, tmp_path: Path
) -> None:
    shutil.copytree(bank / "bank", tmp_path / "bank")
    path = tmp_path / "bank" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["direct_response"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    cfg = compose_config("sft", "experiment=sft/laptop", f"data_dir={tmp_path}")
    [problem] = [p for p in find_problems(cfg, "sft") if "was prepared with" in p]
    assert "direct_response letter, not " in problem


def test_every_value_has_its_source_beside_it() -> None:
    text = (EXPERIMENTS / "paper.yaml").read_text(encoding="utf-8")
    values = re.findall(r"^ +[\w.]+: *[^#\s].*", text, re.MULTILINE)
    assert len(values) > 25
    for line in values:
        assert re.search(r" # .*(paper §|Feb 2025|ours|its default from)", line), line


def test_the_papers_numbers_are_counts_of_its_questions() -> None:
    published = yaml.safe_load((ROOT / "eval/published.yaml").read_text(encoding="utf-8"))
    for benchmark in published["benchmarks"].values():
        rows = [value for value in benchmark.values() if isinstance(value, dict)]
        assert len(rows) == 5
        for row in rows:
            assert abs(100 * row["right"] / benchmark["n"] - row["accuracy"]) <= 0.1
    assert {"medqa_5/test", "mmlu_pro_health/test"} == set(published["benchmarks"])


def test_what_the_papers_n_supports_follows_from_its_counts() -> None:
    published = yaml.safe_load((ROOT / "eval/published.yaml").read_text(encoding="utf-8"))
    for benchmark in published["benchmarks"].values():
        n, a, b = benchmark["n"], *(benchmark[x]["right"] for x in ("rlvr.think", "sft.direct"))
        low, high = confint_proportions_2indep(a, n, b, n, compare="diff", method="wald")
        value, low, high = map(format_points, ((a - b) / n, low, high))
        numbers = f"is {value} points (95 % CI {low} to {high}, unpaired, n = {n:,})"
        assert numbers in benchmark["supports"] and f"little as {low} is" in benchmark["supports"]
        assert ("above 0" in benchmark["supports"]) == low.startswith("+")


@pytest.fixture
def prepare_paper(compose_config, tmp_path: Path):
    """prepare_paper(tokenizer, *words) → manifest of experiment=paper on the five-option files."""
    if not FILES.exists():
        pytest.skip(f"{FILES} is not here")

    def run(tokenizer: str, *words: str) -> dict:
        places = [f"data.source={FILES}", f"data_dir={tmp_path}", f"model.path={ROOT / tokenizer}"]
        return prepare(compose_config("prep", "experiment=paper", *places, *words))

    return run


@pytest.mark.parametrize(
    "tokenizer",
    ["recipes/laptop_model", pytest.param("tests/tokenizer", marks=pytest.mark.slow)],
)
def test_the_papers_rows_have_six_options_and_none_is_lost(
    prepare_paper, tmp_path: Path, tokenizer: str
) -> None:
    manifest = prepare_paper(tokenizer, "data.files.train=null")
    assert {name: facts["rows"] for name, facts in manifest["files"].items()} == {
        "dev.jsonl": 1272,
        "test.jsonl": 1273,
    }
    for name in manifest["files"]:
        for line in (tmp_path / "medqa_5" / name).read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            assert len(row["options"]) == 6 and row["options"][5] == "None of the above"
            assert (
                row["answer"] in "ABCDE" and "\nF. None of the above\nAssistant:\n" in row["prompt"]
            )
    assert manifest["prompt"]["name"] == "paper"
    assert manifest["views"]["left_as_they_are"] == {"dev": [], "test": []}


@pytest.mark.slow
def test_the_partial_train_file_is_said_to_be_partial(prepare_paper) -> None:
    manifest = prepare_paper("tests/tokenizer")
    assert any("train: a partial file, 5,074 of 10,178" in line for line in manifest["remarks"])
    train = manifest["splits"]["train"]
    assert train["read"] == 5074 == train["kept"] + sum(map(len, train["dropped"].values()))
    assert set(train["dropped"]) <= {
        "prompt_too_long"
    }  # nothing is dropped for overlap, as in the paper

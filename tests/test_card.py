"""The model card comes from the run's own artefacts, its header is what hubs read, and what is missing is said."""

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from data_prep.errors import UserError
from eval.card import make_card

RUN = {
    **{"started": "2026-11-21T15:12:01+00:00", "wall_seconds": 524.8, "exit": 0, "total_steps": 93},
    "git": {"commit": "720b5ba1bdd69dcbde4e9228c4bba7b5b175ac61", "dirty": True},
    "versions": {"openrlhf": "0.11.2", "ray": "2.55.0"},
    "machine": {"system": "Linux", "cpus": 2, "hardware": "cpu"},
    "data": {"name": "bank", "files": {"train.jsonl": "e34ad35d"}, "train_rows": 1984},
}


@pytest.fixture
def run(tmp_path: Path, compose_config) -> Path:
    """A finished run folder of the laptop experiment, with a model, a report and an evaluation beside it."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps(RUN))
    config = OmegaConf.to_container(compose_config("rlvr", "experiment=laptop"), resolve=True)
    config["model"] |= {"id": "recipes/laptop_model", "licence": {"name": "apache-2.0"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "report").mkdir()
    (folder / "report" / "dynamics.png").write_bytes(b"png")
    phases = [{"phase": 1, "name": "Format Failure", "first": 1, "last": 8, "confidence": 0.8}]
    (folder / "report" / "dynamics.json").write_text(
        json.dumps([{"phases": phases, "monitors": []}])
    )
    score = {
        **{
            "benchmark": "bank/test",
            "mode": "think",
            "path": str(folder / "model"),
            "chance": 0.25,
        },
        "accuracy": {"value": 0.5, "low": 0.456, "high": 0.544, "n": 500, "sd": 0.022},
        "accuracy_lenient": {"value": 0.51},
        "accuracy_given_format": {"value": 0.52},
        "format_rate": 0.96,
        "errors": 0,
        "error_reasons": {},
        "model": "rlvr",
        "n": 500,
        "settings": {
            "seed": 42,
            "benchmark": {"state": None, "prompt": {"name": "plain", "file": None, "sha256": None}},
        },
    }
    (tmp_path / "evaluation").mkdir()
    results = {"results": [score, {**score, "path": "another/model"}]}
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(results))
    return folder


def write_card(run: Path, **settings: object) -> tuple[dict, str]:
    """The card's header and its text."""
    cfg = {
        "run": str(run),
        "evaluation": str(run.parent / "evaluation"),
        "licence": None,
        **settings,
    }
    text = make_card(OmegaConf.create(cfg)).read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_holds_what_the_run_left(run):
    header, text = write_card(run)
    assert (
        header["license"] == "apache-2.0"
        and "medical" in header["tags"]
        and "base_model" not in header
    )
    assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    assert (
        "Not for clinical use" in text
        and "| rlvr | bank/test | think | – | plain | 500 | 50.0 | 45.6–54.4 | 51.0 | 96.0 | 52.0 "
        "| 25.0 | – | 42 |"
        in text
    )
    assert text.count("| bank/test |") == 1  # the other model's result is not this one's
    assert "steps 1 to 8: phase 1, Format Failure" in text and "no monitor tripped" in text
    assert (
        "| SHA-256 of train.jsonl | e34ad35d |" in text
        and "720b5ba1bdd69dcbde4e9228c4bba7b5b175ac61, with" in text
    )
    assert (
        "| openrlhf | 0.11.2 |" in text
        and "| learning rate of the actor | 0.0003 |" in text
        and "None |" not in text
    )
    assert (run / "model" / "training_dynamics.png").read_bytes() == b"png"


def test_a_qwen_model_stays_under_the_qwen_research_licence(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    snapshot = "/home/someone/.cache/huggingface/hub/models--Qwen--Qwen2.5-3B/snapshots/aaaa"
    link = "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE"
    licence = {"name": "qwen-research", "link": link, "note": "research use only"}
    config["model"] |= {"id": "Qwen/Qwen2.5-3B", "path": snapshot, "licence": licence}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    header, text = write_card(run)
    assert (header["license"], header["license_name"]) == ("other", "qwen-research")
    assert header["license_link"] == link and text.count(link) == 2
    assert header["base_model"] == "Qwen/Qwen2.5-3B" and "research use only" in text
    assert "someone" not in text, "a path of the user's"


@pytest.mark.parametrize(
    ("licence", "name"),
    [
        ("mit", "mit"),
        ({"name": "x-1"}, "x-1"),
        (["mit", "gemma"], "see-base-model"),
        ({"name": ["mit"]}, "see-base-model"),
        ({"name": " "}, "see-base-model"),
        ({}, "see-base-model"),
    ],
)
def test_a_licence_is_one_name_or_not_recorded(run, licence, name):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["licence"] = licence
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    header, text = write_card(run)
    assert header.get("license_name", header["license"]) == name
    assert ("licence of the base model is not recorded" in text) == (name == "see-base-model")


def test_what_is_missing_is_said(run):
    (run / "report" / "dynamics.json").unlink()
    header, text = write_card(run, evaluation="nowhere")
    assert (
        "model-index" not in header
        and "Not evaluated: `make eval`" in text
        and "No report: `make report`" in text
    )


def test_a_folder_that_is_no_finished_run_is_an_error(run, tmp_path):
    (run / "model" / "config.json").unlink()
    with pytest.raises(UserError, match="saved no model"):
        write_card(run)
    with pytest.raises(UserError, match=r"run\.json is not there: give a run folder"):
        write_card(tmp_path / "none")

"""Preparation from end to end on small data: what it writes, that it is the same every time, and how it says no."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.prepare import prepare
from tests.conftest import compose_words

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "tests/tokenizer"
FIELDS = [
    "id",
    "question",
    "options",
    "answer",
    "prompt",
    "direct_prompt",
    "response",
    "label",
    "datasource",
    "meta",
]


def medqa_record(number: int, **changes: object) -> dict[str, object]:
    options = {"A": f"drug {number}", "B": "aspirin", "C": "rest", "D": "surgery"}
    record = {"question": f"Case {number}: what helps?", "answer": "aspirin", "options": options}
    return {**record, "meta_info": "step1", "answer_idx": "B", **changes}


def write_records(folder: Path, splits: dict[str, list[object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in splits.items():
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def without_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time to draw, but where the bytes of all files are compared between processes."""
    if "bytes_anywhere" not in request.node.name and "files_hold" not in request.node.name:
        monkeypatch.setattr("data_prep.prepare.draw_lengths", lambda *_: None)


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    """The composed settings of `data=medqa data.source=…` for a small folder of records."""
    source = write_records(
        tmp_path / "source",
        {
            split: [medqa_record(n + first) for n in range(5)]
            for split, first in (("train", 50), ("dev", 20), ("test", 0))
        },
    )
    words = [
        "data=medqa",
        "data.accept=true",  # these rows are not the official ones
        f"data.source={source}",
        f"model.path={TOKENIZER}",
        "data.max_prompt_tokens=800",
        f"data_dir={tmp_path / 'data'}",
    ]
    return compose_words("prep", words)


def read_rows(cfg: DictConfig, split: str) -> list[dict]:
    path = Path(cfg.data_dir) / cfg.data.name / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_have_the_row_format(cfg: DictConfig) -> None:
    prepare(cfg)
    row = read_rows(cfg, "test")[3]
    assert list(row) == FIELDS
    assert row["id"] == "medqa/test/3"
    assert row["options"] == ["drug 3", "aspirin", "rest", "surgery"]
    label = {"id": "medqa/test/3", "split": "test", "answer": "B", "options": row["options"]}
    assert row["label"] == json.dumps(label)
    assert row["response"] == "So aspirin B.<|endoftext|>"
    assert row["datasource"] == "medqa"
    cluster = "medqa/test/3"
    assert row["meta"] == {
        "step": "step1",
        "warnings": "",
        "cluster": cluster,
        "overlap_id": "",
        "overlap_share": 0.0,
    }
    assert (
        "Case 3: what helps?\nA. drug 3\nB. aspirin\nC. rest\nD. surgery\nAssistant:\n"
        in row["prompt"]
    )


def test_manifest_says_what_the_files_hold(cfg: DictConfig) -> None:
    manifest = prepare(cfg)
    folder = Path(cfg.data_dir) / "medqa"
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8")) == manifest
    for name, facts in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert facts == {
            "rows": content.count(b"\n"),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    written = {
        "README.md",
        "dev.jsonl",
        "lengths.png",
        "manifest.json",
        "test.jsonl",
        "train.jsonl",
    }
    assert {path.name for path in folder.iterdir()} == written
    assert manifest["max_prompt_tokens"]["limit"] == 800
    assert 0 < manifest["max_prompt_tokens"]["found"] <= 800


def test_a_second_run_writes_the_same_bytes(cfg: DictConfig) -> None:
    folder = Path(cfg.data_dir) / "medqa"
    prepare(cfg)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    prepare(cfg)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert list(folder.parent.iterdir()) == [folder], "a temporary folder was left"


def test_every_dropped_row_is_named(cfg: DictConfig) -> None:
    records = [
        medqa_record(90),
        "{not json",
        medqa_record(2, answer_idx="E"),
        medqa_record(3, question="  "),
        medqa_record(4, options={"A": "x", "B": "aspirin", "C": "aspirin ", "D": "y"}),
        medqa_record(5, answer="rest"),
        medqa_record(6, question="word " * 900),
        ["a list"],
        medqa_record(8, question="Stop here<|endoftext|>"),
    ]
    write_records(Path(cfg.data.source), {"train": records})
    train = prepare(cfg)["splits"]["train"]
    assert train["dropped"] == {
        "not_json": ["medqa/train/1"],
        "gold_not_among_options": ["medqa/train/2"],
        "empty_question": ["medqa/train/3"],
        "duplicate_gold": ["medqa/train/4"],
        "gold_text_differs": ["medqa/train/5"],
        "not_an_object": ["medqa/train/7"],
        "prompt_too_long": ["medqa/train/6"],
        "special_token_in_text": ["medqa/train/8"],
    }
    assert (train["read"], train["kept"]) == (9, 1)
    assert train["prompt_tokens"]["max"] <= 800, "the lengths are those of the rows that are kept"


def test_blanks_around_options_are_mended_and_case_is_kept(cfg: DictConfig) -> None:
    options = {"A": " Aa", "B": "aspirin", "C": "AA", "D": "aa\n"}
    write_records(Path(cfg.data.source), {"train": [medqa_record(90, options=options)]})
    assert prepare(cfg)["splits"]["train"]["fixed"] == {"outer_blanks": ["medqa/train/0"]}
    assert read_rows(cfg, "train")[0]["options"] == ["Aa", "aspirin", "AA", "aa"]


def test_all_problems_are_told_at_once_and_nothing_is_written(cfg: DictConfig) -> None:
    cfg.data.source, cfg.model.path, cfg.data.max_prompt_tokens = (
        "/no/such/folder",
        "/no/such/model",
        0,
    )
    with pytest.raises(UserError) as error:
        prepare(cfg)
    told = "\n".join(error.value.problems)
    for part in (
        "max_prompt_tokens=0",
        "/no/such/model",
        "/no/such/folder/train.jsonl",
        "/no/such/folder/test.jsonl",
    ):
        assert part in told
    assert not Path(cfg.data_dir).exists()


def test_a_failure_while_writing_leaves_the_former_folder_as_it_was(
    cfg: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(cfg)
    folder = Path(cfg.data_dir) / "medqa"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(
        "data_prep.prepare.write_json",
        lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")),
    )
    with pytest.raises(UserError, match="what was there before is untouched"):
        prepare(cfg)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_model_without_eos_token_is_refused(cfg: DictConfig, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((Path(cfg.model.path) / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<stop>"}')
    cfg.model.path = str(folder)
    with pytest.raises(UserError, match="<stop>"):
        prepare(cfg)


@pytest.fixture(scope="module")
def run_prep(tmp_path_factory: pytest.TempPathFactory):
    """Runs the real command line with an experiment `tiny` that uses the small tokenizer."""
    configs = tmp_path_factory.mktemp("configs")
    (configs / "experiment").mkdir()
    (configs / "experiment/tiny.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /data: medqa\nmodel:\n  path: {TOKENIZER}\n"
        "data:\n  direct_response: named\n  max_prompt_tokens: 800\n"
    )

    def run(*overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "data_prep.run",
            f"hydra.searchpath=[file://{configs}]",
            "experiment=tiny",
            *overrides,
        ]
        environment = {**os.environ, **env}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.process
def test_the_command_writes_the_same_bytes_anywhere(
    cfg: DictConfig, tmp_path: Path, run_prep
) -> None:
    write_records(
        Path(cfg.data.source), {"train": [medqa_record(90, question="Été – naïve β-blocker?")]}
    )
    prepare(cfg)
    elsewhere = {
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "1",
        "PYTHONUTF8": "0",
        "COLUMNS": "40",
    }
    done = run_prep(
        f"data.source={cfg.data.source}",
        "data.accept=true",
        f"data_dir={tmp_path / 'other'}",
        **elsewhere,
    )
    assert done.returncode == 0, done.stderr
    contents = [
        {path.name: path.read_bytes() for path in (folder / "medqa").iterdir()}
        for folder in (Path(cfg.data_dir), tmp_path / "other")
    ]
    assert contents[0] == contents[1]


@pytest.mark.process
def test_the_command_ends_with_2_and_no_traceback_where_the_user_must_act(
    tmp_path: Path, run_prep
) -> None:
    done = run_prep("data.source=/no/such/folder", f"data_dir={tmp_path}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "/no/such/folder/train.jsonl not found" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_preparation_imports_no_torch() -> None:
    code = "import sys, data_prep.run; print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

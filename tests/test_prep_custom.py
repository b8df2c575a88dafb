"""Your own file in each format, rows set aside, mixtures, and files that cannot be read."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.run import name_mixture
from tests.conftest import compose_words

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {
        "stem": f"Patient {n} of ward {n * 31} asks: what helps?",
        "a": f"drug {n}",
        "b": "rest",
        "gold": f"drug {n}",
    }
    for n in range(40)
]


@pytest.fixture(autouse=True)
def without_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time to draw; tests/test_prep.py looks at the picture."""
    monkeypatch.setattr("data_prep.prepare.draw_lengths", lambda *_: None)


def write_rows(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def run(folder: Path, *overrides: str) -> dict:
    common = [f"model.path={ROOT / 'tests/tokenizer'}", f"data_dir={folder}"]
    return prepare(compose_words("prep", [*common, *overrides]))


def run_custom(folder: Path, source: Path, *overrides: str) -> dict:
    columns = [
        "data.columns={question: stem, options: [a, b], answer: gold}",
        "data.answer_is=text",
        "data.holdout.dev=0",
    ]
    return run(folder, "data=custom", f"data.source={source}", *columns, *overrides)


def read_ids(folder: Path, file: str) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / file).read_bytes().splitlines()]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    contents = set()
    for suffix in ("jsonl", "json", "csv", "parquet"):
        source = write_rows(tmp_path / f"mine.{suffix}", ROWS)
        manifest = run_custom(tmp_path / suffix, source)
        assert manifest["files"]["train.jsonl"]["rows"] == 40
        contents.add((tmp_path / suffix / "custom/train.jsonl").read_bytes())
    assert len(contents) == 1


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    write_rows(source / "train.csv", ROWS[:30])
    write_rows(source / "test.jsonl", ROWS[30:])
    assert list(run_custom(tmp_path, source)["files"]) == ["train.jsonl", "test.jsonl"]


def test_rows_are_set_aside_by_the_seed(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "mine.csv", ROWS)
    parts = []
    for folder, seed in (("one", 1), ("again", 1), ("two", 2)):
        run_custom(tmp_path / folder, source, "data.holdout={dev: 5, test: 10}", f"seed={seed}")
        parts.append(
            [
                read_ids(tmp_path / folder / "custom", f"{split}.jsonl")
                for split in ("train", "dev", "test")
            ]
        )
    assert [len(ids) for ids in parts[0]] == [25, 5, 10]
    numbers = {row_id.rsplit("/", 1)[1] for ids in parts[0] for row_id in ids}
    assert numbers == {str(n) for n in range(40)}
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("mine.xlsx", b"", "cannot read '.xlsx'"),
        ("mine.parquet", b"no parquet", "cannot be read as parquet"),
        ("mine.json", b"{", "cannot be read as json"),
        ("mine.json", b"3", "neither a list nor an object"),
        ("mine.csv", b"stem,a\n\xff\xfe,x\n", "cannot be read as csv"),
        ("mine.jsonl", b"", "no row of custom/train can be used"),
        ("mine.jsonl", b'{"stem": 1}\n', "1 wrong_type"),
        ("absent.csv", None, "not found"),
    ],
)
def test_what_cannot_be_read_is_told_and_nothing_is_written(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(UserError, match=told):
        run_custom(tmp_path / "data", source)
    assert not (tmp_path / "data/custom").exists()


def test_what_must_be_given_is_named(tmp_path: Path) -> None:
    for overrides, told in (
        (["data=custom"], "give data.source=FOLDER"),
        (
            ["data=custom", "data.name=???", "data.licence=???"],
            r"data.licence is not set(.|\n)*data.name is not set",
        ),
        (["data=mix"], "make prep data=\\[medqa,medmcqa\\]"),
    ):
        with pytest.raises(UserError, match=told):
            run(tmp_path, *overrides)


def test_duplicates_can_be_reduced_to_their_first_row(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "mine.jsonl", [*ROWS[:3], ROWS[1], ROWS[1]])
    facts = run_custom(tmp_path, source, "data.duplicates=first")["splits"]["train"]
    assert facts["dropped"] == {"duplicate": ["custom/train/3", "custom/train/4"]}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two prepared sets: left with 30 training rows, right with 10, both with 5 test rows."""
    for name, first, rows in (("left", 0, 30), ("right", 1000, 10)):
        source = tmp_path / name
        source.mkdir()
        made = [
            {
                **row,
                "stem": f"Case {first + n * 17} of doctor {first + n} asks what may help now?",
                "source": name,
            }
            for n, row in enumerate(ROWS[: rows + 5])
        ]
        write_rows(source / "train.jsonl", made[:rows])
        write_rows(source / "test.jsonl", made[rows:])
        run_custom(tmp_path / "data", source, f"data.name={name}", "data.columns.meta=[source]")
    return tmp_path / "data"


def test_a_mixture_takes_proportions_and_no_row_twice(parts: Path) -> None:
    manifest = run(parts, "data=mix", "data.parts_of_mixture=[left,right]", "data.weights=[1,1]")
    ids = read_ids(parts / "mix", "train.jsonl")
    assert Counter(row_id.split("/")[0] for row_id in ids) == {"left": 10, "right": 10}
    assert len(set(ids)) == 20
    assert {row_id.split("/")[0] for row_id in ids[:10]} == {"left", "right"}, (
        "the parts are shuffled together"
    )
    assert len(read_ids(parts / "mix", "test.jsonl")) == 10
    taken = {
        name: facts["train_rows_taken"] for name, facts in manifest["origin"]["mixture"].items()
    }
    assert taken == {"left": 10, "right": 10}
    row = json.loads((parts / "mix/train.jsonl").read_bytes().splitlines()[0])
    assert row["datasource"] == row["meta"]["source"] == row["id"].split("/")[0]
    assert json.loads(row["label"])["id"] == row["id"]


def test_a_mixture_without_weights_takes_all(parts: Path) -> None:
    assert (
        run(parts, "data=mix", "data.parts_of_mixture=[left,right]")["files"]["train.jsonl"]["rows"]
        == 40
    )


def test_a_mixture_of_changed_or_missing_parts_is_refused(parts: Path) -> None:
    with (parts / "left/train.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError) as error:
        run(parts, "data=mix", "data.parts_of_mixture=[left,nowhere]")
    assert "left/train.jsonl is not what its manifest says" in error.value.problems[0]
    assert "make prep data=nowhere" in error.value.problems[1]


def test_training_rows_are_compared_with_other_prepared_sets(parts: Path, tmp_path: Path) -> None:
    test_row = json.loads((tmp_path / "right/test.jsonl").read_text().splitlines()[0])
    source = write_rows(tmp_path / "mine.jsonl", [*ROWS[:5], test_row])
    manifest = run_custom(parts, source, "data.overlap.against=[right,nowhere]")
    assert manifest["splits"]["train"]["dropped"] == {"overlap": ["custom/train/5"]}
    assert manifest["overlap"]["train_dropped"]["custom/train/5"]["evaluation_id"] == "right/test/0"
    assert list(manifest["overlap"]["checked_against"]) == ["right/test.jsonl"]
    assert manifest["overlap"]["not_checked_against"] == ["nowhere"]


def test_shuffled_rows_are_consistent_through_and_through(tmp_path: Path) -> None:
    source = write_rows(
        tmp_path / "mine.jsonl",
        [*ROWS, {**ROWS[0], "stem": "Why is option A wrong, of those below?"}],
    )
    manifest = run_custom(
        tmp_path, source, "data.shuffle_options=true", "data.direct_response=letter"
    )
    assert manifest["shuffled_options"] == {
        "train": {"rows": 40, "left_in_order": ["custom/train/40"]}
    }
    rows = [
        json.loads(line) for line in (tmp_path / "custom/train.jsonl").read_bytes().splitlines()
    ]
    assert {row["answer"] for row in rows[:40]} == {"A", "B"}
    for row, source_row in zip(rows, ROWS, strict=False):
        letter = row["answer"]
        assert row["options"]["AB".index(letter)] == source_row["gold"]
        assert f"\n{letter}. {source_row['gold']}\n" in row["prompt"]
        assert json.loads(row["label"])["answer"] == letter == row["response"][0]


def test_a_list_of_data_sets_is_a_mixture() -> None:
    """Hydra itself would merge the two configurations, and the last one would win without a word."""
    cfg = compose_words("prep", name_mixture(["data=[medqa,medmcqa]", "data.weights=[1,3]"]))
    assert (cfg.data.name, cfg.data.parts_of_mixture, cfg.data.weights) == (
        "mix",
        ["medqa", "medmcqa"],
        [1, 3],
    )
    assert name_mixture(["data=medqa", "seed=1"]) == ["data=medqa", "seed=1"]

"""Odd inputs of your own: read, or dropped by name with field and value; bounded memory and time."""

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pyarrow
import pytest
from pyarrow import parquet

from data_prep import tokenizer
from data_prep.command import explain_overrides
from data_prep.errors import UserError
from data_prep.options import shuffle_options
from data_prep.prepare import prepare
from data_prep.prepared import open_prepared
from data_prep.records import read_records
from data_prep.sources import custom
from data_prep.splits import parse_records
from recipes.launcher import run_recipe
from tests.chatml import TEMPLATE, write_model
from tests.conftest import compose_words

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "tests/tokenizer"


@pytest.fixture(autouse=True)
def without_picture(monkeypatch):
    monkeypatch.setattr("data_prep.prepare.draw_lengths", lambda *_: None)


@pytest.fixture
def real_renderer(monkeypatch):
    """Chat templates are rendered in a process with limits, as outside of the tests."""
    real = tokenizer.render_template.__wrapped__
    monkeypatch.setattr(tokenizer, "render_template", real)


@pytest.fixture
def run(tmp_path):
    """run(source, *overrides): prepares `data=custom` from a file or folder, returns the manifest."""

    def run(source: Path, *overrides: str) -> dict:
        places = [f"data.source={source}", f"data_dir={tmp_path / 'data'}"]
        words = ["data=custom", f"model.path={TOKENIZER}", *places, *overrides]
        return prepare(compose_words("prep", words))

    return run


def make_row(number: int = 0, **changes: object) -> dict:
    options = [f"drug {number}", "rest", "surgery", "nothing"]
    row = {"question": f"Case {number * 37}: what helps?", "options": options, "answer": "B"}
    return row | changes


def write_rows(path: Path, rows: list) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_train(tmp_path: Path) -> list[dict]:
    return open_prepared(tmp_path / "data/custom").read_rows("train")


ALONE = "data.holdout.dev=0"
LETTERED = {"A": "a", "B": "b", "C": "c", "D": "d"}


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (str(LETTERED), "options_in_text"),
        (json.dumps(LETTERED), "options_in_text"),
        (json.dumps(list("abcd")), "options_in_text"),
        ([{"key": key, "value": value} for key, value in LETTERED.items()], None),
        ({"label": list(LETTERED), "text": list(LETTERED.values())}, None),
        ([*"abcd", None, None], "padding_options"),
        ([*"abcd", "N/A", "N/A"], "padding_options"),
        (["A. a", "B. b", "C. c", "D. d"], "own_labels"),
        (["(a) a", "(b) b", "(c) c", "(d) d"], "own_labels"),
        (["1. a", "2. b", "3. c", "4. d"], "own_labels"),
        (["[A] a", "[B] b", "[C] c", "[D] d"], "own_labels"),
        (["**A.** a", "**B.** b", "**C.** c", "**D.** d"], "own_labels"),
        (["Ａ．a", "Ｂ．b", "Ｃ．c", "Ｄ．d"], "own_labels"),
        (["A、a", "B、b", "C、c", "D、d"], "own_labels"),
        (["A - a", "B - b", "C - c", "D - d"], "own_labels"),
        (["Option A: a", "Option B: b", "Option C: c", "Option D: d"], "own_labels"),
        (dict(zip("abcd", "abcd", strict=True)), None),
        (dict(zip(["(D)", "(B)", "(C)", "(A)"], "dbca", strict=True)), None),
        ([list(pair) for pair in LETTERED.items()], None),
        (str(tuple("abcd")), "options_in_text"),
        ([*"abcd", " ", "n/a"], "padding_options"),
    ],
)
def test_options_are_read_in_the_shapes_that_data_sets_use(run, tmp_path, options, note):
    manifest = run(write_rows(tmp_path / "q.jsonl", [make_row(options=options)]), ALONE)
    [row] = read_train(tmp_path)
    assert (row["options"], row["answer"]) == (list("abcd"), "B")
    assert list(manifest["splits"]["train"]["fixed"]) == ([note] if note else [])


@pytest.mark.parametrize("answer", ["C", "(C)", "C.", "c", " C ", "[c]", "C)"])
def test_answers_are_read_in_the_shapes_that_data_sets_use(run, tmp_path, answer):
    run(write_rows(tmp_path / "q.jsonl", [make_row(answer=answer)]), ALONE)
    assert read_train(tmp_path)[0]["answer"] == "C"


@pytest.mark.parametrize("values", [[0.0, 2.0, 3.0], ["0.0", "2.0", "3.0"], [1, 3.0, "4"]])
def test_an_index_may_be_a_decimal_number_and_count_from_one(run, tmp_path, values):
    rows = [make_row(n, answer=value) for n, value in enumerate(values)]
    source = write_rows(tmp_path / "q.jsonl", rows)
    run(source, ALONE, "data.answer_is=index", "data.index_base=auto")
    assert [row["answer"] for row in read_train(tmp_path)] == ["A", "C", "D"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (make_row(options=["a", None, "c"]), r"empty_option \(custom/train/0: option 2 is None\)"),
        (make_row(options=["a", "N/A", "c"]), r"option 2 is 'N/A'"),
        (make_row(options=[*"abc", "N/A"], answer="D"), r"answer 'D' with 3 options"),
        (make_row(options="one or two"), r"options is the text 'one or two', no list"),
        (make_row(options='{"A": "a", "A": "b", "B": "c"}'), r"options: a key is given twice"),
        (make_row(options="{'A': 'a', 'A': 'b', 'B': 'c'}"), r"options: a key is given twice"),
        (make_row(options="{[1]: 2}"), r"options is the text '\{\[1\]: 2\}', no list"),
        (make_row(options={"A": "a", "a": "b"}), r"options has the keys \['A', 'a'\], not A, B, C"),
        (make_row(options={"x": "a"}), r"options has the keys \['x'\], not A, B, C"),
        (make_row(question=7), r"1 wrong_type \(custom/train/0: question is 7, not text\)"),
        (make_row(answer="see below"), r"answer 'see below' with 4 options"),
        (make_row(options=["B. x", "A. y", "C. z"]), r"label_differs .* answer 'B', options"),
        (make_row(options=["A. x", "C. y", "D. z"], answer="C"), "label_differs"),
        ({"stem": "q"}, r"1 missing_field \(custom/train/0: question is not among \['stem'\]"),
        (["q", "a", "b"], r"not_an_object \(custom/train/0: got list \['q', 'a', 'b'\]"),
    ],
)
def test_where_no_row_is_usable_the_report_has_field_and_value(run, tmp_path, row, told):
    with pytest.raises(UserError, match=told):
        run(write_rows(tmp_path / "q.jsonl", [row]), ALONE)


def test_the_report_has_every_reason_and_the_first_rows_of_each(run, tmp_path):
    rows = [*(make_row(n, question=n) for n in range(5)), make_row(answer="")]
    with pytest.raises(UserError) as error:
        run(write_rows(tmp_path / "q.jsonl", rows), ALONE)
    [problem] = error.value.problems
    assert "5 wrong_type (custom/train/0: question is 0, not text; custom/train/1" in problem
    assert "custom/train/3" not in problem and "1 gold_not_among_options" in problem


def test_pretty_json_named_jsonl_and_a_csv_with_semicolons_say_what_is_there(run, tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps(make_row(), indent=1))
    with pytest.raises(UserError, match=r"not_json \(custom/train/0: Expecting .*: '\{"):
        run(tmp_path / "q.jsonl", ALONE)
    (tmp_path / "q.csv").write_text("question;answer\nWhy?;A\n")
    with pytest.raises(UserError, match=r"question is not among \['question;answer'\]"):
        run(tmp_path / "q.csv")


HEADED = "question,a,b,answer\n"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("q.csv", HEADED + "Why, then?,x,y,B\n", r"1 number_of_cells \(custom/train/0: not 4: "),
        ("q.csv", HEADED + "Why?,x\n", r"1 number_of_cells"),
        ("q.csv", "question,a,a,answer\nWhy?,x,y,B\n", r"two columns are named 'a'"),
        ("q.jsonl", '{"question": "q", "question": "r"}', r"not_json \(.* a key is given twice"),
        ("q.json", '[{"question": "q", "question": "r"}]', r"as json: a key is given twice"),
        ("q.json", "[" * 100_000, r"as json: maximum recursion depth"),
        ("q.jsonl", json.dumps({"question": "q"}).encode("utf-16"), r"not_json .* can't decode"),
        (
            "q.csv",
            HEADED + '"Why" not?,x,y,B\n',
            "line 2: ',' expected .* a quote inside a cell twice",
        ),
        ("q.csv", '"que"s,a\n', "as csv: ',' expected"),
        ("q.csv", HEADED.encode("utf-16"), "can't decode byte .* Save it in UTF-8"),
        ("q.json", '{"question": "q"}\n{"question": "r"}\n', r"Extra data.* is named \.jsonl"),
    ],
)
def test_what_would_move_values_silently_is_refused(run, tmp_path, name, content, told):
    """A comma without quotes, a column or a key twice, rows of another encoding: none is half read."""
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        run(source, ALONE, "data.columns.options=[a,b]")


@pytest.mark.parametrize(
    "options",
    [
        ["1 - 2 days", "2 - 3 days", "3 - 4 days", "4 - 5 days"],
        ["1 : 2", "2 : 3", "3 : 4", "4 : 5"],
        ["1: 10", "2: 10", "3: 10", "4: 10"],
    ],
)
def test_ranges_and_ratios_are_no_labels(run, tmp_path, options):
    run(write_rows(tmp_path / "q.jsonl", [make_row(options=options)]), ALONE)
    assert read_train(tmp_path)[0]["options"] == options


def test_names_of_bacteria_are_no_labels_that_contradict_the_answer(run, tmp_path):
    bacteria = [["S. aureus", "E. coli", "C. tetani", "B. cereus"], ["x", "y", "z", "C. tetani"]]
    rows = [make_row(n, options=options, answer="C") for n, options in enumerate(bacteria)]
    run(write_rows(tmp_path / "q.jsonl", rows), ALONE)
    assert [row["options"] for row in read_train(tmp_path)] == bacteria


COLUMNS = "data.columns.options=[opa,opb,opc,opd]"


def make_columns(number: int, **changes: object) -> dict:
    row = {"question": f"Case {number * 37}: what?", "opa": f"a{number}", "opb": "b", "opc": "c"}
    return row | {"opd": "d", "answer": "ABCD"[number % 4]} | changes


def test_a_listed_column_that_no_row_has_is_refused(run, tmp_path):
    """A misspelt last option would leave a row in four out, and a misspelt meta says nothing."""
    source = write_rows(tmp_path / "q.jsonl", [make_columns(n) for n in range(8)])
    for word, told in (
        (
            "data.columns.options=[opa,opb,opc,opdd]",
            "columns.options: no row has 'opdd', they have",
        ),
        ("data.columns.meta=[subjct]", "columns.meta: no row has 'subjct'"),
    ):
        with pytest.raises(UserError, match=told):
            run(source, COLUMNS, word)
    # some rows may have fewer options
    write_rows(source, [make_columns(0), {**make_columns(1), "opd": None}])
    assert run(source, ALONE, COLUMNS)["files"]["train.jsonl"]["rows"] == 2


def test_columns_to_keep_are_kept_whatever_they_hold(run, tmp_path):
    rows = [make_columns(0, tags=["x", 1], year=None), make_columns(1, tags={"a": 1}, year=2)]
    source = write_rows(tmp_path / "q.jsonl", rows)
    run(source, ALONE, COLUMNS, "data.columns.meta=[tags,year]")
    kept = [(row["meta"]["tags"], row["meta"]["year"]) for row in read_train(tmp_path)]
    assert kept == [("['x', 1]", ""), ("{'a': 1}", "2")]


def test_one_value_that_python_cannot_hold_costs_no_other(run, tmp_path):
    table = pyarrow.Table.from_pylist([make_row(n) for n in range(3)])
    dates = pyarrow.array([10_000_000, 18_000, 18_001], pyarrow.date32())
    parquet.write_table(table.append_column("asked", dates), tmp_path / "q.parquet")
    run(tmp_path / "q.parquet", ALONE, "data.columns.meta=[asked]")
    asked = [row["meta"]["asked"] for row in read_train(tmp_path)]
    assert asked == ["", "2019-04-14", "2019-04-15"]


def test_a_column_of_parquet_that_is_there_twice_is_refused(run, tmp_path):
    texts = pyarrow.array(["q"])
    table = pyarrow.Table.from_arrays([texts, texts], names=["question", "question"])
    parquet.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(UserError, match="two columns are named 'question'"):
        run(tmp_path / "q.parquet")


def test_blanks_in_a_header_do_not_matter(run, tmp_path):
    (tmp_path / "q.csv").write_text("question , a,b ,answer\nWhy?,x,y,B\n")
    run(tmp_path / "q.csv", ALONE, "data.columns.options=[a,b]")
    assert read_train(tmp_path)[0]["options"] == ["x", "y"]


def test_the_target_of_sft_is_a_letter_or_names_the_option(run, tmp_path):
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    for kind, said in (("letter", "B"), ("named", "So rest B.")):
        assert run(source, ALONE, f"data.direct_response={kind}")["direct_response"] == kind
        assert read_train(tmp_path)[0]["response"] == f"{said}<|endoftext|>"
    with pytest.raises(UserError, match=r"data\.direct_response=text is not one of letter, named"):
        run(source, "data.direct_response=text")


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["validation", "valid", "val", "dev", "development", "Dev", "VALID"]
)
def test_every_name_of_a_dev_split_is_read(run, tmp_path, name):
    write_rows(tmp_path / "mine/train.jsonl", [make_row(n) for n in range(4)])
    write_rows(tmp_path / f"mine/{name}.jsonl", [make_row(9)])
    assert list(run(tmp_path / "mine")["files"]) == ["train.jsonl", "dev.jsonl"]


def test_two_files_of_one_split_are_refused(run, tmp_path):
    for name in ("dev", "val"):
        write_rows(tmp_path / f"mine/{name}.jsonl", [make_row()])
    with pytest.raises(UserError, match=r"several files for dev \(dev.jsonl, val.jsonl\)"):
        run(tmp_path / "mine")


def test_a_file_that_is_not_read_is_reported(run, tmp_path):
    for name in ("train", "extra"):
        write_rows(tmp_path / f"mine/{name}.jsonl", [make_row(n) for n in range(3)])
    remarks = run(tmp_path / "mine")["remarks"]
    assert "not read, since it is named after no split: extra.jsonl" in remarks


def test_a_split_whose_file_is_of_another_kind_is_refused(run, tmp_path):
    write_rows(tmp_path / "mine/train.jsonl", [make_row(n) for n in range(3)])
    (tmp_path / "mine/train.log").write_text("notes")
    assert "not read: train.log" in run(tmp_path / "mine")["remarks"]
    for name in ("test.tsv", "val.jsonl.gz", "ood/a.jsonl"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        with pytest.raises(UserError, match=f"{name.partition('/')[0]}: cannot read"):
            run(tmp_path / "mine")
        path.unlink()
    (tmp_path / "mine/ood").rmdir()
    write_rows(tmp_path / "mine/TEST.JSONL", [make_row(50)])
    assert "test.jsonl" in run(tmp_path / "mine", "data.accept=true")["files"]


@pytest.mark.parametrize("kept", ["train.jsonl", "thesis.txt"])
def test_files_that_no_preparation_wrote_are_never_replaced(run, tmp_path, kept):
    # where people put their own: data/NAME is also where a preparation writes
    mine = write_rows(tmp_path / "data/custom" / kept, [make_row(n) for n in range(30)])
    before = mine.read_bytes()
    source = (
        mine.parent if kept == "train.jsonl" else write_rows(tmp_path / "q.jsonl", [make_row()])
    )
    with pytest.raises(
        UserError, match=f"data/custom would be replaced, .*{kept}.*: move it, or give"
    ):
        run(source)
    assert mine.read_bytes() == before and list(mine.parent.iterdir()) == [mine]
    run(source, "data.name=other", ALONE)
    (tmp_path / "data/other/notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"data/other would be replaced, .*notes.md"):
        run(source, "data.name=other")


def test_a_file_or_a_link_in_the_place_of_the_folder(run, tmp_path):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(9)])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/custom").write_text("mine")
    with pytest.raises(UserError, match="data/custom would be replaced"):
        run(source)
    (tmp_path / "data/custom").unlink()
    (tmp_path / "disk").mkdir()
    (tmp_path / "data/custom").symlink_to(tmp_path / "disk")
    run(source), run(source)
    assert (tmp_path / "data/custom").is_symlink() and len(read_train(tmp_path)) == 8
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["custom"]


@pytest.mark.parametrize(("count", "held"), [(2, 1), (40, 4), (6000, 500)])
def test_rows_for_a_dev_split_are_held_out_and_reported(run, tmp_path, count, held):
    rows = [make_row(n) for n in range(count)]
    manifest = run(write_rows(tmp_path / "q.jsonl", rows), "data.overlap.drop=null")
    counts = {name: facts["rows"] for name, facts in manifest["files"].items()}
    assert counts == {"train.jsonl": count - held, "dev.jsonl": held}
    remark = f"held out of {count:,} training rows by the seed: dev {held} (data.holdout.dev)"
    assert remark in manifest["remarks"]
    assert remark in (tmp_path / "data/custom/README.md").read_text()


def test_other_splits_are_held_out_on_demand_and_bad_sizes_refused(run, tmp_path):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(20)])
    manifest = run(source, "data.holdout={dev: 3, test: 5}")
    assert [facts["rows"] for facts in manifest["files"].values()] == [12, 3, 5]
    for size in ("-1", "20", "many", "true"):
        with pytest.raises(UserError, match=r"data\.holdout"):
            run(source, f"data.holdout.test={size}")


def test_names_that_leave_the_data_folder_are_refused(run, tmp_path):
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    for key in ("data.split", "data.name"):
        for value in ("../../evil", "..", ".", "a/b"):
            with pytest.raises(UserError, match=key):
                run(source, f"{key}={value}")
    for key in ("data.split", "data.holdout", "data.files", "data.hub.splits"):
        for value in ("trian", "validation", "manifest"):
            word = f"{key}={value}" if key == "data.split" else f"+{key}.{value}=1"
            with pytest.raises(UserError, match=rf"{key}: '{value}' is no split of train, dev"):
                run(source, word)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.drop=[absent_figur]", "data.drop=.* is no warning; there are absent_figure"),
        ("data.overlap.against=medqa", r"against=medqa must be a list .*against=\[NAME\]"),
        ("data.columns.meta=subject", "columns.meta=subject must be a list of names"),
        ("data.csv_columns=[0,1]", "csv_columns=.* must be a list of names"),
        ("data.drop=null", "data.drop=None must be a list of names"),
        ("data.columns.meta=[cluster]", r"columns.meta: preparation writes \['cluster'\] itself"),
        ("data.columns.limits=[low]", "columns.limits must be two columns"),
        ("data.overlap.drop=80", r"drop=80 are no shares: give 0 < flag <= drop <= 1"),
        ("data.overlap.drop=0.3", "flag=0.5 and drop=0.3 are no shares"),
        ("data.overlap.drop=2", "flag=0.5 and drop=2 are no shares"),
        ("data.overlap.drop=nan", "flag=0.5 and drop=nan are no shares"),
        ("data.overlap.flag=-1", "flag=-1 and drop=0.8 are no shares"),
        ("data.overlap.flag=0", "flag=0 and drop=0.8 are no shares"),
        ("data.overlap.flag=null", "flag=None and drop=0.8 are no shares"),
        ("data.accept=no", "data.accept=no is not one of false, true"),
        ("data.shuffle_options=off", "data.shuffle_options=off is not one of false, true"),
        ("data.reader=nope", "data.reader=nope is not one of custom, medmcqa"),
        ("data.reader=../x", r"data.reader=\.\./x is not one of custom, medmcqa"),
        ("seed=null", "seed=None must be a whole number"),
        ("seed=-1", "seed=-1 must be"),
        ("data.prompt.file=/dev/zero", "data.prompt.file=/dev/zero cannot be read"),
        ("data.name=" + "x" * 101, "becomes a folder's name: .* 100 at most"),
        ("data.name=null", "data.name=None|data.name is not set"),
    ],
)
def test_settings_of_a_preparation_that_say_nothing_are_refused(run, tmp_path, word, told):
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    with pytest.raises(UserError, match=told):
        run(source, word)


@pytest.mark.parametrize("word", ["shuffle_options=true", "options.rotate=1", "stem=none"])
def test_a_view_of_options_that_are_not_shown_is_refused(run, tmp_path, word):
    source = write_rows(tmp_path / "q.jsonl", [make_row(answer=["rest"])])
    words = ["data.answer_is=references", "data.prompt.name=open", f"data.{word}"]
    with pytest.raises(UserError, match=r"open shows no options: leave data\.shuffle_options"):
        run(source, *words)


def test_a_text_for_a_key_without_a_default_is_no_value_of_another_kind():
    assert explain_overrides("prep", ["data=custom", "data.source=q.csv"], kinds=True) == []
    [problem] = explain_overrides("prep", ["data=custom", "data.source=[q.csv]"], kinds=True)
    assert problem.startswith("data.source=[q.csv]: the default is null")
    added = ["data=custom", "+data.source=[q.csv]", "+data.new=[1]", "~data.holdout"]
    [problem] = explain_overrides("prep", added, kinds=True)  # Hydra takes + where there is null
    assert problem.startswith("+data.source=[q.csv]: the default is null")


def test_the_advice_to_take_other_rows_fits_any_command(run, tmp_path):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(9)])
    run(source)
    write_rows(source, [make_row(n) for n in range(10)])
    with pytest.raises(UserError, match=r"rows as they are, add data.accept=true$"):
        run(source)


@pytest.mark.process
def test_data_without_a_dev_split_can_be_trained_on(tmp_path, capsys):
    """The first example of docs/data.md, then both recipes as far as the engine's command."""
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "options", "answer"])
        writer.writeheader()
        writer.writerows(make_row(n) for n in range(200))
    places = ["data=custom", "data.name=mine", f"data_dir={tmp_path / 'data'}"]
    prep = [sys.executable, "-m", "data_prep.run", f"data.source={tmp_path / 'q.csv'}", *places]
    done = subprocess.run(prep, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held out of 200 training rows by the seed: dev 20" in done.stdout
    for recipe, method in (("rlvr", "ppo"), ("sft", "sft")):
        words = [*places, "dry_run=true", "hardware=cpu", f"run_dir={tmp_path / recipe}"]
        run_recipe(compose_words(recipe, words), method)
        said = capsys.readouterr()
        assert f"{tmp_path}/data/mine/dev.jsonl" in said.out and said.err == ""


# --- size and time --------------------------------------------------------------------------------

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 1024**3,) * 2)
sys.argv = ["prep", *sys.argv[1:]]
import runpy
runpy.run_module("data_prep.run", run_name="__main__")
"""


def run_limited(tmp_path: Path, source: Path, *overrides: str) -> subprocess.CompletedProcess:
    """Runs the command with 3 GB of addresses."""
    command = [sys.executable, "-c", LIMITED, "data=custom", f"data.source={source}"]
    command += [f"data_dir={tmp_path / 'data'}", f"model.path={TOKENIZER}", ALONE, *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def write_bomb(path: Path) -> None:
    """A file of a few kB whose 10 rows hold 32 MB of text each, and 10 sound rows."""
    rows = [make_row(n) for n in range(10)]
    rows += [make_row(n, question="word " * 6_400_000) for n in range(1)] * 10
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="zstd")


@pytest.mark.process
@pytest.mark.parametrize(
    "kind", ["10 MB", pytest.param("40 MB", marks=pytest.mark.slow), "parquet"]
)
def test_huge_rows_are_dropped_by_name_in_bounded_memory(tmp_path, kind):
    if kind == "parquet":
        source = tmp_path / "q.parquet"
        write_bomb(source)
        assert source.stat().st_size < 100_000
    else:
        text = "word " * (int(kind.split()[0]) * 200_000)
        rows = [make_row(n) for n in range(10)] + [make_row(question=text)] * 3
        source = write_rows(tmp_path / "q.jsonl", rows)
    done = run_limited(tmp_path, source)
    assert done.returncode == 0, done.stderr
    assert f"{10 if kind == 'parquet' else 3} row_too_long" in done.stdout
    assert len(read_train(tmp_path)) == 10


@pytest.mark.process
@pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_many_long_rows_are_measured_in_bounded_memory(tmp_path, count):
    rows = [make_row(n, question=f"word{n} " * 100_000) for n in range(count)]
    write_rows(tmp_path / "mine/test.jsonl", rows)
    done = run_limited(tmp_path, tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    rows = open_prepared(tmp_path / "data/custom").read_rows("test")
    assert len(rows) == count, "evaluation rows have no limit but that of a row"


def test_a_long_cell_is_no_end_of_the_file(run, tmp_path):
    lines = ["question,a,b,answer", f"{'x' * 131_073} why?,x,y,A", "Why?,x,y,B"]
    (tmp_path / "q.csv").write_text("\n".join(lines))
    columns = "data.columns.options=[a,b]"
    manifest = run(tmp_path / "q.csv", ALONE, columns, "data.max_prompt_tokens=100")
    assert manifest["splits"]["train"]["dropped"] == {"prompt_too_long": ["custom/train/0"]}


def test_a_date_that_python_cannot_hold_does_no_harm(run, tmp_path):
    table = pyarrow.Table.from_pylist([make_row(n) for n in range(3)])
    dates = pyarrow.array([10_000_000] * 3, pyarrow.date32())
    inside = pyarrow.array([[10_000_000]] * 3, pyarrow.list_(pyarrow.date32()))
    table = table.append_column("asked", dates).append_column("revised", inside)
    parquet.write_table(table, tmp_path / "q.parquet")
    assert run(tmp_path / "q.parquet", ALONE)["files"]["train.jsonl"]["rows"] == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}'),
        ("tokenizer.json", "\udcff"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"eos_token": 7}'),
    ],
)
def test_a_broken_tokenizer_is_one_line(run, tmp_path, name, content):
    model = write_model(tmp_path / "model")
    (model / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    with pytest.raises(UserError) as error:
        run(source, f"model.path={model}")
    assert len(error.value.problems) == 1 and str(model) in error.value.problems[0]


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
FAULTY = [
    ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ("{{ messages[0].content.x.y }}", "UndefinedError"),
    ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    ("{% include 'other' %}", "cannot be rendered"),
    (TEMPLATE + "{{ none + 1 }}", "TypeError"),
]


@pytest.mark.process
@pytest.mark.parametrize(
    ("template", "told"),
    [
        (LOOP, "no end after 3 s"),
        ("{{ 'x' * 10 ** 11 }}", "MemoryError"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in FAULTY),
    ],
)
@pytest.mark.usefixtures("real_renderer")
def test_a_template_that_fails_or_never_ends_is_one_line(
    run, tmp_path, monkeypatch, template, told
):
    monkeypatch.setattr("data_prep.tokenizer.RENDER_SECONDS", 3 if template == LOOP else 60)
    model = write_model(tmp_path / "model", template)
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    with pytest.raises(UserError, match=told) as error:
        run(source, f"model.path={model}", "data.chat=true")
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(("template", "told"), FAULTY)
def test_a_template_that_fails_is_one_line(run, tmp_path, template, told):
    """By the function of the process with limits, without the process."""
    model = write_model(tmp_path / "model", template)
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    with pytest.raises(UserError, match=told) as error:
        run(source, f"model.path={model}", "data.chat=true")
    assert len(error.value.problems) == 1


@pytest.mark.process
@pytest.mark.usefixtures("real_renderer")
def test_a_tokenizer_with_code_runs_nothing(run, tmp_path):
    model = write_model(tmp_path / "model")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config |= {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}, "tokenizer_class": "Evil"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    source = write_rows(tmp_path / "q.jsonl", [make_row()])
    run(source, f"model.path={model}", "data.chat=true", ALONE)
    assert not (tmp_path / "ran").exists()


# --- interruption and damage ----------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_what_an_interrupted_preparation_leaves_goes_with_the_next(run, tmp_path, number):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(6_000)])
    few = write_rows(tmp_path / "few.jsonl", [make_row(n) for n in range(9)])
    run(few)
    folder = tmp_path / "data/custom"
    before = (folder / "manifest.json").read_bytes()
    command = [sys.executable, "-m", "data_prep.run", "data=custom", f"data.source={source}"]
    command += [f"data_dir={tmp_path / 'data'}", f"model.path={TOKENIZER}", "data.accept=true"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "data/.custom.new").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode and "Traceback" not in errors
    assert (folder / "manifest.json").read_bytes() == before
    run(few)
    assert [path.name for path in folder.parent.iterdir()] == ["custom"]


def test_a_kill_between_the_two_renames_is_explained_and_repaired(run, tmp_path):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(9)])
    run(source)
    folder = tmp_path / "data/custom"
    folder.rename(folder.with_name(".custom.old"))
    with pytest.raises(UserError, match="being replaced when preparation stopped: run `make prep"):
        open_prepared(folder)
    run(source)
    assert [path.name for path in folder.parent.iterdir()] == ["custom"]


def test_a_failed_second_rename_returns_the_old_folder(run, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(9)])
    run(source)
    folder = tmp_path / "data/custom"
    before = (folder / "manifest.json").read_bytes()
    import os

    real = os.replace

    def replace(one, other):
        if Path(one).name == ".custom.new":
            raise OSError(28, "No space left on device")
        real(one, other)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(UserError, match="what was there before is untouched"):
        run(source)
    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["custom"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row.update(answer="Z"), "answer 'Z' is not one of ABCD"),
        (lambda row: change_label(row, answer="A"), "label has answer 'A', not 'B'"),
        (lambda row: change_label(row, split="test"), "label has split 'test', not 'train'"),
        (lambda row: change_label(row, id="x"), "label has id 'x'"),
        (lambda row: row.pop("label"), "'label'"),
        (lambda row: row.update(label="{"), "Expecting property name"),
        (lambda row: row.update(label="[]"), "'list' object"),
    ],
)
def test_labels_are_checked_on_every_row_even_where_hashes_agree(run, tmp_path, change, told):
    import hashlib

    run(write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(9)]), ALONE)
    folder = tmp_path / "data/custom"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    change(rows[5])
    write_rows(folder / "train.jsonl", rows)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "train.jsonl").read_bytes()).hexdigest()
    manifest["files"]["train.jsonl"]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="run `make prep data=custom` again") as error:
        open_prepared(folder).read_rows("train")
    assert told in error.value.problems[0]


def change_label(row: dict, **changes: object) -> None:
    row["label"] = json.dumps(json.loads(row["label"]) | changes)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"format": 3, "files": 7}']
)
def test_a_broken_manifest_is_one_line(run, tmp_path, content):
    source = write_rows(tmp_path / "q.jsonl", [make_row(n) for n in range(9)])
    run(source)
    (tmp_path / "data/custom/manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="make prep data=custom"):
        open_prepared(tmp_path / "data/custom")


def test_a_manifest_of_another_user_is_one_line_too(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"Permission denied.*run `make prep data="):
        open_prepared(tmp_path)


# --- hostile files --------------------------------------------------------------------------------

PIECES = [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\n", b"\r", b"\x00", b"\xff", b"null"]
PIECES += [
    b"NaN",
    b"1e999",
    b"9" * 50,
    b"\\ud800",
    b"[" * 3000,
    b"A. ",
    b"N/A",
    b"(",
    b";",
    b"\xef\xbb\xbf",
]


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Cut, repeat, overwrite and insert at random places."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        start = draw.randrange(len(changed) + 1)
        end = min(len(changed), start + draw.randrange(20))
        new = draw.choice(
            [b"", draw.choice(PIECES), draw.randbytes(4), bytes(changed[start:end]) * 2]
        )
        changed[start:end] = new
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_hostile_files_are_rows_drops_or_one_line(tmp_path, kind):
    """2,000 damaged files of each kind: read, or UserError; nothing else, and nothing written."""
    shapes = [make_row(0), make_row(1, options=LETTERED), make_row(2, options=str(LETTERED))]
    shapes += [make_row(3, answer="(c)"), make_row(4, options=["A. a", "B. b", None])]
    sound = tmp_path / f"sound.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist([make_row(n) for n in range(9)]), sound)
    elif kind == "csv":
        with sound.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["question", "options", "answer"])
            writer.writeheader()
            writer.writerows(shapes)
    else:
        text = json.dumps(shapes) if kind == "json" else "\n".join(map(json.dumps, shapes))
        sound.write_text(text)
    source = tmp_path / f"q.{kind}"
    cfg = compose_words("prep", ["data=custom", f"data.source={source}"])
    draw, kept, refused = random.Random(kind), 0, 0
    for _ in range(2000):
        source.write_bytes(mutate(sound.read_bytes(), draw))
        try:
            records = read_records(cfg)
            for name, rows in records.splits.items():
                split, _ = parse_records(name, rows, custom.parse_row, cfg.data)
                kept += split.describe()["kept"]
                for question in split.questions:
                    shuffle_options(question, 1)
        except UserError:
            refused += 1
    # a bad line of JSONL is a dropped row, and never the end of its file
    assert kept > 50 and (refused == 0 if kind == "jsonl" else refused > 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"q.{kind}", f"sound.{kind}"]

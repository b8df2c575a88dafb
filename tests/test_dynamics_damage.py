"""Reports on damaged run folders: what is missing is said, the rest is shown, and there is never a traceback."""

import errno
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from data_prep.errors import UserError
from dev.simulate_run import simulate_rollouts, write_run
from eval.dynamics import report
from eval.dynamics.figures import draw_figure
from eval.dynamics.report import make_report, print_summary
from tests.conftest import compose_words

ROOT = Path(__file__).resolve().parents[1]
DEEP = "[" * 100_000
JUNK = [
    "",
    "null",
    "3",
    "[]",
    '"text"',
    "{}",
    "{",
    "NaN",
    DEEP,
    '{"step": 1',
    "\x00\x01",
    '{"a": ' + "9" * 5000 + "}",
]
VALUES = [
    None,
    "x",
    "",
    [],
    {},
    True,
    -1,
    0.5,
    2**32 + 1,
    10**12,
    10**400,
    float("nan"),
    float("inf"),
    "\ud83d",
    "</script><script>alert(1)</script>",
    "../../etc/passwd\x00",
]


@pytest.fixture(autouse=True)
def pure_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader of the product: the C one of conftest.py, faster, dies of brackets 100,000 deep."""
    monkeypatch.setattr(yaml, "SafeLoader", yaml.loader.SafeLoader)


DRAWN: dict[str, bytes] = {}
"""The figure takes half a second: the first of a test of damaged curves is really drawn."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    def draw_first(analyses: list) -> bytes:
        name = request.function.__name__
        if "survived" not in name and "counted" not in name:
            name = "whole curves"
        if name not in DRAWN:
            DRAWN[name] = draw_figure(analyses)
        return DRAWN[name]

    monkeypatch.setattr(report, "draw_figure", draw_first)
    write_run(tmp_path / "run", *simulate_rollouts([1] * 3 + [3] * 3, per_step=6, seed=1))
    (tmp_path / "run" / "config.yaml").write_text("openrlhf: {eval: {dataset: null}}\n")
    return tmp_path / "run"


def report_on(folder: Path, **settings: object) -> str:
    """Make the report; returns what is missing. The outputs must be whole and free of NaN."""
    values = [f"{key}={value}" for key, value in {"run": folder, **settings}.items()]
    cfg = OmegaConf.merge(compose_words("report", []), OmegaConf.from_dotlist(values))
    out, analyses = make_report(cfg)
    print_summary(out, analyses)
    assert sorted(path.name for path in out.iterdir()) == [
        "dynamics.json",
        "dynamics.png",
        "report.html",
        "rollouts.parquet",
    ]
    (found,) = json.loads((out / "dynamics.json").read_text(), parse_constant=pytest.fail)
    assert found["steps"] and "alert(1)</script>" not in (out / "report.html").read_text()
    return "\n".join(found["missing"])


def write_rows(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


SIDE_FILES = ["run.json", "config.yaml", "metrics.jsonl", "train.jsonl"]
CONTENTS = [
    *[text.encode() for text in JUNK],
    b'{"git": 3, "exit": [], "name": {}, "total_steps": NaN}',
    rb'{"git": {"commit": "\ud800"}, "exit": "\ud800", "total_steps": "\ud800"}',
    b"a: &a [*a]",
    b"openrlhf: 5",
    random.Random(0).randbytes(2000),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIDE_FILES)
def test_any_content_of_a_side_file_is_survived(run, name):
    for content in CONTENTS:
        (run / name).write_bytes(content)
        report_on(run)


def test_any_contents_of_all_side_files_are_survived(run):
    """Each file has each content once, always next to three other damaged files."""
    for number in range(len(CONTENTS)):
        for place, name in enumerate(SIDE_FILES):
            (run / name).write_bytes(CONTENTS[(number + 4 * place) % len(CONTENTS)])
        report_on(run)


ODD = ["fifo", "folder", "loop", "device"]
READ_FILES = ["run.json", "config.yaml", "metrics.jsonl", "train.jsonl", "rollouts/b.jsonl"]


def make_odd(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    make = {
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", READ_FILES)
def test_what_is_no_regular_file_is_not_opened(run, kind, name):
    make_odd(run / name, kind)
    assert f"{Path(name).name} is " in report_on(run)


@pytest.mark.parametrize("first", range(len(ODD)))
def test_where_all_are_no_regular_files_each_is_named_and_none_opened(run, first):
    """Each file is of each kind once."""
    for place, name in enumerate(READ_FILES):
        make_odd(run / name, ODD[(first + place) % len(ODD)])
    said = report_on(run)
    assert [name for name in READ_FILES if f"{Path(name).name} is " not in said] == []


@pytest.mark.parametrize(
    "dataset", ["/dev/zero", "/", "x" * 5000, "a\x00b", 5, [1], "../nothing.jsonl"]
)
def test_a_configuration_may_name_any_evaluation_set(run, dataset):
    (run / "config.yaml").write_text(json.dumps({"openrlhf": {"eval": {"dataset": dataset}}}))
    report_on(run)


def damage_field(path: Path, number: int) -> str:
    """Give a field any value, delete it once, and add lines that are no rows; returns its name."""
    rows = read_rows(path)
    field = list(rows[0])[number % len(rows[0])]
    for row, value in zip(rows, VALUES, strict=False):
        row[field] = value
    del rows[len(VALUES) % len(rows) - 1][field]
    write_rows(path, rows + JUNK[:6])
    return field


ROW_FILES = ["rollouts/simulated-1.jsonl", "metrics.jsonl", "train.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROW_FILES)
def test_any_value_of_any_field_is_survived(run, name):
    whole = (run / name).read_bytes()
    for number in range(len(read_rows(run / name)[0])):
        (run / name).write_bytes(whole)
        field = damage_field(run / name, number)
        said = report_on(run, shown=number + 1)
        if field in ("step", "reward", "question"):
            assert "lines of" in said and "left out" in said


def test_any_value_of_any_field_of_all_files_is_survived(run):
    """A field of each file at a time, until all fields had their turn."""
    whole = {name: (run / name).read_bytes() for name in ROW_FILES}
    for number in range(max(len(read_rows(run / name)[0]) for name in ROW_FILES)):
        fields = {}
        for name in ROW_FILES:
            (run / name).write_bytes(whole[name])
            fields[Path(name).name] = damage_field(run / name, number)
        said = report_on(run, shown=number + 1)
        for name, field in fields.items():
            if field in ("step", "reward", "question"):
                assert f"lines of {name}" in said and "left out" in said


def test_damage_is_counted_and_the_rest_is_right(run):
    path = run / "rollouts" / "simulated-1.jsonl"
    rows = read_rows(path)
    for row, change in zip(
        rows,
        [{"reward": float("nan")}, {"step": 10**12}, {"time": None}, {"response": "half \ud83d"}],
        strict=False,
    ):
        row |= change
    del rows[4]["step"]
    write_rows(path, rows)
    metrics = read_rows(run / "metrics.jsonl")
    metrics[1]["kl"] = float("nan")
    del metrics[2]["step"]
    write_rows(run / "metrics.jsonl", metrics)
    said = report_on(run)
    assert (
        "2 of 36 lines of simulated-1.jsonl are not rows" in said and "the first is line 1" in said
    )
    assert "1 rollouts have no step" in said
    assert "1 values of metrics.jsonl are not finite numbers" in said
    assert "steps 3 have rollouts and no metrics" in said


def test_control_characters_of_a_run_are_shown(run, capsys):
    """No text of a run folder, which may be a stranger's, reaches the terminal as an escape sequence."""
    evil = "\x1b[2J\x07\r\u202ex"
    (run / "run.json").write_text(json.dumps({"exit": evil, "total_steps": evil}))
    folder = run.rename(run.with_name(f"run{evil}"))
    print_summary(
        *make_report(
            OmegaConf.create({"run": str(folder), "out": None, "shown": 9, "overlay": None})
        )
    )
    said = "".join(capsys.readouterr())
    assert "\\x1b[2J\\x07\\r\\u202ex" in said and not set("\x1b\x07\r\u202e") & set(said)


def test_runs_and_data_sets_may_have_any_name(run, monkeypatch):
    """Their names are titles and legends of the figure, where `$` and `_` mean something else."""
    from matplotlib.axes import Axes

    legends, legend = [], Axes.legend
    monkeypatch.setattr(report, "draw_figure", draw_figure)
    monkeypatch.setattr(Axes, "legend", lambda *a, **k: legends.append(legend(*a, **k)))
    (path,) = (run / "rollouts").glob("*.jsonl")
    rows = read_rows(path)
    write_rows(path, rows + [row | {"id": "$\\x$/t/1", "split": "$\\y$"} for row in rows[:9]])
    group, hidden = "cost $\\bad$", "_" + "x" * 300
    cfg = compose_words("report", [f"out={run / 'report'}"])
    cfg.run = {group: str(run), hidden: str(run)}
    make_report(cfg)
    names = {text.get_text().strip() for one in legends for text in one.get_texts()}
    assert {group, hidden[:48]} <= names, names


def test_a_step_far_away_is_one_gap(run):
    path = run / "rollouts" / "simulated-1.jsonl"
    rows = read_rows(path)
    rows[-1]["step"] = 9_999_999
    write_rows(path, rows)
    assert "steps 7 to 9999998 have neither rollouts nor metrics" in report_on(run)


def test_no_usable_rollout_is_an_error_that_says_why(run):
    path = run / "rollouts" / "simulated-1.jsonl"
    write_rows(path, [row | {"reward": None} for row in read_rows(path)])
    with pytest.raises(UserError, match=r"36 of 36 lines of simulated-1\.jsonl"):
        report_on(run)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shown": 0}, "shown=20000"),
        ({"shown": "many"}, "shown=20000"),
        ({"overlay": "mine"}, "overlay=paper"),
    ],
)
def test_settings_that_cannot_be_are_refused(run, settings, says):
    with pytest.raises(UserError, match=says):
        report_on(run, **settings)


@pytest.mark.parametrize("value", ["null", "5", "[]", "[null]", "{a:null}", "nowhere", "/dev/null"])
def test_a_run_that_is_no_folder_is_one_line(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make report run=runs/rlvr/NAME"):
        report_on(Path(value))


@pytest.mark.process
def test_a_full_disk_is_one_line_and_leaves_nothing_partial(run):
    """Really too small: files of this process may have 60 kB (an Errno of its own, and none of the mocks)."""
    command = [sys.executable, "-m", "eval.dynamics.report", f"run={run}"]

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "cannot write" in line]
    assert f"{run}/report" in line and os.strerror(errno.EFBIG) in line and "out=FOLDER" in line
    assert not list((run / "report").glob("*.partial"))


def test_a_folder_that_is_a_file_is_one_line(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the report to"):
        report_on(run, out=tmp_path / "file" / "x")


@pytest.mark.slow
def test_two_thousand_damaged_folders(run):
    """Bytes changed, lines cut, doubled and swapped at random, in any file."""
    rng = random.Random(0)
    files = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    rollouts = run / "rollouts" / "simulated-1.jsonl"
    whole = {line for line in files[rollouts].splitlines() if b'"split": "train"' in line}
    refused = 0
    for _ in range(2000):
        for path, content in files.items():
            path.write_bytes(damage(rng, content) if rng.random() < 0.5 else content)
        try:
            report_on(run)
        except UserError:
            refused += 1
            # one training rollout that is left as it was is enough for a report
            assert not whole.intersection(rollouts.read_bytes().splitlines())
    assert whole and refused  # the damage destroys the whole file in about one case of seven


def damage(rng: random.Random, content: bytes) -> bytes:
    kind, lines = rng.randrange(6), content.splitlines(keepends=True)
    place = rng.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return (
            content[:place]
            + rng.randbytes(rng.randrange(20))
            + content[place + rng.randrange(20) :]
        )
    if kind == 2:
        rng.shuffle(lines)
        return b"".join(lines * 2)
    if kind == 3:
        number = rng.choice(
            [b"NaN", b"-1e999", b"4294967297", b"1e12", b"null", b"true", b'"\\ud800"']
        )
        digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
        spot = rng.choice(digits or [0])
        return content[:spot] + number + content[spot + 1 :]
    if kind == 4:
        return content.replace(
            rng.choice([b'"step"', b'"id"', b'"kind"', b'"options"', b":"]), b'"x"'
        )
    return b""


@pytest.mark.parametrize(
    ("experiment", "overlay"), [("laptop", None), ("paper", "paper"), ("paper_strict", "paper")]
)
def test_the_papers_experiments_show_its_curve(experiment, overlay):
    assert compose_words("report", [f"experiment={experiment}"]).overlay == overlay

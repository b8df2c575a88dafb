"""The hub path for real: `datasets` and `huggingface_hub` against a local server that speaks the hub's protocol.

All cases run one after the other in one process of their own (HF_ENDPOINT is read at import), each with its own server
behaviour and cache; the tests then look at what came out.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

pytestmark = pytest.mark.slow  # 10 s: a process of its own, with `datasets`
ROOT = Path(__file__).resolve().parents[1]
PINNED, MOVED = "a" * 40, "b" * 40
MEDQA, MMLU_PRO = "openlifescienceai/MedQA-USMLE-4-options-hf", "TIGER-Lab/MMLU-Pro"
MEDQA_5, CONVERTED = "bigbio/med_qa", "c" * 39 + "0"
FIRST = {"train": 100, "validation": 40, "test": 0}

# Runs in the child: prepares each case and prints its outcome, one JSON line each.
CHILD = """
import json, sys
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 500  # else a resume starts after 10 MB
from hydra import compose, initialize_config_dir
from data_prep.errors import UserError
from data_prep.prepare import prepare
for line in sys.stdin:
    case = json.loads(line)
    with initialize_config_dir(case["configs"], version_base="1.3"):
        cfg = compose("prep", case["overrides"])
    try:
        outcome = {"manifest": prepare(cfg)}
    except UserError as error:
        outcome = {"problems": list(error.problems)}
    print(json.dumps(outcome), flush=True)
"""


def make_question(number: int) -> tuple[str, list[str], int]:
    stem = f"Patient {number} of the ward comes with finding {number * 7} and asks which drug helps best."
    return stem, [f"drug {number}", "aspirin ", "rest", "surgery"], 1


def to_parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def hub_row(number: int) -> dict:
    stem, options, label = make_question(number)
    endings = {f"ending{index}": text for index, text in enumerate(options)}
    return {"id": f"r{number}", "sent1": stem, "sent2": "", **endings, "label": label}


def upstream_row(number: int) -> dict:
    stem, options, label = make_question(number)
    letters = dict(zip("ABCD", options, strict=True))
    return {
        "question": stem,
        "answer": options[label],
        "options": letters,
        "meta_info": "step1",
        "answer_idx": "B",
    }


def medqa_5_row(number: int) -> dict:
    """A row of the hub's five-option data set: options as key and value."""
    row = upstream_row(number)
    options = {**row["options"], "E": 'waiting\n"'}
    pairs = [{"key": key, "value": text} for key, text in options.items()]
    return {**row, "options": pairs}


def medqa_5_files() -> dict[str, bytes]:
    """The hub's own conversion to Parquet: a folder for each config, none of them described."""
    files = {}
    for folder in ("med_qa_en_source", "med_qa_zh_source"):
        for split, first in FIRST.items():
            rows = [medqa_5_row(first + number + len(folder)) for number in range(30)]
            files[f"{folder}/{split}/0000.parquet"] = to_parquet(rows)
    return files


def mmlu_pro_row(number: int, category: str = "health") -> dict:
    stem, options, label = make_question(number)
    row = {
        "question_id": number,
        "question": stem,
        "options": options,
        "answer": "B",
        "answer_index": label,
    }
    return {**row, "cot_content": "", "category": category, "src": "x"}


def medqa_files(changed: int = 0) -> dict[str, bytes]:
    """The data set's repository; `changed` test rows have another stem."""
    files = {"README.md": b"---\nlicense: mit\n---\n"}
    for split, first in FIRST.items():
        rows = [hub_row(first + number) for number in range(30)]
        for row in rows[:changed] if split == "test" else []:
            row["sent1"] += " (revised)"
        files[f"data/{split}-00000-of-00001.parquet"] = to_parquet(rows)
    return files


class Hub(ThreadingHTTPServer):
    """The repositories it serves, and how it misbehaves: `fault` is gated, missing or dropped."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.main = PINNED
        self.fault = ""
        self.ranges: list[str] = []


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.split("?")[0]
        match = re.fullmatch(
            r"/(api/)?datasets/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path
        )
        if not match:
            return self.send(404, b"", {}, body)
        _, repo, kind, revision, rest = match.groups()
        if self.server.fault == "gated":
            return self.send(
                401,
                b"",
                {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"},
                body,
            )
        branches = {"main": self.server.main, "refs%2Fconvert%2Fparquet": CONVERTED}
        commit = branches.get(revision, revision)
        revisions = self.server.repos.get(repo)
        if revisions is None or commit not in revisions:
            code = "RepoNotFound" if revisions is None else "RevisionNotFound"
            return self.send(404, b"", {"X-Error-Code": code}, body)
        files = revisions[commit]
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self.send_json(
                {"id": repo, "sha": commit, "private": False, "siblings": siblings, "tags": []},
                body,
            )
        if kind == "tree":
            return self.send_json(self.list_tree(files, rest), body)
        if rest not in files or (self.server.fault == "missing" and rest.startswith("data/")):
            return self.send(
                404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, body
            )
        return self.send_file(files[rest], rest, commit, body)

    def list_tree(self, files: dict[str, bytes], rest: str) -> list[dict]:
        base = f"{rest}/" if rest else ""
        below = {name: content for name, content in files.items() if name.startswith(base)}
        entries = []
        if "recursive=true" not in self.path.lower():
            folders = {
                name[len(base) :].split("/")[0] for name in below if "/" in name[len(base) :]
            }
            below = {
                name: content for name, content in below.items() if "/" not in name[len(base) :]
            }
            entries = [
                {"type": "directory", "path": base + name, "oid": "1" * 40, "size": 0}
                for name in folders
            ]
        return entries + [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in below.items()
        ]

    def send_file(self, content: bytes, name: str, commit: str, body: bool) -> None:
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range")
        if asked:
            self.server.ranges.append(asked)
            start = int(re.findall(r"\d+", asked)[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.send(206, content[start:], headers, body)
        if self.server.fault == "dropped" and body and name.startswith("data/test"):
            self.server.fault = ""
            self.send(200, content, headers, body, cut=len(content) // 2)
            self.close_connection = True
            return None
        return self.send(200, content, headers, body)

    def send_json(self, value: object, body: bool) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """Every case's outcome by name, in the order in which they ran."""
    work = tmp_path_factory.mktemp("hub")
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(work / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdin is not None and child.stdout is not None

    def run(*overrides: str) -> dict:
        common = [
            f"model.path={ROOT / 'tests/tokenizer'}",
            f"data_dir={work / 'data'}",
            "data.official.test.sha256=null",
        ]
        case = {"configs": str(ROOT / "recipes/configs"), "overrides": [*common, *overrides]}
        child.stdin.write(json.dumps(case) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        assert answer, "the child died"
        folder = work / "data/medqa"
        files = (
            {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
        )
        leftovers = (
            [path.name for path in (work / "data").glob(".*")] if (work / "data").exists() else []
        )
        return {**json.loads(answer), "files": files, "leftovers": leftovers}

    medqa = ["data=medqa", f"data.hub.id={MEDQA}", "data.official.dev.sha256=null"]
    results: dict[str, dict] = {}
    try:
        results["no such repository"] = run(
            *medqa, f"data.hub.id={MEDQA}x", f"data.hub.revision={PINNED}"
        )
        hub.repos = {MEDQA: {PINNED: medqa_files(), MOVED: medqa_files(changed=2)}}
        hub.fault = "gated"
        results["gated"] = run(*medqa, f"data.hub.revision={PINNED}")
        hub.fault = "missing"
        results["file missing"] = run(*medqa, f"data.hub.revision={PINNED}")
        hub.fault = "dropped"
        results["dropped"] = run(*medqa, f"data.hub.revision={PINNED}")
        results["dropped"]["ranges"] = list(hub.ranges)
        results["no such revision"] = run(*medqa, f"data.hub.revision={'c' * 40}")
        results["branch"] = run(*medqa, "data.hub.revision=main")
        hub.main = MOVED
        results["branch moved"] = run(*medqa, "data.hub.revision=main")
        results["branch moved, accepted"] = run(
            *medqa, "data.hub.revision=main", "data.accept=true"
        )
        broken = {
            name: content[: len(content) // 2] if "test" in name else content
            for name, content in medqa_files().items()
        }
        hub.repos["some/truncated"] = {PINNED: broken}
        results["truncated"] = run(
            *medqa, "data.hub.id=some/truncated", f"data.hub.revision={PINNED}"
        )
        lines = [mmlu_pro_row(number, "health" if number % 2 else "law") for number in range(20)]
        jsonl = "\n".join(map(json.dumps, lines)).encode()
        hub.repos[MMLU_PRO] = {PINNED: {"test.jsonl": jsonl}}
        results["jsonl"] = run("data=mmlu_pro_health", f"data.hub.revision={PINNED}")
        hub.repos[MEDQA_5] = {CONVERTED: medqa_5_files()}
        results["five options"] = run("data=medqa_5", "data.official.dev.sha256=null")
        local = work / "local"
        local.mkdir()
        for name, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
            rows = [upstream_row(FIRST[split] + number) for number in range(30)]
            (local / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        results["local"] = run(*medqa, "data.name=medqa_local", f"data.source={local}")
        yield results
    finally:
        child.stdin.close()
        child.wait(timeout=30)
        hub.shutdown()


def test_a_dropped_connection_is_resumed(outcomes: dict) -> None:
    result = outcomes["dropped"]
    assert result["manifest"]["origin"]["revision"] == PINNED
    assert [facts["read"] for facts in result["manifest"]["splits"].values()] == [30, 30, 30]
    assert any(re.fullmatch(r"bytes=[1-9]\d*-.*", asked) for asked in result["ranges"])


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("no such repository", "check data.hub.id"),
        ("gated", "hf auth login"),
        ("file missing", "one of its files is not there"),
        ("no such revision", "that revision does not exist"),
        ("truncated", "broken or cut off"),
    ],
)
def test_a_failure_is_one_clear_line_and_writes_nothing(
    outcomes: dict, case: str, told: str
) -> None:
    result = outcomes[case]
    [problem] = result["problems"]
    assert told in problem
    assert result["leftovers"] == []


def test_failures_leave_the_prepared_folder_as_it_was(outcomes: dict) -> None:
    assert outcomes["file missing"]["files"] == {}
    assert outcomes["no such revision"]["files"] == outcomes["dropped"]["files"] != {}
    assert outcomes["branch moved"]["files"] == outcomes["branch"]["files"]
    assert outcomes["truncated"]["files"] == outcomes["branch moved, accepted"]["files"]


def test_a_moved_branch_stops_and_says_what_changed_unless_accepted(outcomes: dict) -> None:
    assert outcomes["branch"]["manifest"]["origin"]["revision"] == PINNED
    told = "\n".join(outcomes["branch moved"]["problems"])
    assert "medqa/test: 30 rows" in told and "medqa/train" not in told
    assert f"revision {PINNED} before, {MOVED} now" in told
    assert "data.accept=true" in told
    accepted = outcomes["branch moved, accepted"]["manifest"]
    assert accepted["origin"]["revision"] == MOVED
    assert any(remark.startswith("accepted: medqa/test") for remark in accepted["remarks"])


def test_jsonl_on_the_hub_is_read_and_other_categories_are_left_out(outcomes: dict) -> None:
    facts = outcomes["jsonl"]["manifest"]["splits"]["test"]
    assert (facts["read"], facts["kept"], facts["of_other_parts"]) == (10, 10, 10)


def test_the_hubs_parquet_and_a_local_jsonl_of_the_same_rows_have_one_hash(outcomes: dict) -> None:
    hub, local = (outcomes[case]["manifest"]["origin"]["rows"] for case in ("dropped", "local"))
    assert hub == local


def test_five_options_are_read_from_the_hubs_parquet_branch(outcomes: dict) -> None:
    manifest = outcomes["five options"]["manifest"]
    assert manifest["origin"]["revision"] == CONVERTED
    assert manifest["origin"]["asked_revision"] == "refs/convert/parquet"
    kept = {name: facts["kept"] for name, facts in manifest["splits"].items()}
    assert kept == {"train": 30, "dev": 30, "test": 30}
    assert len(manifest["splits"]["dev"]["fixed"]["stray_quotes"]) == 30
    assert manifest["files"]["test.jsonl"]["rows"] == 30

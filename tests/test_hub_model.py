"""A hub model is fetched at its commit, through huggingface_hub, from a local server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chatml import END, TEMPLATE

PINNED, OTHER = "a" * 40, "b" * 40
EOS = json.dumps({"eos_token": END}).encode()
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "tokenizer.json": b"{}",
}
TOKENIZER = {
    "tokenizer.json": (Path(__file__).with_name("tokenizer") / "tokenizer.json").read_bytes()
}
CHATTING = json.dumps({"eos_token": END, "chat_template": TEMPLATE}).encode()
REPOS = {
    "lab/tiny": FILES,
    "lab/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    "lab/instruct": {**TOKENIZER, "tokenizer_config.json": CHATTING},
    "lab/newer": {
        **TOKENIZER,
        "tokenizer_config.json": EOS,
        "chat_template.jinja": TEMPLATE.encode(),
    },
    "lab/base": {**TOKENIZER, "tokenizer_config.json": EOS},
}
CHILD = """
import sys
from omegaconf import OmegaConf
from data_prep.errors import UserError
from recipes.model import fetch_model
for argument in sys.argv[1:]:
    path, revision = argument.split("@")
    try:
        print(fetch_model(OmegaConf.create({"model": {"path": path, "revision": revision}})))
    except UserError as error:
        print("refused:", error)
"""
PREPARING_CHILD = """
import sys
from data_prep.errors import UserError
from data_prep.tokenizer import load_tokenizer
for argument in sys.argv[1:]:
    try:
        print(load_tokenizer(*argument.split("@"), chat=True).chat.end_of_turn)
    except UserError as error:
        print("refused:", error)
"""


class Handler(BaseHTTPRequestHandler):
    """/api/models/REPO/tree/COMMIT, /api/models/REPO/revision/COMMIT and /REPO/resolve/COMMIT/FILE."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        words = self.path.split("?")[0].strip("/").removeprefix("api/models/").split("/")
        repo, commit, name = "/".join(words[:2]), words[3], "/".join(words[4:])
        if repo == "lab/gated":
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if repo not in REPOS:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if commit != PINNED:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if words[2] == "tree":
            sizes = [(file, len(content)) for file, content in REPOS[repo].items()]
            tree = [
                {"type": "file", "path": file, "size": size, "oid": "1" * 40}
                for file, size in sizes
            ]
            return self.answer(200, json.dumps(tree).encode(), {})
        if not name:
            siblings = [{"rfilename": file} for file in REPOS[repo]]
            return self.answer(
                200, json.dumps({"id": repo, "sha": PINNED, "siblings": siblings}).encode(), {}
            )
        if name not in REPOS[repo]:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": PINNED})
        etag = hashlib.sha256(REPOS[repo][name]).hexdigest()
        return self.answer(200, REPOS[repo][name], {"X-Repo-Commit": PINNED, "ETag": f'"{etag}"'})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(root: Path, cache: Path, port: int, *models: str, child: str = CHILD) -> list[str]:
    """What fetch_model says of each ID@COMMIT, in a process of its own, since HF_ENDPOINT is read at import."""
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(cache)}
    environment |= {
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-c", child, *models]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.process
def test_fetching_and_refusing(hub, root, tmp_path):
    asked = [f"lab/tiny@{PINNED}", f"lab/tiny@{OTHER}", f"lab/none@{PINNED}", f"lab/gated@{PINNED}"]
    asked += [f"lab/..@{PINNED}"]
    folder, *refused = fetch(root, tmp_path, hub.server_port, *asked, f"lab/pickled@{PINNED}")
    assert sorted(path.name for path in Path(folder).iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert Path(folder).name == PINNED
    for line, mend in zip(
        refused,
        (
            "no such commit",
            "does not exist",
            "accept its terms",
            "no id of the hub",
            "no *.safetensors",
        ),
        strict=True,
    ):
        assert line.startswith("refused: model.path=lab/") and mend in line


@pytest.mark.process
def test_a_cached_model_needs_no_hub_and_an_absent_one_says_so(hub, root, tmp_path):
    (folder,) = fetch(root, tmp_path, hub.server_port, f"lab/tiny@{PINNED}")
    hub.shutdown()
    hub.server_close()
    again, refused = fetch(
        root, tmp_path, hub.server_port, f"lab/tiny@{PINNED}", f"lab/other@{PINNED}"
    )
    assert again == folder
    assert "the hub cannot be reached; give a local copy, model.path=FOLDER" in refused


@pytest.mark.process
def test_preparation_finds_the_chat_template_of_a_hub_model(hub, root, tmp_path):
    models = [f"lab/{name}@{PINNED}" for name in ("instruct", "newer", "base")]
    found = fetch(root, tmp_path, hub.server_port, *models, child=PREPARING_CHILD)
    assert found[:2] == [END, END] and "model.path=lab/base has no chat template" in found[2]


@pytest.mark.slow
def test_preparation_finds_a_cached_chat_template_without_the_hub(hub, root, tmp_path):
    models = [f"lab/{name}@{PINNED}" for name in ("instruct", "newer", "base")]
    found = fetch(root, tmp_path, hub.server_port, *models, child=PREPARING_CHILD)
    hub.shutdown()
    hub.server_close()  # that a commit has no chat_template.jinja is known from the cache
    assert fetch(root, tmp_path, hub.server_port, *models, child=PREPARING_CHILD) == found

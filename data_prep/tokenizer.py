"""Read a model's tokenizer: token lengths, special tokens, and the frame of its chat template.

The `tokenizers` library reads tokenizer.json as `transformers` does and imports no torch. A chat
template is rendered by `transformers`' own renderer, once around a stand-in for the message:
rendering a row then is joining strings.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from data_prep.errors import UserError
from data_prep.hub import explain_errors
from data_prep.prompt import LETTERS

ROOT = Path(__file__).resolve().parents[1]
FILE, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MESSAGE, REPLY = "THE-MESSAGE-IS-HERE", "THE-REPLY-IS-HERE"
PROBES = ("<think>", *LETTERS)
"""First tokens of responses: PPO's, and each target of SFT."""
RENDER_SECONDS = 30  # importing the renderer takes 1 of them
RENDER_BYTES = 4 * 1024**3  # of private memory


class Chat(NamedTuple):
    """A chat template as the manifest describes it. end_of_turn: ends the assistant's turn."""

    prefix: str
    suffix: str
    end_of_turn: str
    end_of_turn_id: int
    template_sha256: str


class ModelTokenizer(NamedTuple):
    """A model's tokenizer. path: as the user gave it; sha256: of tokenizer.json."""

    path: str
    tokenizer: Tokenizer
    eos_token: str
    bos_token: str | None  # that transformers puts before every text
    special_tokens: re.Pattern[str]
    sha256: str
    chat: Chat | None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens, without any that the tokenizer would add (OpenRLHF adds none either)."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]


def load_tokenizer(path: str, revision: str | None, chat: bool) -> ModelTokenizer:
    """Load the tokenizer of a model folder, or of a hub model at its commit. Raises UserError."""
    folder = Path(path) if Path(path).is_dir() else download_tokenizer(path, revision, chat)
    # a FIFO is no file either: to read it would wait without end
    missing = [folder / name for name in (FILE, CONFIG) if not (folder / name).is_file()]
    if missing:
        fix = "model.path must hold the tokenizer that the model is trained with"
        raise UserError(*(f"{file} not found: {fix}" for file in missing))
    content = (folder / FILE).read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(content)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        # older files give a token with its flags
        named = {key: value for key, value in config.items() if key.endswith("_token")}
        texts = {key: v.get("content") if isinstance(v, dict) else v for key, v in named.items()}
        names = {key: text for key, text in texts.items() if isinstance(text, str)}
        # next to a tokenizer.json transformers passes over add_bos_token
        bos = names.get("bos_token")
        bos = bos if tokenizer.encode("A").tokens[:1] == [bos] else None
        template = read_template(folder, config) if chat else None
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(
            f"{folder} holds a broken tokenizer ({type(error).__name__}: {error!s:.200}): copy "
            f"{FILE} and {CONFIG} from the model again"
        ) from error
    eos_token = names.get("eos_token", "")
    if tokenizer.token_to_id(eos_token) is None:
        said = f"{folder / CONFIG}: eos_token {eos_token!r}"
        raise UserError(f"{said} is not a token of {FILE}; SFT targets need one")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special} | {eos_token}
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    found = find_chat(path, template, names, tokenizer, pattern) if chat else None
    sha256 = hashlib.sha256(content).hexdigest()
    return ModelTokenizer(path, tokenizer, eos_token, bos, pattern, sha256, found)


def read_template(folder: Path, config: dict[str, Any]) -> str | None:
    """Read the chat template, the file before the key as in transformers; of several, `default`."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def download_tokenizer(hub_id: str, revision: str | None, chat: bool) -> Path:
    """Download the tokenizer's files of a hub model, nothing else; returns their folder."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise UserError(
            f"model.path={hub_id} is not a folder: give one, or a hub id together with "
            "model.revision=<its commit, 40 hex digits; a branch may move>"
        )
    from huggingface_hub import snapshot_download

    names = [FILE, CONFIG, *([TEMPLATE] if chat else [])]
    with explain_errors(hub_id, str(revision)):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=names))


# --- chat templates ------------------------------------------------------------------------------


def find_chat(
    path: str,
    template: str | None,
    names: dict[str, str],
    tokenizer: Tokenizer,
    special_tokens: re.Pattern[str],
) -> Chat:
    """Find frame and end of turn of a template. names: `eos_token` etc. Raises UserError."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    try:
        if template is None:
            raise ValueError(f"has no chat template ({TEMPLATE}, or chat_template in {CONFIG})")
        prompt, dialogue = render_template(template, names)
        for stand_in, text in ((MESSAGE, prompt), (REPLY, dialogue)):
            if text.count(stand_in) != 1:
                raise ValueError(f"shows a message {text.count(stand_in)} times, not once")
        prefix, _, suffix = prompt.partition(MESSAGE)
        if "<think>" in suffix:
            raise ValueError(f"writes <think> itself ({suffix!r}): the reward wants the model's")
        closed = suffix.endswith("\n") or re.search(f"(?:{special_tokens.pattern})\\Z", suffix)
        merged = [word for word in PROBES if encode(prompt) + encode(word) != encode(prompt + word)]
        if not closed or merged:
            raise ValueError(
                f"ends a prompt in {suffix[-20:]!r}, with which the first token of a response can "
                "merge, and not in a line break"
            )
        after = dialogue.partition(REPLY)[2]
        end = special_tokens.match(after.lstrip())
        if end is None:
            # nothing would stop a response
            raise ValueError(f"ends a turn in {after[:20]!r}, which is no special token")
    except ValueError as error:
        subject = "the chat template of " if template else ""
        raise UserError(
            f"{subject}model.path={path} {error}: give another instruct model, fix the template in "
            "a copy of the tokenizer's files, or give data.chat=false"
        ) from None
    digest = hashlib.sha256(template.encode()).hexdigest()
    return Chat(prefix, suffix, end[0], tokenizer.token_to_id(end[0]), digest)


def render_template(template: str, names: dict[str, str]) -> list[str]:
    """Render a prompt and a dialogue. Raises ValueError."""
    # in a child with limits: a template is a program, which may never end or fill the memory
    command = [sys.executable, "-m", "data_prep.tokenizer"]
    asked = json.dumps({"template": template, "names": names})
    try:
        done = subprocess.run(
            command, cwd=ROOT, input=asked, capture_output=True, text=True, timeout=RENDER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"cannot be rendered (no end after {RENDER_SECONDS} s)") from None
    if done.returncode:
        cause = done.stderr.strip() or f"exit status {done.returncode}"
        raise ValueError(f"cannot be rendered ({cause[-300:]})")
    return list(json.loads(done.stdout))


def render_in_child() -> None:
    """Read a template from stdin and print its renderings as JSON: what the child process does."""
    import resource

    from jinja2 import Undefined
    from transformers.utils.chat_template_utils import render_jinja_template

    resource.setrlimit(resource.RLIMIT_DATA, (RENDER_BYTES, RENDER_BYTES))
    asked = json.load(sys.stdin)
    question = {"role": "user", "content": MESSAGE}
    dialogue = [question, {"role": "assistant", "content": REPLY}]
    # No clock: a template that writes today's date would make rows differ from day to day.
    values = {**asked["names"], "strftime_now": Undefined(name="strftime_now")}
    try:
        texts = [
            render_jinja_template(
                conversations=[messages],
                chat_template=asked["template"],
                add_generation_prompt=messages is not dialogue,
                **values,
            )[0][0]
            for messages in ([question], dialogue)
        ]
    except Exception as error:  # a template may raise anything
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split()):.250}")
    print(json.dumps(texts))


if __name__ == "__main__":
    render_in_child()

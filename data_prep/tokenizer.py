"""Read a model's tokenizer: token lengths, special tokens, and the frame of its chat template.

The `tokenizers` library reads tokenizer.json as `transformers` does and imports no torch. Only in
chat mode `transformers` renders the template (its own renderer, without torch), in a process of its
own with bounded time and memory, once around a stand-in for the message: rendering a row then is
joining strings.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from data_prep.errors import UserError
from data_prep.hub import explain_errors
from data_prep.prompt import LETTERS, ChatFrame

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
MESSAGE, REPLY = "THE-MESSAGE-STANDS-HERE", "THE-REPLY-STANDS-HERE"
PROBES = ("<think>", *LETTERS)
"""How responses begin: PPO's, and each target of SFT."""
RENDER_SECONDS = 30  # importing the renderer takes 1 of them
RENDER_BYTES = 4 * 1024**3  # of private memory
BATCH = 2_000_000  # characters tokenised at a time: the encodings take 200 bytes for each


class Chat(NamedTuple):
    """A chat template as the manifest describes it. end_of_turn: ends the assistant's turn."""

    prefix: str
    suffix: str
    end_of_turn: str
    end_of_turn_id: int
    template_sha256: str

    @property
    def frame(self) -> ChatFrame:
        """Text before and after a message."""
        return ChatFrame(self.prefix, self.suffix)


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer. path: as the user gave it; sha256: of tokenizer.json; chat: or None."""

    path: str
    tokenizer: Tokenizer
    eos_token: str
    special_tokens: re.Pattern[str]
    sha256: str
    chat: Chat | None

    @property
    def frame(self) -> ChatFrame | None:
        """Text round a prompt, None for plain ones."""
        return self.chat.frame if self.chat else None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens, without any that the tokenizer would add (OpenRLHF adds none either)."""
        counts: list[int] = []
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size > BATCH:
                counts.extend(self._count_batch(batch))
                batch, size = [], 0
        return counts + self._count_batch(batch)

    def _count_batch(self, texts: list[str]) -> list[int]:
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]


def load_tokenizer(path: str, revision: str | None, chat: bool) -> ModelTokenizer:
    """Load the tokenizer of a model folder, or of a hub model at its commit (40 hex digits).

    Raises UserError where files are missing, broken or name no EOS token, and with `chat` where
    prompts cannot be rendered in its chat template.
    """
    if Path(path).is_dir():
        folder = Path(path)
    elif revision is None:
        raise UserError(
            f"model.path={path} is not a folder: give a model's folder, or a hub id together with "
            "model.revision=<its commit, 40 hex digits>"
        )
    else:
        folder = download_tokenizer(path, revision, chat)
    file, config_file = folder / "tokenizer.json", folder / CONFIG
    missing = [
        f"{needed} not found: model.path must hold the tokenizer that the model is trained with"
        for needed in (file, config_file)
        if not needed.is_file()
    ]
    if missing:
        raise UserError(*missing)
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        names, template = read_named_tokens(config), read_template(folder, config)
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(
            f"{folder} holds a broken tokenizer ({type(error).__name__}: {error!s:.200}): copy "
            f"{file.name} and {CONFIG} from the model again"
        ) from error
    eos_token = names.get("eos_token")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if eos_token is None or tokenizer.token_to_id(eos_token) is None:
        raise UserError(
            f"{config_file}: eos_token {eos_token!r} is not a token of {file.name}; SFT targets "
            "need one"
        )
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special} | {eos_token}
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    found = find_chat(path, template, names, tokenizer, pattern) if chat else None
    return ModelTokenizer(path, tokenizer, eos_token, pattern, sha256, found)


def read_named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Read the tokens that tokenizer_config.json names: eos_token, bos_token and the others."""
    names = {}
    for key, value in config.items():
        # older files give a token with its flags
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            names[key] = text
    return names


def read_template(folder: Path, config: dict[str, Any]) -> str | None:
    """Read the chat template, the file before the key as in transformers; of several, `default`."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def download_tokenizer(hub_id: str, revision: str, chat: bool) -> Path:
    """Download the tokenizer's files of a hub model, nothing else; returns their folder."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(
            f"model.revision={revision} is not a commit: give the 40 hex digits, a branch may move"
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explain_errors(hub_id, revision):
        for name in ("tokenizer.json", CONFIG):
            file = Path(hf_hub_download(hub_id, name, revision=revision))
        # None: not known yet; else its path, or the mark that this commit has none
        if chat and try_to_load_from_cache(hub_id, TEMPLATE, revision=revision) is None:
            # most older models keep it in tokenizer_config.json
            with suppress(RemoteEntryNotFoundError):
                hf_hub_download(hub_id, TEMPLATE, revision=revision)
    return file.parent


# --- chat templates ------------------------------------------------------------------------------


def find_chat(
    path: str,
    template: str | None,
    names: dict[str, str],
    tokenizer: Tokenizer,
    special_tokens: re.Pattern[str],
) -> Chat:
    """Find the frame and the end of turn of a template. path: for errors; names: `eos_token` etc.

    Raises UserError where there is no template, or none that a prompt can be cut from.
    """
    if template is None:
        raise UserError(
            f"data.chat=true, but the tokenizer of model.path={path} has no chat template "
            f"({TEMPLATE}, or chat_template in {CONFIG}): give an instruct model, or "
            "data.chat=false"
        )
    said = f"the chat template of model.path={path}"
    ways_out = "in a copy of the tokenizer's files, or give data.chat=false"
    rendered = render_template(template, names)
    if "error" in rendered:
        raise UserError(f"{said} cannot be rendered ({rendered['error']}): fix it {ways_out}")
    for stand_in, text in ((MESSAGE, rendered["prompt"]), (REPLY, rendered["dialogue"])):
        if text.count(stand_in) != 1:
            raise UserError(
                f"{said} shows a message {text.count(stand_in)} times, not once: fix it {ways_out}"
            )
    prefix, _, suffix = rendered["prompt"].partition(MESSAGE)
    after = rendered["dialogue"].partition(REPLY)[2]
    # the reward sees the response alone, and would miss the tag in every one
    if "<think>" in suffix:
        raise UserError(
            f"{said} writes <think> itself ({suffix!r}), and the reward wants it from the model: "
            f"take it out of the template {ways_out}"
        )
    prompt = prefix + MESSAGE + suffix
    closed = suffix.endswith("\n") or re.search(f"(?:{special_tokens.pattern})\\Z", suffix)
    if not closed or not all(keeps_apart(tokenizer, prompt, response) for response in PROBES):
        raise UserError(
            f"{said} ends a prompt in {suffix[-20:]!r}, with which the first token of a response "
            f"can merge: let it end in a line break {ways_out}"
        )
    end = special_tokens.match(after.lstrip())
    if end is None:
        raise UserError(
            f"{said} ends the assistant's turn in {after[:20]!r}, which is no special token: "
            "nothing would stop a response. Give an instruct model with an end-of-turn token, or "
            "data.chat=false"
        )
    digest = hashlib.sha256(template.encode()).hexdigest()
    return Chat(prefix, suffix, end[0], tokenizer.token_to_id(end[0]), digest)


def render_template(template: str, names: dict[str, str]) -> dict[str, str]:
    """Render a prompt and a dialogue, or give the `error`, in a child process of limited means.

    A template is a program: it may never end, or fill the memory.
    """
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "data_prep.tokenizer"]
    asked = json.dumps({"template": template, "names": names})
    try:
        done = subprocess.run(
            command, cwd=root, input=asked, capture_output=True, text=True, timeout=RENDER_SECONDS
        )
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {RENDER_SECONDS} s"}
    except ValueError:  # the child died
        last = done.stderr.strip().splitlines()[-1:]
        return {"error": last[0][:300] if last else f"exit status {done.returncode}"}


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

    def render(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        texts = render_jinja_template(
            conversations=[messages],
            chat_template=asked["template"],
            add_generation_prompt=add_generation_prompt,
            **values,
        )
        return str(texts[0][0])

    try:
        result = {"prompt": render([question], True), "dialogue": render(dialogue, False)}
    except Exception as error:  # a template may raise anything
        result = {"error": f"{type(error).__name__}: {error!s:.300}"}
    print(json.dumps(result))


def keeps_apart(tokenizer: Tokenizer, prompt: str, response: str) -> bool:
    """Tell if ids(prompt) + ids(response) == ids(prompt + response)."""
    texts = (prompt, response, prompt + response)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return bool(ids[0] + ids[1] == ids[2])


if __name__ == "__main__":
    render_in_child()

"""Check eval.yaml's settings: refuse all that cannot be evaluated at once."""

import re
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, Field, ValidationError

from data_prep.errors import UserError

NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")  # becomes part of a file's name: rlvr-2.1
Number = Annotated[float, Field(allow_inf_nan=False)]


class EndpointOptions(BaseModel, strict=True):
    """Limits of `endpoint_options`."""

    api: Literal["completions", "chat"]
    concurrency: int = Field(ge=1)
    timeout: Number = Field(gt=0)
    retries: int = Field(ge=0)
    backoff: Number = Field(ge=0)
    extra: dict[str, Any] | None


class Claims(BaseModel, strict=True):
    """Limits of `claims`."""

    of: str
    over: str
    margin: Number = Field(gt=0)
    points: Number = Field(gt=0)
    level: list[str] | None
    ahead: list[str] | None
    format_rate: dict[str, Number] | None


class Settings(BaseModel, strict=True):
    """Limits of the plain settings."""

    name: str = Field(pattern=rf"^{NAME.pattern}$", max_length=200)
    results_dir: str = Field(min_length=1)
    data_dir: str = Field(min_length=1)
    samples: int = Field(ge=1)
    temperature: Number = Field(ge=0)
    top_p: Number = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    direct_max_new_tokens: int = Field(ge=1)
    max_len: int | None = Field(ge=1)
    limit: int | None = Field(ge=1)
    seed: int = Field(ge=0, lt=2**31)
    chunk: int = Field(ge=1)
    endpoint_options: EndpointOptions
    claims: Claims | None
    vllm: dict[str, Any] | None
    models: dict[str, str] | None
    benchmarks: list[str] | None
    out_of_distribution: dict[str, str] | None
    modes: str | list[str] | dict[str, str | list[str]] | None
    compare: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None
    endpoint: str | None
    accepted: str | None = Field(pattern=rf"^{NAME.pattern}$")
    overwrite: bool
    retry_errors: bool


def check_settings(cfg: DictConfig) -> list[str]:
    """List what is wrong with the settings.

    Raises UserError for values of a wrong type, with which nothing else can be checked.
    """
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    problems, unreadable = [], False
    try:
        Settings.model_validate(given)
    except ValidationError as error:
        for fault in error.errors():
            key, text = ".".join(map(str, fault["loc"])), fault["msg"]
            problems.append(f"{key}={fault['input']!r:.200}: {text[:1].lower()}{text[1:]}")
            unreadable |= fault["type"].endswith(("_type", "_number"))
    if unreadable:
        raise UserError(*problems)

    if cfg.temperature == 0 and cfg.samples != 1:
        same = f"samples={cfg.samples} with temperature=0 gives the same answer each time"
        problems.append(f"{same}: temperature=1")
    url = cfg.endpoint
    if url is None:
        return problems
    if not re.fullmatch(r"https?://[^/\s]+\S*", url):
        problems.append(f"endpoint={url} is no address such as http://127.0.0.1:8000/v1")
    elif re.search("[@?#]", url):
        # not repeated here: the message may be stored, as the address is in settings.json
        problems.append(
            "endpoint holds a user, a password or a query, which would be written into results: "
            "give the address alone, and the key as OPENAI_API_KEY in the environment"
        )
    if cfg.endpoint_options.api == "chat" and cfg.data.chat:
        problems.append(
            "endpoint_options.api=chat lets the server put its chat template around prompts that "
            "have one already (data.chat=true): endpoint_options.api=completions"
        )
    return problems

"""Chat prompts before a run: data, configuration and model fit, and the model stops where its template ends a turn."""

import json
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from eval.tasks import make_plan
from recipes.preflight import find_problems
from tests.chatml import (
    END,
    PREFIX,
    SUFFIX,
    TEMPLATE,
    begin_with_bos,
    write_base_model,
    write_model,
)
from tests.conftest import ROOT, compose_words


@pytest.fixture(scope="module")
def instruct(tmp_path_factory) -> Path:
    """A model folder with a chat template and its end of turn among its stop tokens."""
    return write_model(tmp_path_factory.mktemp("models") / "instruct")


@pytest.fixture(scope="module")
def prepared(instruct, tmp_path_factory) -> Path:
    """The data folder that holds the bank in the instruct model's chat template."""
    return prepare_bank(instruct, tmp_path_factory.mktemp("chat"))


def prepare_bank(model: Path, folder: Path, chat: bool = True) -> Path:
    """Prepare the first rows of the bank, more than a batch; returns the data folder."""
    source = folder / "source"
    source.mkdir(parents=True)
    for path in (ROOT / "data_prep" / "bank").glob("*.jsonl"):
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (source / path.name).write_text("".join(rows[:100]), encoding="utf-8")
    words = [f"model.path={model}", f"data_dir={folder}", f"data.chat={chat}"]
    words += [f"data.source={source}", "data.accept=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.prepare.draw_lengths", lambda *_: None)
        prepare(compose_words("prep", words))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A base model's folder: it has a chat template and stops at <|endoftext|> alone."""
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def prepared_for_base(base, tmp_path_factory) -> Path:
    """The same data for the base model, whose tokenizer has another EOS."""
    return prepare_bank(base, tmp_path_factory.mktemp("base"))


@pytest.fixture
def problems_of(compose_config, tmp_path):
    """problems_of(data folder, model, *overrides, method="ppo"): of the laptop recipe with data.chat=true."""

    def find(data: Path, model: Path, *overrides: str, method: str = "ppo") -> list[str]:
        places = [
            f"data_dir={data}",
            f"model.path={model}",
            f"run_dir={tmp_path / 'run'}",
            "data.chat=true",
        ]
        cfg = compose_config("rlvr" if method == "ppo" else "sft", *places, *overrides)
        return find_problems(cfg, method)

    return find


def assert_told(problems: list[str], *parts: str) -> None:
    """Exactly one problem, which holds every part."""
    assert len(problems) == 1, problems
    for part in parts:
        assert part in problems[0], problems[0]


@pytest.mark.parametrize("method", ["ppo", "sft"])
def test_an_instruct_model_on_its_own_data_may_start(problems_of, prepared, instruct, method):
    assert problems_of(prepared, instruct, method=method) == []


@pytest.mark.parametrize("method", ["ppo", "sft"])
def test_plain_data_for_a_chat_and_chat_data_for_none_are_refused(
    problems_of, bank, prepared, instruct, method
):
    told = problems_of(bank, instruct, method=method)
    mend = f"run `make prep data=bank data_dir={bank} data.chat=true`"
    assert_told(told, "holds plain prompts, but data.chat=true", mend)
    told = problems_of(prepared, instruct, "data.chat=false", method=method)
    mend = f"run `make prep data=bank data_dir={prepared} data.chat=false`"
    assert_told(told, "holds chat prompts, but data.chat=false", mend)


@pytest.mark.parametrize("method", ["ppo", "sft"])
def test_a_base_model_with_a_chat_template_never_ends_its_turn(
    problems_of, prepared_for_base, base, method
):
    told = problems_of(prepared_for_base, base, method=method)
    parts = (
        f"ends a turn in {END} (token 2)",
        "eos_token_id [0] in generation_config.json",
        "set eos_token_id to [0, 2]",
    )
    assert_told(told, *parts)


def test_stop_tokens_are_those_of_config_json_without_a_generation_config(
    problems_of, prepared, tmp_path
):
    model = write_model(tmp_path / "model", eos_token="<|endoftext|>")
    (model / "generation_config.json").unlink()
    assert_told(problems_of(prepared, model), "eos_token_id [0] in config.json")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"eos_token_id": 2}))
    assert problems_of(prepared, model) == []


def test_the_tokenizers_own_eos_stops_too(problems_of, prepared, tmp_path):
    assert problems_of(prepared, write_model(tmp_path / "model", stops=0)) == []  # vLLM takes both


def test_sft_ends_in_the_tokenizers_eos_so_that_must_end_the_turn(
    problems_of, prepared_for_base, tmp_path
):
    model = write_model(tmp_path / "model", eos_token="<|endoftext|>", stops=[0, 2])
    assert problems_of(prepared_for_base, model) == []
    told = problems_of(prepared_for_base, model, method="sft")
    assert_told(told, f"set eos_token to {END} in a copy's tokenizer_config.json")


def test_data_in_another_models_template_is_refused(problems_of, prepared, tmp_path):
    other = write_model(tmp_path / "other", TEMPLATE.replace("of the tests", "of others"))
    assert_told(
        problems_of(prepared, other),
        "has another chat template",
        f"data.chat=true model.path={other}`",
    )
    none = write_model(tmp_path / "none", None)
    assert_told(problems_of(prepared, none), "has no chat template")
    (none / "chat_template.jinja").write_text(TEMPLATE)
    assert problems_of(prepared, none) == []


def test_plain_prompts_for_a_model_that_begins_with_bos_are_refused(problems_of, tmp_path):
    """OpenRLHF gives it to no prompt and evaluation to each: the model would be asked otherwise than trained."""
    model = begin_with_bos(write_model(tmp_path / "model"))
    plain = prepare_bank(model, tmp_path / "plain", chat=False)
    # this template writes it, as those of Llama and Gemma do
    chat = prepare_bank(model, tmp_path / "chat")
    for method in ("ppo", "sft"):
        told = problems_of(plain, model, "data.chat=false", method=method)
        assert_told(told, "begins every text with <|im_start|>", "data.chat=true", "post_processor")
        assert problems_of(chat, model, method=method) == []


def test_a_template_without_the_bos_of_its_tokenizer_is_refused_too(problems_of, tmp_path):
    model = begin_with_bos(write_model(tmp_path / "model"), "<|endoftext|>")
    told = problems_of(prepare_bank(model, tmp_path / "chat"), model)
    assert_told(told, "begins every text with <|endoftext|>", "template writes it")


def test_a_hub_model_is_looked_at_once_it_is_in_the_cache(
    problems_of, prepared, base, tmp_path, monkeypatch
):
    hub_id, revision = "Qwen/Qwen2.5-0.5B", "060db6499f32faf8b98477b0a26969ef7d8b9987"
    asked = (prepared, Path(hub_id), f"model.revision={revision}")
    assert not [line for line in problems_of(*asked) if "chat template" in line]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(base)
    assert_told(problems_of(*asked), f"the chat template of {hub_id} ends a turn in {END}")


@pytest.fixture
def make_eval(compose_config, instruct, tmp_path):
    """make_eval(data folder, *overrides): eval.yaml for the bank's test split and the instruct model."""

    def make(data: Path, *overrides: str):
        places = [
            f"data_dir={data}",
            f"results_dir={tmp_path}/results",
            f"models={{m:{instruct}}}",
            "limit=3",
        ]
        return compose_config(
            "eval", *places, "modes=[think,direct,cot]", "benchmarks=[bank/test]", *overrides
        )

    return make


def test_evaluation_asks_in_the_frame_of_the_data_and_records_it(make_eval, prepared, bank):
    for task in make_plan(make_eval(prepared, "data.chat=true")).tasks:
        assert task.settings["chat"] == {"prefix": PREFIX, "suffix": SUFFIX}
        for request in task.requests:
            assert request.prompt.startswith(PREFIX) and request.prompt.endswith(SUFFIX)
    for task in make_plan(make_eval(bank)).tasks:
        assert task.settings["chat"] is None
        assert all(request.prompt.endswith("\nAssistant:\n") for request in task.requests)


def test_evaluation_refuses_data_that_does_not_fit(make_eval, prepared, bank):
    with pytest.raises(UserError) as error:
        make_plan(make_eval(bank, "data.chat=true"))
    mend = f"run `make prep data=bank data_dir={bank} data.chat=true`, or ask with data.chat=false"
    assert_told(error.value.problems, "holds plain prompts, but data.chat=true", mend)
    with pytest.raises(UserError) as error:
        make_plan(make_eval(prepared))
    mend = (
        f"run `make prep data=bank data_dir={prepared} data.chat=false`, or ask with data.chat=true"
    )
    assert_told(error.value.problems, "holds chat prompts, but data.chat=false", mend)


def test_a_server_must_not_wrap_a_chat_prompt_again(make_eval, prepared):
    overrides = ["data.chat=true", "endpoint=http://127.0.0.1:1/v1", "endpoint_options.api=chat"]
    with pytest.raises(UserError) as error:
        make_plan(make_eval(prepared, *overrides))
    assert_told(error.value.problems, "endpoint_options.api=completions")

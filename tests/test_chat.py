"""Prompts in a chat template: exactly what transformers gives, in data, evaluation and reward; what is refused."""

import json
import re
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import ChatFrame, render_direct_prompt, render_prompt
from data_prep.tokenizer import find_chat, load_tokenizer
from eval.modes import render
from reward_server.openrlhf_hook import reward_func
from tests.chatml import (
    END,
    END_ID,
    PREFIX,
    ROOT,
    SUFFIX,
    TEMPLATE,
    begin_with_bos,
    name_bos,
    write_base_model,
    write_model,
)

OPTIONS = ["Aspirin", "Rest"]
FRAME = ChatFrame(PREFIX, SUFFIX)
ASKED = "What helps?\nA. Aspirin\nB. Rest"


@pytest.fixture
def make_cfg(compose_config, tmp_path):
    """make_cfg(model folder, *overrides): prep.yaml for four questions of our own in a file."""
    rows = [
        {"question": f"What helps against {n}?", "options": OPTIONS, "answer": "B"}
        for n in range(3)
    ]
    rows.append({"question": f"Is {END} a word?", "options": OPTIONS, "answer": "A"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(model: Path, *overrides: str):
        places = [
            f"data.source={tmp_path}/rows.jsonl",
            f"data_dir={tmp_path}/data",
            "data.holdout.dev=0",
            f"model.path={model}",
        ]
        return compose_config("prep", "data=custom", *places, *overrides)

    return make


def read_rows(cfg) -> list[dict]:
    lines = (
        (Path(cfg.data_dir) / cfg.data.name / "train.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    return [json.loads(line) for line in lines]


def test_the_think_prompt_in_a_chat_is_exactly_this():
    assert render_prompt("What helps?", OPTIONS, FRAME) == (
        f"{PREFIX}Answer the multiple-choice medical question below. "
        "First think about it inside <think> </think> tags, "
        f"then give the letter of the one best option inside <answer> </answer> tags.\n\n{ASKED}{SUFFIX}"
    )


def test_the_direct_prompt_in_a_chat_is_exactly_this():
    assert render_direct_prompt("What helps?", OPTIONS, FRAME) == (
        f"{PREFIX}Answer the multiple-choice medical question below. "
        f"Give the letter of the one best option and nothing else.\n\n{ASKED}{SUFFIX}"
    )


def test_evaluation_asks_in_the_same_frame():
    row = {"question": "What helps?", "options": OPTIONS, "prompt": "p", "direct_prompt": "d"}
    assert render(row, "think", FRAME) == "p" and render(row, "direct", FRAME) == "d"
    cot = render(row, "cot", FRAME)
    assert cot.startswith(
        f"{PREFIX}Answer the multiple-choice medical question below. First think step by step, "
    )
    assert cot.endswith(f"\n\n{ASKED}{SUFFIX}") and "A conversation between" not in cot


@pytest.mark.parametrize("where", ["key", "list", "file"])
def test_a_prompt_is_what_transformers_renders(tmp_path, where):
    from transformers import AutoTokenizer

    model = write_model(tmp_path / "model", None if where == "file" else TEMPLATE)
    config = json.loads((model / "tokenizer_config.json").read_text())
    if where == "file":
        (model / "chat_template.jinja").write_text(TEMPLATE)
    if where == "list":
        others = [{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}]
        (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": others}))
    chat = load_tokenizer(str(model), None, chat=True).chat
    assert chat is not None and (chat.end_of_turn, chat.end_of_turn_id) == (END, END_ID)
    prompt = render_prompt("What helps?", OPTIONS, chat)
    theirs = AutoTokenizer.from_pretrained(model)
    message = prompt.removeprefix(PREFIX).removesuffix(SUFFIX)
    messages = [{"role": "user", "content": message}]
    assert prompt == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert (
        theirs.decode(theirs(prompt, add_special_tokens=False)["input_ids"]) == prompt
    )  # reward_func strips it


@pytest.mark.parametrize("tokenizer", ["tests/tokenizer", "recipes/laptop_model"])
@pytest.mark.parametrize(
    "response", [f"B{END}", "<think>\nIt is.\n</think>\n<answer>B</answer>", " B", "'s", ".", "\t"]
)
def test_a_response_never_merges_with_the_end_of_a_chat_prompt(tokenizer, response):
    ours = load_tokenizer(str(ROOT / tokenizer), None, chat=False).tokenizer
    for prompt in (
        render_prompt("What helps?", OPTIONS, FRAME),
        render_direct_prompt("What helps?", OPTIONS, FRAME),
    ):
        ids = [
            ours.encode(text, add_special_tokens=False).ids
            for text in (prompt, response, prompt + response)
        ]
        assert ids[0] + ids[1] == ids[2]


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("said", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_bos_is_known_as_transformers_gives_it(tmp_path, in_file, said):
    from transformers import AutoTokenizer

    model = write_model(tmp_path / "model")
    if in_file:
        begin_with_bos(model)
    name_bos(model, **said)
    theirs = AutoTokenizer.from_pretrained(model)
    assert (theirs.encode("A")[0] == theirs.bos_token_id) == in_file
    ours = load_tokenizer(str(model), None, chat=False)
    assert ours.bos_token == (theirs.bos_token if in_file else None)


def test_data_is_prepared_in_the_models_template(make_cfg, tmp_path):
    model = write_model(tmp_path / "model")
    cfg = make_cfg(model, "data.chat=true", "data.direct_response=letter")
    manifest = prepare(cfg)
    rows = read_rows(cfg)
    assert len(rows) == 3 and manifest["splits"]["train"]["dropped"] == {
        "special_token_in_text": ["custom/train/3"]
    }
    for row in rows:
        assert row["prompt"] == render_prompt(row["question"], row["options"], FRAME)
        assert row["direct_prompt"] == render_direct_prompt(row["question"], row["options"], FRAME)
        assert (
            row["response"] == f"B{END}"
        )  # as the template ends a turn, and so OpenRLHF adds no EOS
    chat = manifest["chat"]
    assert (chat["prefix"], chat["suffix"], chat["end_of_turn"], chat["end_of_turn_id"]) == (
        PREFIX,
        SUFFIX,
        END,
        2,
    )
    tokens = load_tokenizer(str(model), None, chat=False).count_tokens(
        [row["prompt"] for row in rows]
    )
    assert manifest["max_prompt_tokens"]["found"] == max(tokens)
    assert f"turns end in `{END}`" in (Path(cfg.data_dir) / "custom" / "README.md").read_text()


def test_without_the_key_prompts_are_plain_whatever_the_tokenizer_has(make_cfg, tmp_path):
    model = write_model(tmp_path / "model")
    chat = make_cfg(model, "data.chat=true")
    prepare(chat)
    ids = [row["id"] for row in read_rows(chat)]
    cfg = make_cfg(model)
    assert prepare(cfg)["chat"] is None
    rows = read_rows(cfg)
    assert (
        rows[0]["prompt"] == render_prompt(rows[0]["question"], OPTIONS)
        and "<|im_" not in rows[0]["prompt"]
    )
    assert [row["id"] for row in rows] == ids  # so that answers to both can be paired


def test_the_reward_takes_a_chat_response_that_ends_its_turn(make_cfg, tmp_path):
    cfg = make_cfg(write_model(tmp_path / "model"), "data.chat=true")
    prepare(cfg)
    row = read_rows(cfg)[0]
    for letter, reward in (("B", 1.0), ("A", 0.0)):
        query = f"{row['prompt']}<think>It is.</think>\n<answer>{letter}</answer>{END}"
        assert reward_func([query], [row["prompt"]], [row["label"]])["rewards"] == reward


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "has no chat template"),
        (
            TEMPLATE.replace("message.content +", "message.content + message.content +"),
            "shows a message 2 times",
        ),
        (TEMPLATE.replace("message.content +", "'' +"), "shows a message 0 times"),
        (TEMPLATE.replace("assistant\\n'", "assistant '"), "ends a prompt in"),
        (TEMPLATE.replace("assistant\\n'", "assistant:'"), "ends a prompt in"),
        (
            TEMPLATE.replace("assistant\\n'", "assistant 1'"),
            "ends a prompt in",
        ),  # no letter merges with it, others may
        (TEMPLATE.replace("assistant\\n'", "assistant\\n<think>\\n'"), "writes <think> itself"),
        (
            TEMPLATE.replace("message.content + '<|im_end|>\\n'", "message.content + '\\n'"),
            "which is no special token",
        ),
        ("{{ raise_exception('system first') }}", "TemplateError: system first"),
        ("{{ strftime_now('%d') }}" + TEMPLATE, "'strftime_now' is undefined"),
        ("{% for %}", "cannot be rendered (TemplateSyntaxError"),
    ],
)
def test_a_template_that_prompts_cannot_be_cut_from_is_refused(make_cfg, tmp_path, template, told):
    with pytest.raises(UserError) as error:
        prepare(make_cfg(write_model(tmp_path / "model", template), "data.chat=true"))
    (problem,) = error.value.problems
    assert (
        told in problem
        and f"model.path={tmp_path}/model" in problem
        and "data.chat=false" in problem
    )
    assert not (tmp_path / "data").exists()


def test_a_tokenizer_that_merges_across_a_line_break_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {
        char: i for i, char in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u010aA"])
    }
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[("\u010a", "A")])
    )  # \u010a: a line break in byte-level BPE
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([END])
    with pytest.raises(UserError, match="the first token of a response can merge"):
        find_chat("MODEL", TEMPLATE, {"eos_token": END}, tokenizer, re.compile(re.escape(END)))


def test_a_frame_may_end_in_a_special_token(tmp_path):
    template = TEMPLATE.replace("'<|im_start|>assistant\\n'", "'<|im_start|>'")
    chat = load_tokenizer(str(write_model(tmp_path / "model", template)), None, chat=True).chat
    assert chat is not None and chat.suffix == f"{END}\n<|im_start|>"


def test_neither_true_nor_false_is_refused(make_cfg, tmp_path):
    with pytest.raises(UserError, match=r"data\.chat=maybe is not one of false, true"):
        prepare(make_cfg(write_base_model(tmp_path / "model"), "data.chat=maybe"))

"""What OpenRLHF makes of prepared rows: its own data sets must give the engine exactly what the rows say."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.prepare import prepare
from tests.conftest import compose_words

pytestmark = pytest.mark.slow  # imports torch and transformers: 15 s
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared/data"
TOKENIZER = ROOT / "tests/tokenizer"
REAL = {"medqa": "medqa", "mmlu_pro_health": "mmlu_pro", "pubmedqa": "pubmedqa"}
LONG = ("data.max_prompt_tokens=8000", "data.overlap.drop=null")  # no row is left out
HOSTILE = [
    "Ends in a colon:",
    "Line\nbreaks\n\n\nand  spaces  ",
    "<think>Sure.</think><answer>B</answer>",
    "User: hi\nAssistant:\n<answer>A</answer>",
    "<image> of {nothing} {} {0}",
    "β-blockers ≥ 5 µg — naïve, 日本語, 👩‍⚕️, é",
    '"quoted" \\ backslash \t tab',
    "None",
]


def prepare_rows(folder: Path, *overrides: str) -> dict[str, Path]:
    places = [f"model.path={TOKENIZER}", f"data_dir={folder}"]
    manifest = prepare(compose_words("prep", [*places, *overrides]))
    return {name: folder / manifest["name"] / name for name in manifest["files"]}


@pytest.fixture(scope="module", params=["bank", "hostile", *REAL])
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The prepared files of each data set, real ones with all their rows."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "bank":
        return prepare_rows(folder, "data=bank")
    if request.param in REAL:
        if not SHARED.exists():
            pytest.skip(f"{SHARED} is not here")
        source = f"data.source={SHARED / REAL[request.param]}"
        letter = "data.direct_response=letter"  # the others have the laptop's: named
        return prepare_rows(folder, f"data={request.param}", source, letter, *LONG)
    rows = [{"question": text, "options": [text, "no", "maybe"], "answer": "A"} for text in HOSTILE]
    source = folder / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return prepare_rows(folder, "data=custom", f"data.source={source}", "data.holdout.dev=0")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER)


def make_strategy(**data: object) -> SimpleNamespace:
    return SimpleNamespace(
        args=SimpleNamespace(data=SimpleNamespace(**data), use_ms=False),
        is_rank_0=lambda: False,
        print=print,
    )


def load_as_engine(path: Path):
    """The file as `openrlhf.datasets.utils.blending_datasets` loads it."""
    from openrlhf.datasets.utils import blending_datasets

    return blending_datasets(str(path), None, make_strategy(), dataset_split="train")


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_ppo_gets_prompt_label_and_datasource_as_they_are(
    files: dict[str, Path], tokenizer
) -> None:
    from openrlhf.datasets.prompts_dataset import PromptDataset

    strategy = make_strategy(input_key="prompt", label_key="label", apply_chat_template=False)
    for path in files.values():
        rows = read_rows(path)
        dataset = PromptDataset(load_as_engine(path), tokenizer, strategy, input_template=None)
        assert len(dataset) == len(rows) > 0
        for row, (datasource, prompt, label, _) in zip(rows, dataset, strict=True):
            assert (datasource, prompt, label) == (row["datasource"], row["prompt"], row["label"])
            expected = {
                "id": row["id"],
                "split": path.stem,
                "answer": row["answer"],
                "options": row["options"],
            }
            assert json.loads(label) == expected


def test_sft_trains_on_the_response_and_nothing_else(files: dict[str, Path], tokenizer) -> None:
    from openrlhf.datasets.sft_dataset import SFTDataset

    strategy = make_strategy(
        input_key="direct_prompt", output_key="response", apply_chat_template=False
    )
    for path in files.values():
        rows = read_rows(path)
        dataset = SFTDataset(
            load_as_engine(path), tokenizer, 8192, strategy, input_template=None, num_processors=1
        )
        assert len(dataset) == len(rows)
        for row, (input_ids, _, loss_mask) in zip(rows, dataset, strict=True):
            prompt, response = (
                tokenizer(row[key], add_special_tokens=False)["input_ids"]
                for key in ("direct_prompt", "response")
            )
            assert input_ids[0].tolist() == prompt + response
            # the mask marks the positions that predict the response's tokens
            assert loss_mask[0].tolist() == [0.0] * (len(prompt) - 1) + [1.0] * len(response) + [
                0.0
            ]
            assert response[-1] == tokenizer.eos_token_id
            assert response.count(tokenizer.eos_token_id) == 1
            if path.parent.name in REAL:
                assert row["response"] == row["answer"] + tokenizer.eos_token
                assert len(response) == 2


def test_prompt_and_response_keep_their_ids_when_joined(files: dict[str, Path], tokenizer) -> None:
    think = "<think>\nIt is so.\n</think>\n<answer>A</answer><|endoftext|>"
    for path in files.values():
        for row in read_rows(path):
            for prompt, response in (
                (row["prompt"], think),
                (row["direct_prompt"], row["response"]),
            ):
                apart = [
                    tokenizer(text, add_special_tokens=False)["input_ids"]
                    for text in (prompt, response)
                ]
                assert (
                    apart[0] + apart[1]
                    == tokenizer(prompt + response, add_special_tokens=False)["input_ids"]
                )
                assert tokenizer.decode(apart[0]) == prompt, (
                    "the reward strips the prompt from the decoded text"
                )


def test_tags_in_a_question_cannot_fool_the_reward(files: dict[str, Path]) -> None:
    from reward_server.openrlhf_hook import reward_func

    for path in files.values():
        for row in read_rows(path)[:50]:
            right, wrong = row["answer"], "B" if row["answer"] == "A" else "A"
            cases = {"": -1, right: -1, f"<think>x</think><answer>{wrong}</answer>": 0}
            cases[f"<think>x</think><answer>{right}</answer>"] = 1
            label = json.dumps({**json.loads(row["label"]), "split": "train"})
            for response, reward in cases.items():
                query = row["prompt"] + response + "<|endoftext|>"
                assert float(reward_func([query], [row["prompt"]], [label])["rewards"]) == reward

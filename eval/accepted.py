"""Rejection sampling: the right responses of evaluated models become rows for SFT.

make eval name=own temperature=1 samples=3 models={base:recipes/laptop_model} modes=[think] \
benchmarks=[bank/train,bank/dev] accepted=bank_own           answers, and data/bank_own
make sft data.name=bank_own data.direct_response=accepted name=rejection    trains on them
"""

from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import write_json, write_jsonl
from data_prep.prepared import MANIFEST, open_prepared, replace_folder
from eval.samples import Samples
from eval.tasks import Task


def write_accepted(folder: Path, tasks: list[Task], samples: dict[str, Samples]) -> dict[str, int]:
    """Write a data set of the prompts and right responses, a split a benchmark; returns its rows.

    Right is by the strict reading, in mode think the reward's. The same response to a question is
    there once. Raises UserError where a split would be empty, or `folder` is a data set of others.
    """
    if (folder / MANIFEST).exists() and "accepted" not in open_prepared(folder).manifest:
        raise UserError(f"accepted={folder.name}: {folder} is another data set: choose a new name")
    splits: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        end = task.benchmark.prepared.manifest["tokenizer"]["eos_token"]
        asked = {request.row["id"]: request for request in task.requests}
        right = [sample for sample in samples[task.key] if sample["correct"]]
        texts = {(one["id"], one["response"].removesuffix(end) + end): None for one in right}
        # SFT learns direct_prompt → response
        rows = [
            asked[row_id].row | {"direct_prompt": asked[row_id].prompt, "response": text}
            for row_id, text in texts
        ]
        splits.setdefault(task.benchmark.name.rpartition("/")[2], []).extend(rows)
    if empty := [split for split, rows in splits.items() if not rows]:
        raise UserError(f"accepted={folder.name}: no right response for {', '.join(empty)}")

    manifest = dict(tasks[0].benchmark.prepared.manifest)
    manifest |= {"name": folder.name, "files": {}, "direct_response": "accepted"}
    manifest["accepted"] = {task.key: task.settings for task in tasks}
    with replace_folder(folder) as partial:
        for split, rows in splits.items():
            name = f"{split}.jsonl"
            manifest["files"][name] = write_jsonl(partial / name, rows)
        write_json(partial / MANIFEST, manifest)
    return {split: len(rows) for split, rows in splits.items()}

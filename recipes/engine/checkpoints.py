"""Checkpoints that a run can really go on from, around OpenRLHF's own: on the engine's side and on the launcher's.

What the engine does (0.11.2), and what is done about it:
* actor and critic save one after the other, and a kill between them leaves two different steps: once both are whole,
  `checkpoints/complete/<tag>.json` is written, and resume takes the newest of those;
* `latest` also moves on a best save, and points to a folder that may be half written: resume sets it, in both folders;
* rotation deletes the worst dev metric before the oldest, so that the checkpoint to go on from goes first (and, half
  written ones being counted, the only whole one): here the oldest goes, and resume clears what is not whole;
* best checkpoints' Hugging Face copies are never deleted: the last best goes once the new one is there;
* SFT rotates every folder beside its checkpoints, Hugging Face copies too: they are moved out of its reach.

checkpoints/
  _actor/<tag>/ _critic/<tag>/     DeepSpeed's (SFT: _model/<tag>/); tag: global_step<N> or best_global_step<N>
  <tag>_hf/                        the model in Hugging Face form (openrlhf.ckpt.save_hf)
  complete/<tag>.json              {"step", "roles"}: both are whole; step: the trainer's, not the tag's
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.files import write_text


class Checkpoint(NamedTuple):
    """One that is whole. roles: the folders that hold it, `_actor` and `_critic`, or `_model` for SFT."""

    tag: str
    step: int
    roles: list[str]


def mark_complete(folder: Path, tag: str, step: int, roles: list[str]) -> None:
    """Write that `tag` is whole in each role's folder; drop the marks of folders that rotation has deleted."""
    marks = folder / "complete"
    marks.mkdir(parents=True, exist_ok=True)
    write_text(marks / f"{tag}.json", json.dumps({"step": step, "roles": roles}) + "\n")
    for mark in marks.glob("*.json"):
        if not all((folder / role / mark.stem).is_dir() for role in roles):
            mark.unlink()
    if tag.startswith("best_"):
        for copy in folder.glob("best_*_hf"):
            if copy.name != f"{tag}_hf":
                shutil.rmtree(copy)


def mark_sft(folder: Path, tag: str, step: int) -> None:
    """mark_complete for SFT, whose checkpoints are in `folder` (…/checkpoints/_model): moves the copy up first."""
    copy = folder / f"{tag}_hf"
    if copy.is_dir():
        shutil.rmtree(
            folder.parent / copy.name, ignore_errors=True
        )  # of an earlier life of this run
        os.replace(copy, folder.parent / copy.name)
    mark_complete(folder.parent, tag, step, [folder.name])


def list_complete(folder: Path) -> list[Checkpoint]:
    """All whole checkpoints, oldest first."""
    found = []
    for mark in (folder / "complete").glob("*.json"):
        content = json.loads(mark.read_text(encoding="utf-8"))
        if all((folder / role / mark.stem).is_dir() for role in content["roles"]):
            found.append(Checkpoint(mark.stem, content["step"], content["roles"]))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.tag))


def find_last(folder: Path) -> Checkpoint | None:
    """The checkpoint to go on from; None where there is none."""
    complete = list_complete(folder)
    return complete[-1] if complete else None


def clear_unfinished(folder: Path) -> int:
    """Delete what a death left unfinished and let the engine load the last whole checkpoint; returns its step, 0 for
    none."""
    last = find_last(folder)
    if last:
        point_to(folder, last)
        return last.step
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def point_to(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """Make `checkpoint` the one that the engine loads, and delete what is not whole; returns what was deleted."""
    whole = {known.tag for known in list_complete(folder)}
    deleted = []
    for role in checkpoint.roles:
        write_text(folder / role / "latest", checkpoint.tag)
        deleted += [
            path
            for path in (folder / role).glob("*global_step*")
            if path.is_dir() and path.name not in whole
        ]
    deleted += [
        path
        for path in folder.glob("*global_step*_hf")
        if path.name.removesuffix("_hf") not in whole
    ]
    # A copy outlives its DeepSpeed checkpoint, which is rotated: only copies later than `checkpoint` are half written.
    deleted = [path for path in dict.fromkeys(deleted) if not is_kept_copy(path, checkpoint.step)]
    for path in deleted:
        shutil.rmtree(path)
    return deleted


def is_kept_copy(path: Path, step: int) -> bool:
    """Whether a folder is a Hugging Face copy of a step up to `step`, kept for the analysis of the dynamics."""
    number = path.name.removesuffix("_hf").rpartition("global_step")[2]
    return (
        path.name.endswith("_hf")
        and not path.name.startswith("best_")
        and number.isdigit()
        and int(number) <= step
    )


def rotate_by_age(deepspeed_module: Any) -> None:
    """deepspeed.py:738 deletes the worst metric first; without metrics it deletes the oldest first."""
    deepspeed_module.DeepspeedStrategy._read_ckpt_metric = lambda _self, _folder: None

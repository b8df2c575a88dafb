"""Make checkpoints that a run can really be resumed from: the engine's side and the launcher's.

OpenRLHF 0.11.2 saves actor and critic one after the other, moves `latest` on a best save too, and
rotates away the worst metric first, half-written folders counted: docs/engine.md.

checkpoints/
  _actor/<tag>/ _critic/<tag>/     DeepSpeed's (SFT: _model/<tag>/); tag: [best_]global_step<N>
  <tag>_hf/                        the model in Hugging Face form (openrlhf.ckpt.save_hf)
  complete/<tag>.json              {"step", "roles"}: all are whole; the step is the trainer's
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.files import read_mapping, write_text

ROLES = {"_actor", "_critic", "_model"}


class Checkpoint(NamedTuple):
    """A whole checkpoint; roles: its folders, `_actor` and `_critic`, or `_model` for SFT."""

    tag: str
    step: int
    roles: list[str]


def mark_complete(folder: Path, tag: str, step: int, roles: list[str]) -> None:
    """Write that `tag` is whole in each role's folder; drop the marks of deleted folders."""
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
    """Move SFT's Hugging Face copy out of `folder` (…/checkpoints/_model), then mark `tag`."""
    copy = folder / f"{tag}_hf"
    if copy.is_dir():
        # One may be left from an earlier part of this run.
        shutil.rmtree(folder.parent / copy.name, ignore_errors=True)
        os.replace(copy, folder.parent / copy.name)
    mark_complete(folder.parent, tag, step, [folder.name])


def list_complete(folder: Path) -> list[Checkpoint]:
    """List all whole checkpoints, oldest first."""
    found = []
    for mark in (folder / "complete").glob("*.json"):
        fix = "delete it, which gives this checkpoint up"
        content = read_mapping(mark, fix)
        step: Any = content.get("step")
        roles: Any = content.get("roles")
        known = isinstance(roles, list) and roles and set(map(str, roles)) <= ROLES
        if type(step) is not int or not known:
            raise UserError(f"{mark} has no step and roles: {fix}")
        if all((folder / role / mark.stem).is_dir() for role in roles):
            found.append(Checkpoint(mark.stem, step, roles))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.tag))


def find_last(folder: Path) -> Checkpoint | None:
    """Find the checkpoint to resume from; None where there is none."""
    complete = list_complete(folder)
    return complete[-1] if complete else None


def clear_unfinished(folder: Path) -> int:
    """Delete what a killed run left unfinished, and let the engine load the last whole checkpoint.

    Returns its step, 0 where there is none.
    """
    complete = list_complete(folder)
    if not complete:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    last, whole = complete[-1], {known.tag for known in complete}
    for role in last.roles:
        write_text(folder / role / "latest", last.tag)
        for path in (folder / role).glob("*global_step*"):
            if path.is_dir() and path.name not in whole:
                shutil.rmtree(path)
    for copy in folder.glob("*global_step*_hf"):
        tag = copy.name.removesuffix("_hf")
        number = tag.removeprefix("global_step")  # best_… is no number
        # A copy outlives its rotated checkpoint, to analyse the dynamics: only those after the last
        # one are half written.
        is_old = number.isdecimal() and int(number) <= last.step
        if tag not in whole and not is_old:
            shutil.rmtree(copy)
    return last.step


def rotate_by_age(deepspeed_module: Any) -> None:
    """Delete the oldest checkpoint first, as deepspeed.py:738 does where there are no metrics."""
    deepspeed_module.DeepspeedStrategy._read_ckpt_metric = lambda _self, _folder: None

"""Resolve a hub revision to its commit and load splits there, with errors that say what to do."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import read_mapping


def resolve_revision(hub_id: str, revision: str | None) -> str:
    """Return the commit (40 hex digits) of a revision; asks the hub only for a branch or a tag."""
    if revision is None:
        raise UserError(
            f"data.hub.revision of {hub_id} is not set: take the commit from the data set's page "
            "(Files, History)"
        )
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    with explain_errors(hub_id, revision):
        return str(HfApi().dataset_info(hub_id, revision=revision).sha)


def load_splits(data: DictConfig, revision: str) -> dict[str, list[tuple[str, Any]]]:
    """Load every configured split from the hub, over all configs in `data.parts` (or the one)."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    hub = data.hub
    records: dict[str, list[tuple[str, Any]]] = {split: [] for split in hub.splits}
    for part in list(data.parts) or [None]:
        with explain_errors(hub.id, revision):
            loaded = datasets.load_dataset(
                hub.id, part or hub.config, data_dir=hub.folder, revision=revision
            )
        prefix = f"{part}-" if part else ""
        for split, hub_split in hub.splits.items():
            if hub_split not in loaded:
                raise UserError(
                    f"{hub.id} at {revision} has no split {hub_split!r}, only {', '.join(loaded)}"
                )
            records[split].extend((f"{prefix}{n}", row) for n, row in enumerate(loaded[hub_split]))
    return records


FIXES = read_mapping(Path(__file__).with_suffix(".yaml"))
BROKEN = "what arrived is broken or cut off: run it again (a download resumes)"


@contextmanager
def explain_errors(hub_id: str, revision: str) -> Iterator[None]:
    """Turn what `datasets` and `huggingface_hub` raise into a UserError with cause and fix."""
    try:
        yield
    except Exception as error:  # they let httpx, pyarrow, OS and own errors through alike
        signs: set[str | int] = {403} if "is a gated dataset" in str(error) else set()
        causes: list[BaseException] = [error]
        for cause in causes:  # grows while it is read
            # a requests response with an error status is falsy
            status = getattr(getattr(cause, "response", None), "status_code", "")
            signs |= {type(cause).__name__, status}
            behind = cause.__cause__ or cause.__context__
            causes += [behind] if behind and behind not in causes else []
        fix = next((fix for fix, known in FIXES.items() if signs.intersection(known)), BROKEN)
        detail = f"[{type(error).__name__}: {' '.join(str(error).split())[:300]}]"
        raise UserError(f"{hub_id} at {revision}: {fix} {detail}") from error

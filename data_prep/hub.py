"""Resolve a hub revision to its commit and load splits there, with errors that say what to do."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError


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
    records: dict[str, list[tuple[str, Any]]] = {split: [] for split in data.hub.splits}
    for part in list(data.parts) or [None]:
        with explain_errors(data.hub.id, revision):
            loaded = datasets.load_dataset(
                data.hub.id, part or data.hub.config, data_dir=data.hub.folder, revision=revision
            )
        prefix = f"{part}-" if part else ""
        for split, hub_split in data.hub.splits.items():
            if hub_split not in loaded:
                raise UserError(
                    f"{data.hub.id} at {revision} has no split {hub_split!r}, only "
                    f"{', '.join(loaded)}"
                )
            records[split].extend((f"{prefix}{n}", row) for n, row in enumerate(loaded[hub_split]))
    return records


GATED = "it is gated or private: accept its terms on its page and run `hf auth login`"
NO_REVISION = (
    "that revision does not exist (any more): take a commit from the data set's page (Files, "
    "History)"
)
ABSENT = (
    "it or one of its files is not there, or is private: check data.hub.id, or run `hf auth login`"
)
NO_HUB = (
    "the hub could not be reached: check the network, or read a local copy with data.source=FOLDER"
)
BROKEN = (
    "what arrived is broken or cut off: run it again (a download resumes), or use "
    "data.source=FOLDER"
)
# Classes and status codes that the hub's libraries raise, and the fix; the first that fits decides.
FIXES: dict[str, set[str | int]] = {
    GATED: {"GatedRepoError", 401, 403},
    NO_REVISION: {"RevisionNotFoundError"},
    ABSENT: {"DatasetNotFoundError", "RepositoryNotFoundError", "EntryNotFoundError", 404},
    NO_HUB: {
        "LocalEntryNotFoundError",
        "ConnectionError",
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
    },
}


@contextmanager
def explain_errors(hub_id: str, revision: str) -> Iterator[None]:
    """Turn what `datasets` and `huggingface_hub` raise into a UserError with cause and fix."""
    try:
        yield
    except Exception as error:  # they let httpx, pyarrow, OS and own errors through alike
        signs: set[str | int] = {403} if "is a gated dataset" in str(error) else set()
        cause: BaseException | None = error
        seen: list[BaseException] = []
        while cause is not None and cause not in seen:
            seen.append(cause)
            # a requests response with an error status is falsy
            status = getattr(getattr(cause, "response", None), "status_code", None)
            signs |= {type(cause).__name__, status or ""}
            cause = cause.__cause__ or cause.__context__
        fix = next((fix for fix, known in FIXES.items() if signs & known), BROKEN)
        detail = " ".join(str(error).split())[:300]
        raise UserError(
            f"{hub_id} at {revision}: {fix} [{type(error).__name__}: {detail}]"
        ) from error

"""The hub: resolves a revision to its commit and loads splits at that commit, with errors that say what to do."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError


def resolve_revision(hub_id: str, revision: str | None) -> str:
    """The commit (40 hex digits) that a revision names now. Asks the hub only for a branch or a tag."""
    if revision is None:
        raise UserError(
            f"data.hub.revision of {hub_id} is not set: take the commit from the data set's page (Files, History)"
        )
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    with explain_errors(hub_id, revision):
        return str(HfApi().dataset_info(hub_id, revision=revision).sha)


def load_splits(data: DictConfig, revision: str) -> dict[str, list[tuple[str, Any]]]:
    """The records of every configured split, over all configs in `data.parts` (or the one config of the data set)."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    records: dict[str, list[tuple[str, Any]]] = {split: [] for split in data.hub.splits}
    for part in list(data.parts) or [None]:
        with explain_errors(data.hub.id, revision):
            loaded = datasets.load_dataset(
                data.hub.id, part or data.hub.config, data_dir=data.hub.folder, revision=revision
            )
        for split, hub_split in data.hub.splits.items():
            if hub_split not in loaded:
                raise UserError(
                    f"{data.hub.id} at {revision} has no split {hub_split!r}, only {', '.join(loaded)}"
                )
            named = (
                (f"{part}-{number}" if part else str(number))
                for number in range(len(loaded[hub_split]))
            )
            records[split].extend(zip(named, loaded[hub_split], strict=True))
    return records


@contextmanager
def explain_errors(hub_id: str, revision: str) -> Iterator[None]:
    """Turns what `datasets` and `huggingface_hub` raise into a UserError with the cause and the mend."""
    try:
        yield
    except Exception as error:  # they let httpx, pyarrow, OS and own errors through alike
        causes = list_causes(error)
        names = {type(cause).__name__ for cause in causes}
        status = next((code for cause in causes if (code := get_status(cause)) is not None), None)
        if "GatedRepoError" in names or status in (401, 403) or "is a gated dataset" in str(error):
            mend = "it is gated or private: accept its terms on its page and run `hf auth login`"
        elif "RevisionNotFoundError" in names:
            mend = "that revision does not exist (any more): take a commit from the data set's page (Files, History)"
        elif status == 404 or names & {
            "DatasetNotFoundError",
            "RepositoryNotFoundError",
            "EntryNotFoundError",
        }:
            mend = "it or one of its files is not there, or is private: check data.hub.id, or run `hf auth login`"
        elif names & {
            "LocalEntryNotFoundError",
            "ConnectionError",
            "ConnectError",
            "ConnectTimeout",
            "ReadTimeout",
        }:
            mend = "the hub could not be reached: check the network, or read a local copy with data.source=FOLDER"
        else:
            mend = "what arrived is broken or cut off: run it again (a download resumes), or use data.source=FOLDER"
        detail = " ".join(str(error).split())[:300]
        raise UserError(
            f"{hub_id} at {revision}: {mend} [{type(error).__name__}: {detail}]"
        ) from error


def list_causes(error: BaseException | None) -> list[BaseException]:
    """An error and all that it was raised from."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def get_status(error: BaseException) -> int | None:
    """The HTTP status of an error that carries a response. (A requests response with an error status is falsy.)"""
    return getattr(getattr(error, "response", None), "status_code", None)

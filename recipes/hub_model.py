"""A model of the hub, fetched at its pinned commit before the engine starts: the engine itself would take any."""

from pathlib import Path
from typing import Any

# Weights as safetensors only: .bin files are pickles, which run code when loaded.
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]


class ModelFetchError(RuntimeError):
    """The model could not be had from the hub."""


def is_hub_id(cfg: Any) -> bool:
    """Whether `model.path` names a model of the hub, not a folder here."""
    return not Path(cfg.model.path).is_dir()


def fetch_model(cfg: Any) -> Path:
    """The local folder of `model.path` at `model.revision`; downloads what the hub cache does not hold, with progress.

    Raises ModelFetchError with the cause and what mends it. An interrupted download goes on where it stopped.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"model.path={cfg.model.path} at model.revision={cfg.model.revision}"
    try:
        folder = Path(
            snapshot_download(cfg.model.path, revision=cfg.model.revision, allow_patterns=PATTERNS)
        )
    except GatedRepoError as error:
        raise ModelFetchError(
            f"{name} is gated: accept its terms on its page and run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelFetchError(
            f"{name}: no such commit, take one from the model's page (Files, History)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelFetchError(
            f"{name} does not exist or is private: check it, or run `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, httpx.TransportError) as error:
        raise ModelFetchError(
            f"{name}: the hub cannot be reached; give a local copy, model.path=FOLDER"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelFetchError(f"{name}: {error}. Run it again, a download resumes") from error
    if not any(folder.glob("*.safetensors")):
        raise ModelFetchError(
            f"{name} has no *.safetensors: convert its weights first, .bin files can run code"
        )
    return folder

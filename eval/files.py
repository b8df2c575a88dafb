"""Writing a file so that it is whole or not there."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes under a temporary name, then renames."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)

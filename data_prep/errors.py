"""How preparation says no: to the user (PrepError) and to a single row (BadRow, NotSelected)."""


class PrepError(ValueError):
    """Something the user must mend before any data is written; `run.py` prints the problems and exits with 2.

    `problems` holds one line each: what is wrong, which value, and the command or change that mends it.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BadRow(ValueError):
    """One row that cannot be used. `reason` is the name under which the manifest counts and lists it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class NotSelected(Exception):
    """A sound row of the upstream file that is not part of the configured data set, such as another subject."""

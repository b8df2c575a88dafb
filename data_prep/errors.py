"""Errors of all four packages: UserError stops a command, BadRow drops one row."""


class UserError(ValueError):
    """Report what the user must fix before work starts; commands print it and exit with 2.

    problems: one line each: what is wrong, which value, and the command or change that fixes it.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BadRow(ValueError):
    """Drop one row. reason: under which the manifest lists it; detail: field and value."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class NotSelected(Exception):
    """Leave out a sound row that is not part of the data set, such as another subject's."""

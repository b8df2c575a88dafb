"""How evaluation says no: `run.py` prints the problems, one line each, and exits with 2."""


class EvalError(ValueError):
    """Something the user must mend. `problems` holds one line each: what is wrong, which value, what mends it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

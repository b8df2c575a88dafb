"""Does an index of the gold option count from 0 or from 1? Found out from all rows, never assumed.

An index of 0 shows base 0; an index equal to the number of options shows base 1. Where the rows show neither, or both,
or where the explanations ("Ans. (c)") contradict, preparation stops and asks, since a wrong base would mark nearly
every row wrongly without a sound.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from data_prep.errors import UserError
from data_prep.prompt import LETTERS

EXPLAINED = re.compile(
    r"\bans(?:wer)?[\s.:,=-]*(?:is[\s.:,=-]+)?[\"'‘“(\[]{0,2}([a-d])[\"'’”)\].:,\s]", re.IGNORECASE
)
"""The letter that an explanation of MedMCQA opens with: `Ans. (c)`, `Ans is 'b'`, `Answer: A.`"""


def find_index_base(
    records: Iterable[Any],
    column: str,
    count_options: Callable[[dict[str, Any]], int],
    explanation: str | None,
) -> dict[str, Any]:
    """The base (0 or 1) and the evidence for it, for the manifest.

    `count_options` gives the number of options of a row; `explanation` names a column whose text may open with
    the answer's letter, as a second witness. Raises UserError where the rows do not settle it.
    """
    lowest = highest = rows = 0
    witnesses = {0: 0, 1: 0}
    for record in records:
        if not isinstance(record, dict):
            continue  # rejected by name when it is parsed, like a row whose index is none
        value = record.get(column)
        num_options = count_options(record)
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= num_options:
            continue
        rows += 1
        lowest += value == 0
        highest += value == num_options
        text = record.get(explanation) if explanation else None
        said = EXPLAINED.match(text) if isinstance(text, str) else None
        if said:
            index = LETTERS.index(said[1].upper())
            for base in witnesses:
                witnesses[base] += index == value - base
    mend = f"say which with data.index_base=0 or data.index_base=1 after looking at some rows (column {column})"
    if bool(lowest) == bool(highest):
        shown = f"{lowest} have index 0 and {highest} have the number of options as index"
        raise UserError(
            f"cannot tell whether {column} counts from 0 or from 1: of {rows} rows, {shown}; {mend}"
        )
    base = 0 if lowest else 1
    if witnesses[1 - base] > witnesses[base]:
        raise UserError(
            f"{column} seems to count from {base}, but {witnesses[1 - base]} explanations name the letter that base "
            f"{1 - base} gives, and only {witnesses[base]} that of base {base}; {mend}"
        )
    return {
        "base": base,
        "explanations_that_agree": witnesses[base],
        "that_say_the_other": witnesses[1 - base],
    }

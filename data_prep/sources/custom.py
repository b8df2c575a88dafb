"""Your own questions, with a mapping of columns.

    make prep data=custom data.name=mine data.source=questions.csv data.columns.answer=gold

Data set   any JSONL, CSV or Parquet file, or a folder with train, dev, test files
Mapping    recipes/configs/data/custom.yaml: the columns of question, options and answer, and others
           to keep
Options    one column with a list, an object A, B, C, …, pairs of key and value, or text of one of
           these; or one column an option: [opa, opb, opc, opd]
Answer     data.answer_is: a letter (also `(c)`, `C.`), the text of the gold option, or an index
           (data.index_base: 0, 1 or auto); or open (data.prompt.name=open): references, a list of
           accepted forms or text that parts them by |; or number, with its limits or a tolerance
"""

import ast
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig

from data_prep.errors import BadRow, UserError
from data_prep.files import build_object
from data_prep.open_view import MOST_WORDS
from data_prep.options import read_labels
from data_prep.prompt import LETTERS
from data_prep.rows import Question, get_letter, get_text, get_texts, get_value, read_index

# `C`, ` c `, `(C)`, `C.`, `[c]`
LETTER = re.compile(r"[\s(\[]*([A-Za-z])[\s)\].:]*")
BRACKETED = re.compile(r"(.+?)\s*\(([^()]+)\)")  # hemolytic uremic syndrome (HUS)
# names of an option's letter and of its text; where an option has all four, the last ones count
PAIRS = (("label", "text"), ("key", "value"))


def parse_row(record: Any, row_id: str, data: DictConfig) -> Question:
    """Read a record by the configured columns. Raises BadRow."""
    columns = data.columns
    stem = columns.question
    parts = [stem] if isinstance(stem, str) else stem
    question = "\n\n".join(get_text(record, part).strip() for part in parts)
    meta = {key: record.get(key) for key in columns.meta}
    if data.answer_is in ("references", "number"):
        target = read_target(record, question, data)
        return Question(row_id, question, [], "", meta, target=target)
    options, notes = read_options(record, columns.options)
    if data.answer_is == "index":
        answer = get_letter(record, columns.answer, data.index_base, len(options))
    elif data.answer_is == "text":
        gold = get_text(record, columns.answer).strip()
        # twice the gold's text: which letter is meant cannot be known
        stripped = [text.strip() for text in options[: len(LETTERS)]]
        if stripped.count(gold) != 1:
            detail = f"{stripped.count(gold)} options have the text {gold!r:.100}"
            raise BadRow("gold_not_among_options", detail)
        answer = LETTERS[stripped.index(gold)]
    else:
        said = get_text(record, columns.answer).strip()
        letter = LETTER.fullmatch(said)
        answer = letter[1].upper() if letter else said
        notes += ["answer_letter"] if answer != said else []
        places = read_labels([text.strip() for text in options])
        place, in_order = LETTERS.find(answer), [places, list(range(len(options)))]
        is_labelled = letter and -1 not in places and sorted(places) in in_order
        # "B. x", "A. y" and the answer A: x by its place, y by its label
        if is_labelled and place in places and places[place : place + 1] != [place]:
            raise BadRow("label_differs", f"answer {answer!r}, options {options!r:.100}")
    return Question(row_id, question, options, answer, meta, notes)


def read_target(record: dict[str, Any], stem: str, data: DictConfig) -> dict[str, Any]:
    """Read an open answer: accepted forms, or a number within its limits. Raises BadRow.

    Forms of more than 6 words are left out: nobody would say just these. `XIa (factor)` is three.
    """
    columns, value = data.columns, get_value(record, data.columns.answer)
    if data.answer_is == "number":
        units = "|".join(map(re.escape, data.units_in_question))
        # What is the clearance in terms of mL/min?    the pressure in mm Hg
        unit = re.search(rf"\b(?:in|of) ({units or '$^'})(?![\w/])", stem)
        given = [get_value(record, key) for key in columns.limits] if columns.limits else []
        try:
            number, margin = float(value), abs(float(value)) * data.tolerance
            limits = sorted(map(float, given or (number - margin, number + margin)))
        except (TypeError, ValueError):
            raise BadRow("no_number", f"{value!r:.50}, limits {given!r:.60}") from None
        if not limits[0] <= number <= limits[-1] < math.inf:
            raise BadRow("no_number", f"{number} is not within {limits}")
        said = unit[1] if unit else data.unit
        return {"value": number, "tolerance": limits, "unit": said, "kind": "number"}
    forms = value.split("|") if isinstance(value, str) else value
    while isinstance(forms, list) and len(forms) == 1 and isinstance(forms[0], list):
        forms = forms[0]
    texts = [text.strip() for text in get_texts({"answer": forms}, "answer")]
    for bracketed in filter(None, map(BRACKETED.fullmatch, texts)):
        texts += bracketed.groups()
    references = [text for text in texts if 1 <= len(text.split()) <= MOST_WORDS]
    if not references:
        raise BadRow("long_answer" if any(texts) else "empty_reference", f"{texts!r:.100}")
    return {"references": references, "kind": "text"}


def find_index_base(records: Iterable[Any], column: str, options: str | Sequence[str]) -> int:
    """Find if an index of the gold option counts from 0 or from 1; options: a column, or several.

    An index of 0 shows base 0, an index equal to the number of options base 1. Raises UserError
    where rows show neither, or both: a wrong base would mark nearly every row wrongly.
    """
    lowest = highest = 0
    for record in records:
        try:
            index = read_index(get_value(record, column))
            texts = read_options(record, options)[0] if isinstance(options, str) else options
        except BadRow:
            continue  # dropped by name when it is parsed
        lowest += index == 0
        highest += index == len(texts)
    if bool(lowest) == bool(highest):
        raise UserError(
            f"cannot find if {column} counts from 0 or from 1: {lowest} rows have index 0 and "
            f"{highest} have the number of options as index; look at some rows, then give "
            "data.index_base=0 or data.index_base=1"
        )
    return 0 if lowest else 1


def read_options(record: dict[str, Any], column: Any) -> tuple[list[str], list[str]]:
    """Read the options of a record, and the names of what had to be done. Raises BadRow."""
    notes: list[str] = []
    value: Any = None
    if isinstance(column, ListConfig):
        column, value = "options", [record.get(key) for key in column]
    else:
        value = get_value(record, column)
    if isinstance(value, str):
        value = parse_literal(value, column)
        notes.append("options_in_text")
    value = join_pairs(list(value) if isinstance(value, tuple) else value)
    if isinstance(value, dict):
        value = get_texts({column: value}, column)
    # rows with fewer options fill up the last ones
    if isinstance(value, list):
        given = len(value)
        while value and (value[-1] is None or str(value[-1]).strip().lower() in ("", "n/a")):
            value = value[:-1]
        notes += ["padding_options"] if len(value) < given else []
        for place, text in enumerate(value, 1):
            if text is None or str(text).strip().lower() == "n/a":
                raise BadRow("empty_option", f"option {place} is {text!r}")
    return get_texts({column: value}, column), notes


def parse_literal(text: str, column: str) -> Any:
    """Parse a list or an object that a file holds as text, of JSON or of Python. Raises BadRow."""
    for parse in (partial(json.loads, object_pairs_hook=build_object), parse_python):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            if "twice" in str(error):  # Python would keep the last
                raise BadRow("wrong_type", f"{column}: {error}: {text!r:.100}") from None
    raise BadRow("wrong_type", f"{column} is the text {text!r:.100}, no list")


def parse_python(text: str) -> Any:
    """Parse a literal of Python (single quotes). Raises ValueError for a key given twice."""
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            build_object([(ast.literal_eval(key), None) for key in node.keys if key])
    return ast.literal_eval(tree)


def join_pairs(value: Any) -> Any:
    """Return options given as pairs as an object.

    Pairs: [[A, text], …], as Parquet gives a map, [{key, value}, …] or {key: […], value: […]}.
    """
    pairs = value
    for key, text in PAIRS:
        if isinstance(value, dict) and set(value) == {key, text}:
            keys, texts = value[key], value[text]
            if isinstance(keys, list) and isinstance(texts, list) and len(keys) == len(texts):
                pairs = list(zip(keys, texts, strict=True))
        elif isinstance(value, list) and all(
            isinstance(pair, dict) and {key, text} <= set(pair) for pair in value
        ):
            pairs = [(pair[key], pair[text]) for pair in value]
    if isinstance(pairs, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        joined = {str(letter): text for letter, text in pairs}
        return joined if len(joined) == len(pairs) else value
    return value

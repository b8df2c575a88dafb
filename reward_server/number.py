"""Read a number with its unit and compare it with a value within its limits.

The whole answer, after an announcement or `about`, must be one number, as the patterns of
units.yaml say, and perhaps a unit. The unit is converted; without one the question's own is meant.
Ranges, dates, inequalities and two numbers are refused by name; nothing is evaluated.
Pure, total on any text, linear time.
"""

import math
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from data_prep.files import read_mapping
from reward_server.choice import normalise
from reward_server.text import ANNOUNCED, Stated

TABLE = read_mapping(Path(__file__).with_name("units.yaml"))
PATTERNS = {name: re.compile(text, re.X | re.I) for name, text in TABLE["patterns"].items()}
UNITS = {
    unit: (quantity, float(factor))
    for quantity, units in TABLE["units"].items()
    for unit, factor in units.items()
}
SIGNS = str.maketrans(TABLE["signs"])
LONGEST = 120  # characters of an answer that is a number


class Target(NamedTuple):
    """The value asked for, the limits of a right answer, its unit ("" for none) and substance."""

    value: float
    lower: float
    upper: float
    unit: str = ""
    substance: str | None = None


def read_number(body: str, target: Target) -> Stated:
    """Read the number that `body`, as a whole, states, in the target's unit.

    A right one is given as the target's own value, so that right answers are the same answer.
    """
    text = _write_plainly(body) if len(body) <= 10 * LONGEST else body
    if len(text) > LONGEST:
        return Stated(None, "too_long")
    match = PATTERNS["number"].match(text)
    # what is behind the number's last digit, whose own powers may hold a minus
    behind = text[match.end() - 1 :] if match else text
    for reason, searched in (("date", text), ("range", behind)):
        if PATTERNS[reason].search(searched):
            return Stated(None, reason)
    number = _compute(match) if match else None
    unit = text[match.end() :].strip(" .,;:!)]\"'") if match else text
    factor = find_factor(unit, target) if number is not None else "no_number"
    if number is None or isinstance(factor, str):
        # a second number is no unit: 5, 6    5 mg or 6 mg
        is_second = re.search(r"\d" if match else r"\d\D+\d", unit)
        return Stated(None, "several" if is_second else str(factor))
    stated = factor[0] * number + factor[1]
    # a limit itself is within, though it was converted
    edges = any(math.isclose(stated, limit, rel_tol=1e-9) for limit in target[1:3])
    if target.lower <= stated <= target.upper or edges:
        return Stated(f"{target.value:.6g}", "correct")
    return Stated(f"{stated:.6g}", "wrong")


def _write_plainly(body: str) -> str:
    """Write an answer in ASCII digits and signs, without what announces it; powers as ^3."""
    body = PATTERNS["thin_space"].sub("", body)
    # before NFKC makes 10³ into 103 and 1½ into 11/2
    normalised = partial(unicodedata.normalize, "NFKC")
    body = PATTERNS["superscript"].sub(lambda found: "^" + normalised(found[0]), body)
    body = PATTERNS["vulgar"].sub(lambda found: " " + normalised(found[0]), body)
    # before markup is dropped, in which * is emphasis
    body = PATTERNS["times"].sub("x", PATTERNS["stars"].sub("^", body))
    text = normalise(normalised(body).translate(SIGNS)).lstrip(" \"'([")
    text = PATTERNS["about"].sub("", ANNOUNCED.sub("", text))
    return PATTERNS["minus"].sub("-", text).rstrip(" .,;:!\"')]")


def _compute(match: re.Match[str]) -> float | None:
    """Compute the number of a match; None for an absurd power, a fraction by 0, and 8/1, a date."""
    digits, power = match["digits"] or "1", match["power"] or match["ten"] or "0"
    if not match[0].isascii() or abs(int(power)) > 300:
        return None
    if match["bottom"]:
        if int(match["bottom"]) < 2:
            return None
        number = int(match["whole"] or 0) + Fraction(int(match["top"]), int(match["bottom"]))
    elif match["comma"]:  # a comma that parts no thousands is a decimal comma
        number = Fraction(digits.replace(".", "").replace(",", "."))
    else:
        number = Fraction(digits.replace(",", "").removesuffix("."))
    sign = -1 if match["sign"] == "-" else 1
    return float(sign * number) * 10.0 ** int(power)


def find_factor(unit: str, target: Target) -> tuple[float, float] | str:
    """Find what turns a number in `unit` into the target's: times the first, plus the second.

    Returns `unknown_unit` or `wrong_unit` where there is none.
    """
    if not unit or unit == target.unit:
        return 1.0, 0.0
    names, degrees = (_tidy(unit), _tidy(target.unit)), TABLE["temperatures"]
    if names[0] in degrees and names[1] in degrees:  # they have zeros of their own
        (scale, zero), (other, origin) = degrees[names[0]], degrees[names[1]]
        return scale / other, (zero - origin) / other
    # first as they are: mg/dL to g/L needs no substance
    for substance in ("", target.substance or ""):
        stated, wanted = (parse_unit(name, substance) for name in names)
        if stated is None or wanted is None:
            return "unknown_unit"
        if stated[0] == wanted[0]:
            return stated[1] / wanted[1], 0.0
    return "wrong_unit"


@lru_cache(maxsize=4096)
def parse_unit(text: str, substance: str) -> tuple[list[str], float] | None:
    """Parse a tidy unit into its quantities, those under the line with -, and its factor.

    Mass and equivalents of a substance of the table become moles.
    """
    quantities, scale, moles = list[str](), 1.0, TABLE["substances"].get(substance, {})
    for place, part in enumerate(text.split("/")):
        forms = (part, part.lower(), part.removesuffix("s"), part.lower().removesuffix("s"))
        known = next((form for form in forms if form in UNITS), None)
        if known is None:
            return None
        quantity, factor = UNITS[known]
        if quantity in moles and place == 0:
            quantity, factor = "moles", factor / moles[quantity]
        if quantity != "number":
            quantities.append(f"-{quantity}" if place else quantity)
        scale *= 1 / factor if place else factor
    return sorted(quantities), scale


def _tidy(unit: str) -> str:
    """Write a unit without blanks: mL per min per 1.73 m² → mL/min/1.73m2."""
    unit = unicodedata.normalize("NFKC", unit).replace("^", "").replace("μ", "u")
    unit = re.sub(r"\s|(?<=[a-z])\.", "", re.sub(r"\s?\bper\b\s?", "/", unit))
    return str(TABLE["aliases"].get(unit, TABLE["aliases"].get(unit.lower(), unit)))

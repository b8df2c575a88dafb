"""Read one choice letter out of a whole response, leniently: the last clear statement anywhere. For evaluation only.

Linear time: every regex here is either anchored or repeats only bounded parts.
"""

import re
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from reward_server.tags import INVISIBLE, TAG, drop_special_tokens

ANSWER_OPEN = "<answer>"
BLANK = [
    chr(code) for code in [*range(0x10000), *range(0xE0000, 0xE0200)] if INVISIBLE.match(chr(code))
]

MAX_OPTIONS = 26


class Choice(NamedTuple):
    """letter: within the options, or None. reason: one of CHOICE_REASONS, `stated` or why there is no letter."""

    letter: str | None
    reason: str


CHOICE_REASONS = ("stated", "no_choice", "ambiguous", "denied", "out_of_range")

NO_CHOICE, AMBIGUOUS, DENIED, OUT_OF_RANGE = (Choice(None, reason) for reason in CHOICE_REASONS[1:])
_STATED = {chr(65 + i): (i, Choice(chr(65 + i), "stated")) for i in range(MAX_OPTIONS)}
MAX_BODY = 4000
"""Characters. A longer body is prose and no choice; this also bounds the time that one body can take."""

# "C. difficile" is a bacterium, not option C: what follows a genus' initial in medical text.
_SPECIES = re.compile(
    r"\. ?(?:[Cc]oli|[Dd]ifficile|abortus|acnes|aeruginosa|agalactiae|albicans|anthracis|aureus|avium|"
    r"bacilliformis|baumannii|"
    r"botulinum|bovis|burgdorferi|burnetii|canis|catarrhalis|cereus|cholerae|denticola|"
    r"dermatitidis|diff|diphtheriae|ducreyi|duodenale|enterica|enterocolitica|epidermidis|"
    r"faecalis|faecium|falciparum|flavus|flexneri|fragilis|freundii|fumigatus|gattii|gingivalis|"
    r"glabrata|gondii|gonorrhoeae|granulosus|haemolyticum|henselae|histolytica|hominis|immitis|"
    r"influenzae|jeikeium|jejuni|jirovecii|kansasii|knowlesi|krusei|lamblia|leprae|lumbricoides|"
    r"malariae|maltophilia|marneffei|melitensis|meningitidis|mirabilis|mutans|neoformans|niger|nucleatum|"
    r"ovale|pallidum|parapsilosis|parvum|perfringens|pertussis|pestis|pneumoniae|prowazekii|psittaci|"
    r"pylori|pyogenes|quintana|rickettsii|saprophyticus|schenckii|solium|sonnei|species|spp|stercoralis|"
    r"suis|tetani|trachomatis|trichiura|tuberculosis|tularensis|typhi|typhimurium|ulcerans|vaginalis|"
    r"vermicularis|vivax|vulnificus)\b"
)

_TO_ASCII = {0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)}  # full-width forms
_TO_ASCII |= dict(zip(map(ord, "。、【】「」“”‘’\u00a0\u3000"), ".,[][]\"\"''  ", strict=True))
_TO_ASCII |= {
    ord(char): "" for char in BLANK if not char.isspace()
}  # invisible: what a reader does not see

_LATEX = re.compile(
    r"\\(?:boxed|fbox|mbox|text|textbf|textrm|textit|mathrm|mathbf|mathsf|bf|rm)\b ?"
)
_EMPHASIS = re.compile(r"(\*{1,3}|_{1,3}|`|\$)([A-Za-z])\1(?!\w)")

# What announces an answer. Spaces are single here (see _normalise).
_CUE = r"""(?:(?:so|thus|therefore|hence),?\ )?(?:
    (?:i(?:'d|'ll|\ would|\ will)?\ )?(?:choose|pick|select|say|go\ with)(?:\ the)?
    (?:\ (?:answer|option|choice|letter))?
  | (?:it|this|that)(?:'s|\ (?:is|was|must\ be|should\ be|would\ be))
  | (?:(?:the|my)\ )?(?:(?:single|one|most|correct|best|final|right|likely|appropriate)\ ){0,4}
    (?:answer|option|choice|letter)(?:\ (?:answer|option|choice|letter))?
    (?:\ (?:here|to\ this\ question))?(?:\ (?:is|was|would\ be|should\ be|must\ be))?
  | 答案(?:是|为|选)? | (?:应|故)?选(?:择|项)?
)(?P<deny>n't|\ not|\ never|\ neither)?\ ?[:=]?[\ \n]?(?:(?:clearly|definitely|therefore|thus|most\ likely)\ )?
(?:(?:option|choice|answer|letter):?\ ?)?"""
_LETTER = (
    r"""(?P<open>[(\[{]{0,3})["']?(?P<letter>[A-Za-z])(?!\w|'\w|\+)["']?(?P<close>[)\]}]{0,3})"""
)
_START = re.compile(rf"(?P<cue>(?i:{_CUE}))?{_LETTER}", re.VERBOSE)
# The same, anywhere in running text: only what announces *the* answer, not "option B would be ..." in a discussion.
_ANNOUNCED = re.compile(
    rf"""(?i:\b(?:answer|option|choice)(?:\ (?:is|would\ be|must\ be|should\ be)(?P<deny>n't|\ not)?\ ?:?|\ ?[:=])\ ?
    (?:(?:clearly|definitely|therefore|thus|most\ likely)\ )?(?:(?:option|choice|letter)\ )?
    | \b(?:choose|pick|select|go\ with)\ (?:(?:answer|option|choice|letter)\ )? | 答案(?:是|为|选)?\ ?:?\ ?)
    {_LETTER}""",
    re.VERBOSE,
)
_VERDICT = re.compile(
    r"(?<![\w-])(?:(?i:option|choice|answer)\ )?(?P<open>[(\[{]?)(?P<letter>[A-Z])(?P<close>[)\]}]?)"
    r"\ is\ (?:(?:clearly|definitely|therefore|thus)\ )?(?:the\ )?(?:most\ )?(?:correct|right|best|answer)\b",
    re.VERBOSE,
)
_BOXED = re.compile(
    r"\\boxed ?\{ ?(?:\\text(?:bf|rm)? ?\{)?(?P<open>\(?)(?P<letter>[A-Za-z])(?P<close>\)?)\}"
)

# After a letter.
_ENDS = re.compile(r"[ .:;,!)\]}\"'\n]*\Z")
_LABEL_ENDS = re.compile(r"[):]|\.(?=[ \n]|[A-Z][a-z]{2})| [-–] |\ ?—|\n")
_CONTINUES = re.compile(
    r"(?i:[,.]? ?\(|,? (?:because|since|due to|as it|as the|given|based on)\b"
    r"| is (?:(?:clearly|definitely|therefore|thus) )?(?:the )?(?:most )?(?:correct|right|best|answer)\b)"
)
_DENIED_AFTER = re.compile(
    r"(?i:,? ?(?:is|was|can|could)(?:n't|not| not) (?:be )?(?:the |an? )?(?:correct|right|best|answer|option|choice)\b"
    r"|,? ?(?:is|was|can be) (?:incorrect|wrong|false|excluded|ruled out)\b"
    r"|[.:]? \(?(?:incorrect|wrong|false|excluded)\)?\.?\Z)"
)
_HEDGED_AFTER = re.compile(
    r"[.)\]}\"']{0,3}(?:\?|,? ?(?:(?i:or)\b|/)"
    r"|,? ?(?:(?i:and|vs\.?|versus|to|not|but not)\b|[,&+;–-]) ?"
    r"(?:(?i:option|choice) )?[(\[{]?(?P<second>[A-Z])(?![\w'-]|[.] ?[a-z])"
    r"|[ \n]?[(\[{]?(?P<last>[A-Z])[)\]}.]{0,2}\Z)"
)
# Before a letter, within a few words: "not C", "rule out option C", "either C".
_DENIAL = (
    r"(?i:(?:\bnot|n't|\bnever|\bneither|\bnor|\bcannot|\bexcept|\bexclud(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out"
    r"|\b(?:anything|all|none|other|rather|instead|everything) (?:but|of|than|except))"
    r"(?: (?:for|the|be|is|it|an?|correct|best|right|answer|option|choice|letter|necessarily|likely)){0,4}"
    r":? ?[(\[{\"']{0,2})"
)
_HEDGE = (
    r"(?i:\b(?:either|maybe|perhaps|possibly|might be|may be|could be|between|unsure|not sure|guess)\b"
    r"(?:,| (?:it|is|the|answer|option|choice|letter)){0,4} ?[(\[{\"']{0,2})"
)
_DENIED_BEFORE, _HEDGED_BEFORE = re.compile(_DENIAL + r"\Z"), re.compile(_HEDGE + r"\Z")
_BARE = r"(?<![\w-])[(\[{]?[A-Z](?![\w'-])"
_DENIED_BARE, _HEDGED_BARE, _BARE_LETTER = (
    re.compile(_DENIAL + _BARE),
    re.compile(_HEDGE + _BARE),
    re.compile(_BARE),
)
# A further letter that the text after a label names as a choice.
_FURTHER = re.compile(
    r"(?:^|[ ,;])(?:[(\[{](?P<in>[A-Z])[)\]}]|(?i:options?|choices?|answer(?: is)?):? (?P<cue>[A-Z])(?![\w'-])"
    r"|(?i:or\b|;|/) ?(?P<or>[A-Z])(?=[.):]|\Z)|(?P<mid>[A-Z])[.):] (?=[A-Z]))|^(?P<line>[A-Z])(?=[.):]|$)",
    re.MULTILINE,
)
_NAMED = re.compile(
    r"(?i:vitamin|hepatitis|h[ae]*mophilia|influenza|type|group|protein|factor|class|stage|grade|lamina|rho?|chain"
    r"|immunoglobulin|complex|toxin|cyclosporine?|amphotericin|polymyxin|penicillin|cluster|criteria|country|state"
    r"|product|donor|patient|drug|gene|chromosome|subtype|syndrome|antigen|receptor)s? ?[(\[{]?\Z"
)
_WINDOW = 48  # characters looked back over for a denial or a hedge


def read_choice(body: str, num_options: int) -> Choice:
    """The one choice that `body`, as a whole, states: `C`, `(C)`, `C.`, `C) text`, `Option C`, `The answer is C`, ...

    body: the text inside `<answer>`, or a whole direct answer. num_options: 2 to 26.
    Two different letters are `ambiguous`, and so is a hedge ("C or ..."); "not C" is `denied`; a letter beyond the
    options is `out_of_range`; anything else, prose and run-together letters among it, is `no_choice`.
    """
    return _recall(body, num_options) if len(body) <= 200 else _read_whole(body, num_options)


def _read_whole(body: str, num_options: int) -> Choice:
    if len(body) > MAX_BODY and len(body.strip()) > MAX_BODY:
        return NO_CHOICE
    text = _normalise(body)
    match = _START.match(text)
    if match and (reading := _read_start(text, match, num_options)) is not NO_CHOICE:
        return reading
    return _read_announced(text, num_options)


# Answers repeat: a letter, or the line of one of the options. At most 4096 times 200 characters are kept.
_recall = lru_cache(maxsize=4096)(_read_whole)


def lenient_choice(response: str, num_options: int) -> str | None:
    """The last choice that `response` clearly states anywhere, in any format or none; None where there is none.

    Statements are: the body of an `<answer>`, closed or not; "the answer is C", "I choose C", "C is correct",
    `\\boxed{C}`; a last line that is a letter alone; or, where there is none of these, the whole response read as one
    choice. Where the last statement is ambiguous, denied or out of range, so is the response: None, never a guess.
    """
    parts = TAG.split(drop_special_tokens(response))
    readings = []
    for tag, part in zip(["", *parts[1::2]], parts[0::2], strict=True):
        if tag == ANSWER_OPEN and (reading := read_choice(part, num_options)) is not NO_CHOICE:
            readings.append(reading)
        else:
            readings.extend(
                reading for _, reading in _find_statements(_normalise(part), num_options)
            )
    if not readings:
        readings.append(read_choice(" \n".join(parts[0::2]), num_options))
    return readings[-1].letter


def _normalise(text: str) -> str:
    """`text` as a reader sees it: ASCII forms, no markup, no invisible characters, single spaces, no blank lines."""
    if not text.isascii() or not text.isprintable():
        text = text.translate(_TO_ASCII)
    if "\\" in text:
        text = _BOXED.sub(r"answer: (\g<letter>)", text)
        text = _LATEX.sub("", text).replace("\\", "")
    if "*" in text or "_" in text or "`" in text or "$" in text:
        text = (
            _EMPHASIS.sub(r"(\2)", text)
            .replace("*", "")
            .replace("`", "")
            .replace("$", "")
            .strip("_ ")
        )
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _in_range(letter: str, num_options: int) -> Choice:
    index, choice = _STATED[letter.upper()]
    return choice if index < num_options else OUT_OF_RANGE


def _read_start(text: str, match: re.Match[str], num_options: int) -> Choice:
    """Judge `text`, which begins with a letter, perhaps announced: what follows decides whether that is a choice."""
    letter, rest = match["letter"], text[match.end() :]
    bracketed = bool(match["open"] and match["close"])
    labels = bracketed or (match["close"] or "")[:1] in {")", "]"} or _LABEL_ENDS.match(rest)
    if match["deny"] or _DENIED_AFTER.match(rest):
        return DENIED
    if _ENDS.match(rest):
        return _in_range(letter, num_options)
    if not bracketed and _SPECIES.match(rest):
        return NO_CHOICE
    if letter.islower() and not (bracketed or match["close"] or rest[0] == ")"):
        return NO_CHOICE
    if hedge := _HEDGED_AFTER.match(rest):
        return _in_range(letter, num_options) if hedge["last"] == letter else AMBIGUOUS
    if not (labels or _CONTINUES.match(rest) or (match["cue"] and rest[0] in ",;")):
        return NO_CHOICE
    return AMBIGUOUS if _names_another(rest, letter.upper()) else _in_range(letter, num_options)


def _names_another(rest: str, letter: str) -> bool:
    """Whether the text after a label names a letter other than `letter` as a choice ("C. Metformin or D. Insulin")."""
    for match in _FURTHER.finditer(rest):
        start = match.start(match.lastgroup or 0)
        if rest[start] == letter or _SPECIES.match(rest, start + 1):
            continue
        if not _NAMED.search(rest, max(0, start - 20), start):
            return True
    return False


def _read_announced(text: str, num_options: int) -> Choice:
    """Judge `text` that does not begin with a choice: one announced further on, a denial, a hedge, or none."""
    readings = {reading for _, reading in _find_statements(text, num_options)}
    if len(readings) > 1:
        return AMBIGUOUS
    if readings:
        return readings.pop()
    if _DENIED_BARE.search(text):
        return DENIED
    hedged = any(_HEDGED_AFTER.match(text, match.end()) for match in _BARE_LETTER.finditer(text))
    return AMBIGUOUS if hedged or _HEDGED_BARE.search(text) else NO_CHOICE


def _find_statements(text: str, num_options: int) -> list[tuple[int, Choice]]:
    """Every place of normalised `text` that announces a choice, in order, with its reading."""
    found = []
    for match in chain(_ANNOUNCED.finditer(text), _VERDICT.finditer(text)):
        reading = _read_statement(text, match, num_options)
        if reading is not NO_CHOICE:
            found.append((match.start(), reading))
    last_line = text[text.rfind("\n") + 1 :]
    alone = _START.match(last_line)
    if (
        alone
        and not alone["cue"]
        and alone["letter"].isupper()
        and _ENDS.match(last_line, alone.end())
    ):
        found.append((len(text), _in_range(alone["letter"], num_options)))
    return sorted(found, key=lambda item: item[0])


def _read_statement(text: str, match: re.Match[str], num_options: int) -> Choice:
    """Judge an announcement in running text by the few words around it; NO_CHOICE where it announces no letter."""
    letter, bracketed = match["letter"], bool(match["open"] and match["close"])
    before, after = (
        text[max(0, match.start() - _WINDOW) : match.start()],
        text[match.end() : match.end() + _WINDOW],
    )
    if _NAMED.search(before) or (letter.islower() and not bracketed):
        return NO_CHOICE
    if not bracketed and _SPECIES.match(after):
        return NO_CHOICE
    if match.groupdict().get("deny") or _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after):
        return DENIED
    if _HEDGED_BEFORE.search(before) or _HEDGED_AFTER.match(after):
        return AMBIGUOUS
    follows = (
        not after
        or after[0] in ".,;:!)]}\"'\n"
        or _LABEL_ENDS.match(after)
        or _CONTINUES.match(after)
    )
    ends = bracketed or follows or match.re is _VERDICT
    return _in_range(letter, num_options) if ends else NO_CHOICE

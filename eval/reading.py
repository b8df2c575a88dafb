"""Lenient reading: find a response's choice as a careful reader who knows the options would.

`lenient_choice` takes these steps:

1. cut_runaway       drop what follows where the model makes up a question or a turn
2. normalise         drop markup; full-width forms become ASCII
3. mark_mentions     replace each mention of an option (`(C)`, `option C`) by a private character
4. judge_mentions    judge the words around each: announced, denied, hedged, conditional?
5. settle            take the last announced answer; where there is none, weaker statements in turn

The patterns are in reading.yaml, each with a name and examples. Nothing is guessed. Only bounded
windows around mentions are read, so time is linear in the length.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.files import read_mapping

SURE, BARE, OUTSIDE = 0xE000, 0xE040, 0x1F
"""Private characters: SURE + 2 is `(C)`, `option C`, `C. Metformin`; BARE + 2 is a `C` alone;
OUTSIDE instead of the 2 is a letter that no option has."""
ANNOUNCED, CONCLUDED, OPENING, CLOSING = 4, 3, 2, 1
"""Strengths of a statement: "the answer is C"; "the best step is C", "hence C"; "C. Metformin" at
the start; a last sentence that names one option."""
LEAD, NEAR = 240, 120
"""Characters that are looked at before and after a mention."""
LONGEST, MOST = 100_000, 1_000
"""Characters of a stretch that are read, from its end, and turns looked at: more is a loop."""


class Statement(NamedTuple):
    """A place that states a choice. number: None if two are named or it is taken back."""

    level: int
    number: int | None
    place: int


def compile_patterns(content: dict[str, Any]) -> dict[str, re.Pattern[str]]:
    """Compile the table of reading.yaml."""
    shared, patterns = content.pop("shared"), {}
    for name, entry in content.items():
        text = f"{entry.get('begin', '')}(?:{'|'.join(entry['any'])}){entry.get('end', '')}"
        for key, value in shared.items():
            text = text.replace(f"@{key}@", value)
        flags = re.M if entry.get("case") else re.M | re.I
        patterns[name] = re.compile(text.replace("\n", ""), flags)
    return patterns


PATTERNS = compile_patterns(read_mapping(Path(__file__).with_suffix(".yaml")))
MARK = re.compile("[\ue000-\ue01f\ue040-\ue05f]")


def finds(name: str, text: str) -> bool:
    """Find out if the pattern occurs in `text`."""
    return PATTERNS[name].search(text) is not None


def begins(name: str, text: str, place: int = 0) -> bool:
    """Find out if `text` begins with the pattern at `place`."""
    return PATTERNS[name].match(text, place) is not None


def lenient_choice(text: str, options: Sequence[str]) -> str | None:
    """Read the choice that a response clearly states, in any format; None where there is none.

    options: their texts ("" where one is not known).
    """
    thought, _, rest = cut_runaway(text, options).rpartition("</think>")
    statement = read_stretch(rest, options)
    if statement is None and thought and "<answer>" not in rest:
        # Nothing after the reasoning: an answer that the reasoning announces counts too.
        marked = mark_mentions(normalise(thought[-LONGEST:]), options)
        statement = settle([s for s in judge_mentions(marked) if s.level == ANNOUNCED], marked)
    number = statement.number if statement else None
    return None if number is None or number >= len(options) else chr(65 + number)


def read_stretch(text: str, options: Sequence[str]) -> Statement | None:
    """Read text without another speaker's turn: steps 2 to 5."""
    marked = mark_mentions(normalise(text[-LONGEST:]), options)
    return (
        settle(judge_mentions(marked), marked)
        or read_opening(marked)
        or read_closing(marked)
        or read_text(marked, options)
    )


def cut_runaway(text: str, options: Sequence[str] = ()) -> str:
    """Cut `text` where the model makes up a question or a turn after its first answer.

    Another speaker's turn (`User:`) ends a response before an answer too, but not inside an open
    `<think>`. options: with them an option's text alone is an answer.
    """
    places = sorted(
        (match.start(), name == "turn")
        for name in ("turn", "question", "assistant")
        for match in PATTERNS[name].finditer(text)
    )
    thinking, start = False, 0
    for place, is_turn in places[:MOST]:
        stretch = text[start:place]
        if start == 0 and not PATTERNS["special"].sub("", stretch).strip():
            continue  # a response may begin by repeating the prompt
        if "think>" in stretch:
            thinking = stretch.rfind("<think>") > stretch.rfind("</think>")
        # Each stretch is read once, so that the time stays linear.
        if (is_turn and not thinking) or read_stretch(stretch, options or [""] * 26):
            return text[:place]
        start = place
    return text


TO_ASCII = {0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)}  # full-width forms
TO_ASCII |= {ord("。"): ". "} | dict(zip(map(ord, "、【】‘’\u00a0\u3000"), ",[]''  ", strict=True))
TO_ASCII |= dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\ufe0f“”「」«»"), "")


def normalise(text: str) -> str:
    """Rewrite `text` as a reader sees it: ASCII forms, no markup, single spaces, no blank lines."""
    text = text.replace("<answer>", "\nanswer: ").replace("</answer>", "\n")
    text = text.replace("<think>", "\n").replace("</think>", "\n")
    text = PATTERNS["special"].sub("\n", text).translate(TO_ASCII)
    text = PATTERNS["emphasis"].sub(r"(\2)", text)
    text = PATTERNS["latex"].sub(" ", PATTERNS["box"].sub(" answer: ", text))
    lines = PATTERNS["markup"].sub("", text).splitlines()
    text = "\n".join(" ".join(line.split()) for line in lines if line.strip())
    return PATTERNS["heading"].sub("answer:", text)


def clean_option(option: str) -> str:
    """Rewrite an option's text so that it can be compared."""
    return normalise(option).casefold().rstrip(".,;: ")


def mark_mentions(text: str, options: Sequence[str]) -> str:
    """Replace each mention of an option (and its text) in normalised `text` by one character."""
    texts = [clean_option(option) for option in options]
    text = PATTERNS["lower"].sub(lambda match: match[0][:-1] + match[1].upper(), text)
    matches = [*PATTERNS["label"].finditer(text), *PATTERNS["slot"].finditer(text)]
    parts: list[str] = []
    end = 0
    for match in sorted(matches, key=re.Match.start):
        start, after = match.span()
        if start < end:
            continue  # inside the text of an option before
        if match.re is PATTERNS["slot"]:
            start = after
            number, after = find_option(text, start, texts)
            if number < 0 or not begins("slot_end", text, after):
                continue
            sure = True
        else:
            number = ord((match["in"] or match["bare"]).upper()) - 65
            number = number if number < len(texts) else OUTSIDE
            # the separator may be empty: it always matches
            parted = PATTERNS["separator"].match(text, after)[0]  # type: ignore[index]
            stated, skip = find_option(text, after + len(parted), texts)
            sure = bool(match["in"] or match["named"] or match["tail"] or skip)
            if not sure and not is_mention(text, match):
                continue
            # the option's text may be before its letter too: "metformin (C)"
            close = text[max(end, start - LEAD) : start]
            shut = close.casefold().rstrip() if match["in"] else ""
            named = [one for one in texts if len(one) > 1 and f" {shut}".endswith(f" {one}")]
            if named := [max(named, key=len)] if named else []:
                start = max(end, start - len(close) + len(shut) - len(named[0]))
            if skip and "\n" not in parted and begins("slot_end", text, skip):
                named.append(texts[stated])
            if not set(named) <= set(texts[number : number + 1]):
                number = OUTSIDE  # "C. Insulin" where insulin is B: two answers in one
            # "The answer is C. Metformin is safe": the text begins the next sentence.
            announced = finds("copula", text[max(0, start - 40) : start])
            apart = "\n" in parted or ("." in parted and announced)
            if not (apart and begins("goes_on", text, skip)):
                after = skip or after
        parts += [text[end:start], chr((SURE if sure else BARE) + number)]
        end = after
    return "".join([*parts, text[end:]])


def find_option(text: str, place: int, texts: Sequence[str]) -> tuple[int, int]:
    """Find the longest option text that begins at `place`: its number and end; (-1, 0) if none."""
    found = (-1, 0)
    for number, option in enumerate(texts):
        end = place + len(option)
        if end <= found[1] or text[place:end].casefold() != option:
            continue
        known = len(option) > 1 or option.isdigit()  # a letter may be a label
        if known and not re.match(r"[A-Za-z]|[.,/]?[0-9]", text[end : end + 2]):  # not 1 of 1.5
            found = (number, end)
    return found


def is_mention(text: str, match: re.Match[str]) -> bool:
    """Distinguish a bare letter that names an option from an article or `C. difficile`."""
    before = text[max(0, match.start() - 30) : match.start()]
    after = text[match.end() : match.end() + 20]
    if finds("name", before) or begins("species", after):
        return False
    if begins("word", after):
        return begins("follows_i" if match["bare"] == "I" else "follows", after)
    return not begins("capital", after) or finds("copula", before)


def judge_mentions(text: str) -> list[Statement]:
    """Judge each mention in marked `text` by the words around it; list the statements in order."""
    marks = list(MARK.finditer(text))
    betweens = MARK.split(text)  # betweens[i] is before mention i, betweens[i + 1] after it
    numbers = [ord(mark[0]) & 0x1F for mark in marks]
    together = [False] * (len(marks) + 1)  # together[i]: mentions i - 1 and i are stated together
    for i in range(1, len(marks)):
        after = betweens[i + 1][:NEAR]
        together[i] = numbers[i - 1] != numbers[i] and is_joined(betweens[i][:NEAR], after)

    statements: list[Statement] = []
    carried, case = 0, ""  # "not A but C": the level of A; the words before the last statement
    for i, mark in enumerate(marks):
        place, number, after = mark.start(), numbers[i], betweens[i + 1][:NEAR]
        lead = PATTERNS["sentence"].split(text[max(0, place - LEAD) : place])[-1]
        level, denied = find_level(lead, after)
        level, carried = level or carried, 0
        last = statements[-1] if statements else None
        if not level or is_no_choice(lead, after):
            continue
        if denied:
            carried = level if begins("instead", after) else 0
            # A denial takes back its own letter only.
            if not last or last.number != number:
                continue
        twice = False
        if last and number != last.number:
            between = text[max(last.place, place - LEAD) : place]
            # "For pain, the answer is A. For fever, the answer is C."
            twice = finds("elsewhere", lead) and finds("elsewhere", case)
            again = begins("echo", betweens[i][:LEAD]) or finds("elsewhere", lead)
            if last.number is not None and again and not twice:
                continue
            # "A is the right answer for pain, C is the right answer for fever"
            if level == last.level == ANNOUNCED:
                twice = twice or not (finds("sentence", between) or finds("turns", between))
        case = lead
        clear = not (denied or twice or together[i] or together[i + 1] or number == OUTSIDE)
        statements.append(Statement(level, number if clear else None, place))
    return statements


def is_joined(between: str, after: str) -> bool:
    """Distinguish two joined mentions (`C or A`) from a later remark (`C, and A is wrong`)."""
    if begins("paired_back", between):
        return True
    if begins("paired", between):
        return begins("case_of", after)
    match = PATTERNS["joined"].match(between)
    if not match or (match["by"] in "和与及,;|" and match["by"] and match["gap"].strip(" ).:")):
        return False
    if "." in match["gap"] and not after.startswith((".", ")", ":")):
        return False  # "C. It beats placebo or B": the second is no label
    return "or" in match["by"] or "或" in match["by"] or not begins("verb", after)


def find_level(lead: str, after: str) -> tuple[int, bool]:
    """Find how strongly the words around a mention state it (0: not), and if they deny it."""
    gap = MARK.split(lead)[-1]  # since the mention before, in the same sentence
    if begins("denied", after):  # "C is wrong"
        return ANNOUNCED, True
    if finds("excepted", gap) and begins("end", after):  # "all are true except C"
        return CONCLUDED, False
    if copula := PATTERNS["copula"].search(gap):  # "the answer is C", "it cannot be C"
        modal = PATTERNS["modal"].search(gap[: copula.start()])
        if finds("denies", (modal[0] if modal else "") + copula[0]):
            return ANNOUNCED, True
        if modal or finds("hedges", copula["tail"]):
            return 0, False
        if not finds("other", gap) and (finds("answer", gap) or finds("best", gap)):
            return (ANNOUNCED if finds("answer", gap) else CONCLUDED), False
    if chosen := PATTERNS["chosen"].search(gap):  # "I would pick C"
        denied = finds("denies", gap[max(0, chosen.start() - 12) :].rpartition(",")[2])
        return 0 if finds("hedges", chosen["tail"]) else ANNOUNCED, denied
    concluded = finds("concluded", gap) and begins("end", after) and not finds("denies", gap)
    if concluded or begins("checked", after):  # "hence C", "C ✅"
        return CONCLUDED, False
    if verdict := PATTERNS["verdict"].match(after):  # "C is correct", weaker: "C is likely"
        return (CONCLUDED if verdict["weak"] else ANNOUNCED), False
    return 0, False


def is_no_choice(lead: str, after: str) -> bool:
    """Recognise a condition, a question or another speaker's statement: not the model's own."""
    lead = PATTERNS["turns"].split(lead)[-1]  # "I was going to say C, but ... so the answer is"
    return (
        begins("asked", after)
        or begins("condition_after", after)
        or finds("condition", lead)
        or finds("discussed", lead)
    )


def settle(statements: list[Statement], text: str) -> Statement | None:
    """Take the last of the strongest statements in marked `text`, unless it is taken back later."""
    if not statements:
        return None
    last = max(statements, key=lambda statement: (statement.level, statement.place))
    rest = text[last.place + 1 :]
    if retracted := PATTERNS["retracted"].search(rest):
        later = [statement for statement in statements if statement.place > last.place]
        closing = read_closing(rest[retracted.end() :])
        return later[-1] if later else closing or last._replace(number=None)
    twice = last.level == CONCLUDED and finds("checked_twice", text)
    if twice or finds("unsure", text[last.place :]) or finds("also", text[last.place :]):
        return last._replace(number=None)
    return last


def read_opening(text: str) -> Statement | None:
    """Read marked `text` that begins with an option (`C`), not with a list of them."""
    first, second = [*text.split("\n", 2), ""][:2]
    listed = len(set(MARK.findall(text))) > 1 and begins("item", second)  # not C, again and again
    if not MARK.match(first) or listed or not begins("opened", first, 1):
        return None
    numbers = [ord(mark) & 0x1F for mark in MARK.findall(first)]
    betweens = MARK.split(first)[1:]
    listed = numbers[:2] == [0, 1]
    joined = len(numbers) > 1 and is_joined(betweens[0][:NEAR], betweens[1][:NEAR])
    clear = not (listed or joined or finds("also", text) or is_no_choice("", betweens[0]))
    return Statement(OPENING, numbers[0] if clear else None, 0)


def split_last(text: str) -> tuple[str, str]:
    """Split `text` before its last sentence, of which at most the last 600 characters are kept."""
    text = text.rstrip()
    ends = [m.end() for m in PATTERNS["sentence"].finditer(text, max(0, len(text) - 600))]
    start = max((end for end in ends if end < len(text)), default=max(0, len(text) - 600))
    return text[:start].rstrip(), text[start:].strip()


def read_closing(text: str) -> Statement | None:
    """Read the last sentence of marked `text` if it ends with the one option it names."""
    before, sentence = split_last(text)
    marks = list(MARK.finditer(sentence))
    if len({ord(mark[0]) & 0x1F for mark in marks}) != 1 or finds("closing_denied", sentence):
        return None
    last = marks[-1]
    gap, after = sentence[: last.start()], sentence[last.end() :]
    # The last of a list of options, or of numbered answers
    listed = not gap and (MARK.match(before.rpartition("\n")[2]) or finds("numbered", before))
    names = ["leads", "copula", "concluded", *(["states"] if ord(last[0]) < BARE else [])]
    leads = any(finds(name, gap) for name in names) and not finds("other", gap)
    if listed or not leads or not begins("end", after) or is_no_choice(gap, after):
        return None
    return Statement(CLOSING, ord(last[0]) & 0x1F, 0)


def read_text(text: str, options: Sequence[str]) -> Statement | None:
    """Read an option's text that ends the last sentence of marked `text`, or follows a copula."""
    texts = [clean_option(option) for option in options]
    sentence = split_last(text)[1].casefold().strip(" .!")
    if sentence and sentence in texts:
        return Statement(CLOSING, texts.index(sentence), 0)
    # A short text ("No", "5 mg") may be in any sentence by chance.
    named = [option for option in texts if len(option) > 5 and option in sentence]
    longest = max(named, key=len, default="")
    if not named or any(option not in longest for option in named) or MARK.search(sentence):
        return None
    before, _, after = sentence.rpartition(longest)
    whole = not (re.search(r"[\w.,/-]\Z", before) or after[:1].isalnum())
    alone = sum(option in text.casefold() for option in texts if len(option) > 5) == len(named)
    follows = begins("slot_end", after) and finds("copula", before)
    stated = follows or (
        finds("states", before) if not after else not before and alone and begins("verdict", after)
    )
    if not whole or not stated or finds("closing_denied", sentence):
        return None
    return Statement(CLOSING, texts.index(longest), 0)


MMLU_PRO_RULES = (re.compile(r"answer is \(?([A-J])"), re.compile(r"[aA]nswer:\s*([A-J])"))


def mmlu_pro_choice(text: str) -> tuple[str | None, int]:
    """Read a response by MMLU-Pro's own three rules: (letter, rule), or (None, 0) if none applies.

    The third is the last lone letter from A to J, an article too. Then the benchmark guesses at
    random; we do not.
    """
    for rule, pattern in enumerate(MMLU_PRO_RULES, start=1):
        if match := pattern.search(text):
            return match[1], rule
    letters = re.findall(r"\b[A-J]\b", text)
    return (letters[-1], 3) if letters else (None, 0)

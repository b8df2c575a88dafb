"""Flags: what a reader should know of a row that is kept.

absent_figure         the stem speaks of an image that is not there; tuned on MedQA, where about 1 row in 20 does
absent_text           the same for a summary, an abstract or a question "above"
duplicate_distractor  two wrong options have the same text (case is kept: `Aa` and `AA` are different options)
cyrillic              Cyrillic letters that were not mended
reward_tag            the text holds <think>, <answer> or their ends; the reward reads the response alone

`data.drop=[absent_figure,…]` drops such rows.
"""

import re

from data_prep.rows import Question

CYRILLIC = re.compile(r"[\u0400-\u052f]")
PICTURE = (
    r"(?:images?|figures?|fig\.|photographs?|photos?|photomicrographs?|micrographs?|pictures?|diagrams?|exhibits?|"
    r"graphs?|illustrations?|videos?)"
)
SCAN = r"(?:x-rays?|radiographs?|ecgs?|ekgs?|electrocardiograms?|tracings?|(?:ct )?scans?|mris?)"
SHOWN = r"(?:shown|depicted|presented|given|provided|displayed|illustrated|marked)"
SEEN = r"(?:see|seen|findings|pictured|labell?ed|indicated|refer to|based on|demonstrated|similar to that)"
THE = r"(?:in |on |by |from |as )*(?:the |an? |this |these )?(?:accompanying |attached |given |adjoining |above |below )*"
ABSENT_FIGURE = re.compile(
    rf"\b(?:{SHOWN} {THE}(?:following )?(?:{PICTURE}|{SCAN})"
    rf"|{SEEN} {THE}{PICTURE}"
    rf"|(?<!which of the )(?:following|accompanying|attached|adjoining) (?:{PICTURE}|{SCAN})"
    rf"|(?:{PICTURE}|{SCAN}|smear|biopsy|histology|rash) (?:[a-c] )?(?:(?:is|are) )?(?:[a-z]+ and )?"
    rf"(?:shown|given|provided|attached|depicted|displayed|below)(?! (?:to|that|no|an?|increased|decreased)\b)"
    rf"|figures? (?:\d|[a-c]\b)|(?:image|exhibit) [a-c]\b)(?! findings)",
    re.IGNORECASE,
)
ABSENT_TEXT = re.compile(
    r"\b(?:(?:summary|abstract|passage|advertisement|case|vignette) above|refer to the (?:summary|abstract|passage|"
    r"advertisement)|(?:above|drug|pharmaceutical) advertisement|(?:above|preceding|previous) "
    r"(?:case|passage|abstract|summary|vignette|scenario|question))\b",
    re.IGNORECASE,
)
# A quick look first: the full patterns are many times slower on a long stem.
FIGURE_HINTS = (
    *(
        "image",
        "fig",
        "photo",
        "picture",
        "diagram",
        "exhibit",
        "graph",
        "illustration",
        "video",
        "x-ray",
        "ecg",
        "ekg",
    ),
    *("electrocardiogram", "tracing", "scan", "mri", "smear", "biopsy", "histology", "rash"),
)
TEXT_HINTS = ("above", "refer to the", "advertisement", "preceding", "previous")
REWARD_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def find_flags(question: Question) -> list[str]:
    """The names of the flags that a cleaned question carries."""
    stem, lower = question.question, question.question.lower()
    whole = "\n".join([stem, *question.options])
    flags = {
        "absent_figure": any(hint in lower for hint in FIGURE_HINTS) and ABSENT_FIGURE.search(stem),
        "absent_text": any(hint in lower for hint in TEXT_HINTS) and ABSENT_TEXT.search(stem),
        "duplicate_distractor": len(set(question.options)) < len(question.options),
        "cyrillic": not whole.isascii() and CYRILLIC.search(whole),
        "reward_tag": "<" in whole and REWARD_TAG.search(whole),
    }
    return [name for name, found in flags.items() if found]

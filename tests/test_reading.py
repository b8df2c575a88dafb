"""Reading answers leniently: each pattern on its examples, made-up responses by kind, grammars, real outputs."""

import json
import random
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.modes import STOP, draw_examples, judge, render, split_mode
from eval.reading import MARK, PATTERNS, SURE, cut_runaway, lenient_choice, mmlu_pro_choice

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ROOT.parent / "shared" / "data" / "mmlu_pro_outputs" / "sample.jsonl"
DRUGS = ["Glipizide", "Insulin", "Metformin", "Pioglitazone"]
SIGNS = "The made-up signs fit a block of the small vessel.\n\n"

# What the model writes of its own accord after its answer is never read.
RUNS_ON = [
    (
        "<think>f</think><answer>C</answer>\nUser: And now?\nA. x\nB. y\n"
        "Assistant: <think>g</think><answer>A</answer>",
        "C",
    ),
    ("<think>f</think><answer>C</answer>Human: Another made-up case. The answer is A.", "C"),
    ("Answer: C\n\n### Question 2\nA made-up case.\nA. x\nB. y\nAnswer: B", "C"),
    ("It is the liver, so the answer is D.\n\nQ: And the next one?\nA: The answer is B.", "D"),
    ("The answer is (C).\n\nExample 2\nWhich drug?\n(A) x (B) y\nThe correct choice is (B).", "C"),
    ("C. Metformin\n\nQuestion: Next made-up case?\nA. x\nB. y\nAnswer: A. x", "C"),
    ("The answer is A.\n\nProblem: another made-up case?\nSolution: the answer is C.", "A"),
    ("The answer is C.\n\nUser:\nWhich?\nAssistant: B", "C"),
    ("Answer: C\n\n---\n\n**Question:** Another?\nAnswer: B", "C"),
    ("Answer: C\n\nQ2. What?\nA. x\nB. y\nThe answer is B", "C"),
    ("Answer: C<|im_end|>\n<|im_start|>user\nNo?<|im_end|>\n<|im_start|>assistant\nAnswer: B", "C"),
    ("Answer: C\n\n### Instruction:\nGo on.\n### Response:\nAnswer: B", "C"),
    ("Answer: C\n\n[INST] next [/INST] The answer is B", "C"),
    ("Answer: C\n\nHere is another question:\nWhy?\nAnswer: B", "C"),
    ("Answer: C\n\nWhich of these is a drug?\nA. x\nB. y\nC. z\nAnswer: B", "C"),
    ("答案是C。\n\n问题：下一个？\n答案：B", "C"),
    ("答案：C\n\n用户：下一个\n助手：答案是B", "C"),
    ("Hence, C.\n\n###\n\nA woman has a cough.\nAnswer: B", "C"),
    ("Metformin\n\nQuestion: why?\nAnswer: A", "C"),
    ("The answer is A or B.\n\nQuestion: why?\nAnswer: C", None),
    ("I do not know.\nUser: why?\nAssistant: The answer is C.", None),
    ("The answer is C. Let's summarize all the answers: 1. A 2. B. The answer is B.", "C"),
    # no question of its own
    ("<think>User: he asks\nUser: again</think><answer>C</answer>", "C"),
    ("Question: again\nA. Glipizide\nB. Insulin\nC. Metformin\n\nAnswer: C", "C"),
    ("### Answer\nC", "C"),
    (
        "### Step 1: signs\nA cough.\n### Step 2: causes\nMany.\n### Conclusion\nThe answer is C.",
        "C",
    ),
]
CLEAR = [
    (SIGNS + "So the best next step is C.", "C"),
    (SIGNS + "The most likely cause is B. Clot of the vein", "B"),
    (SIGNS + "The value nearest to 500 is (D).", "D"),
    (SIGNS + "The statement that is true is: B. The rate rises", "B"),
    (SIGNS + "The only true statement is (A).", "A"),
    (SIGNS + "That leaves (D) as what explains it best.", "D"),
    (SIGNS + "This makes option (B) the correct answer.", "B"),
    (SIGNS + "Hence (C).", "C"),
    (SIGNS + "Hence, D.", "D"),
    (SIGNS + "Final Answer:\nC. Give fluids", "C"),
    (SIGNS + "**Answer:**\n\nB. Watch and wait", "B"),
    (SIGNS + "### Answer\nC) Give fluids", "C"),
    (SIGNS + "## Final Response\n\n**B. Watch and wait**", "B"),
    ("\\boxed{ C }", "C"),
    ("Thus $\\boxed{ B }$.", "B"),
    ('{"answer": "C"}', "C"),
    ('```json\n{\n  "answer": "C",\n  "confidence": 0.9\n}\n```', "C"),
    ('{"final_answer": "C. Metformin"}', "C"),
    (SIGNS + "✅ C. Give fluids", "C"),
    (SIGNS + "- A ❌\n- B ❌\n- C ✅\n- D ❌", "C"),
    ("答案应该是C", "C"),
    ("选项B是正确的", "B"),
    ("综上所述，本题选择D选项。", "D"),
    ("C选项正确。", "C"),
    ("所以正确选项为C。", "C"),
    ("最终答案：**C**", "C"),
    (SIGNS + "Accordingly, (C) fits best.", "C"),
    (SIGNS + "This points to C.", "C"),
    (SIGNS + "The drug of choice is (C).", "C"),
    (SIGNS + "Answer = C", "C"),
    (SIGNS + "Metformin.", "C"),
    (SIGNS + "The best treatment is metformin.", "C"),
    ("The answer is metformin.", "C"),
    ("Metformin is the correct answer.", "C"),
    ("It has to be C.", "C"),
    ("The answer is not A but C.", "C"),
    ("The answer is A. Wait, no. It should be C.", "C"),
    ("Answer: A\nNo.\nAnswer: C", "C"),
    ("I first thought of A, but the answer is C.", "C"),
]
TWO_LETTERS = [
    "The answer is (C) Rods and (A) Cones.",
    "The answer is **B. Drug one** or **D. Drug two**.",
    "The answer is (D) for the first and (B) for the second.",
    "We end with a mix of (A), (C) and (D): (A) is the right answer for pain, "
    "(C) is the right answer for fever.",
    "If it is cold, then the answer is (A). If it is warm, then the answer is (B).",
    "Hmm. The answer is C. Metformin or A. Insulin.",
    "Well, the answer is (C) if thin, and (A) if not.",
    "Both fit. The answer is (C) Metformin and (A) Insulin.",
    "C (A is also possible)",
    "The answer is C. But A would also be right.",
    "Fine. The answer is C: Metformin. Alternatively A.",
    "Fine. Choose C, failing that A.",
    "Fine. The answer is C. It could also be option A.",
    "The answer is C/A.",
    "Both A and C are correct.",
    "Answer: C (or A)",
    "Answer: (A)(C)",
    "The answer is C as well as A.",
    "The answer is C, unless he is thin, then A.",
    "If thin, the answer is C; otherwise A.",
    "\\boxed{A, C}",
    "答案是A或C",
    "答案是A和C",
    "The correct options are A, B and C.",
    "A for pain, C for fever.",
    "C when thin, A when not.",
    "The answer is not C.",
    "It cannot be C.",
    "Is the answer C?",
    "The answer may be C.",
    "<answer>A or C</answer>",
]
DISCUSSED = [
    ("The answer is C. The other choice is A, which fails.", "C"),
    ("The answer is C.\n\nWhy not the others?\nA is wrong.\nB is wrong.\nD", "C"),
    ("<think>f</think><answer>C</answer>\n\nNote: the answer is not A.", "C"),
    ("Answer: B\n\nA weaker choice: D", "B"),
    ("The answer is C. The second best answer is A.", "C"),
    ("The answer is C. If he were thin, the answer would be A.", "C"),
    ("The answer is C. Some would say the answer is A.", "C"),
    ("The answer is C. A common wrong answer is A.", "C"),
    ("The answer is C, not A.", "C"),
    ("The answer is C.\nIncorrect: A, B, D", "C"),
    ("C. Metformin\n\nThe others:\nA. Glipizide\nB. Insulin\nD. Pioglitazone", "C"),
    ("The answer is C.\n\nFinal Answer: The answer is (A)", "C"),
]
NOTHING = [
    "A. Glipizide\nB. Insulin\nC. Metformin\nD. Pioglitazone",
    "The answer is C. difficile colitis.",
    "The answer is a drug.",
    "Vitamin C deficiency",
    "The answer is E.",
    "A 45-year-old man with type B symptoms",
    "The temperature is 98.6 °F",
    "",
]


def show(text: str) -> str:
    """Write a mention for reading.yaml's examples as it is when patterns see it: «C»."""
    return "".join(
        chr(SURE + ord(text[i + 1]) - 65) if char == "«" else char
        for i, char in enumerate(text)
        if char != "»" and (i == 0 or text[i - 1] != "«")
    )


def test_each_pattern_has_examples() -> None:
    content = yaml.safe_load((ROOT / "eval" / "reading.yaml").read_text(encoding="utf-8"))
    for name, entry in content.items():
        if name == "shared":
            continue
        assert entry["finds"], name
        for example in entry["finds"]:
            assert PATTERNS[name].search(show(example)), (name, example)
        for example in entry.get("leaves", []):
            assert not PATTERNS[name].match(show(example)), (name, example)


@pytest.mark.parametrize(("text", "letter"), RUNS_ON + CLEAR + DISCUSSED, ids=ascii)
def test_choice(text: str, letter: str | None) -> None:
    assert lenient_choice(text, DRUGS) == letter
    if "etformin" not in text:
        assert lenient_choice(text, [""] * 10) == letter, "letters need no texts"


def test_many_more_by_letter() -> None:
    table = yaml.safe_load((ROOT / "tests" / "reading.yaml").read_text(encoding="utf-8"))
    assert sum(map(len, table.values())) >= 450
    for letter, texts in table.items():
        for text in texts:
            assert (lenient_choice(text, DRUGS) or "none") == letter, text


@pytest.mark.parametrize("text", TWO_LETTERS + NOTHING, ids=ascii)
def test_no_choice(text: str) -> None:
    assert lenient_choice(text, DRUGS) is None


def test_names_and_pronouns_are_no_letters() -> None:
    ten = [f"option {number}" for number in range(10)]
    assert lenient_choice("I must be right here.", ten) is None
    assert lenient_choice("The answer is I, I must say.", ten) == "I"
    vitamins = ["Vitamin A", "Vitamin C", "Vitamin D"]
    assert lenient_choice("Vitamin C is the best choice.", vitamins) != "C"
    assert lenient_choice("The answer is vitamin C.", vitamins) == "B"
    assert lenient_choice("B. Vitamin C", vitamins) == "B"


VITAMINS = ["Vitamin A", "Vitamin B12", "Vitamin C", "Vitamin D"]
DOSES = ["5 mg", "50 mg", "0.5 mg", "500 mg"]
DIGITS = ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("C. Vitamin D", VITAMINS, None),
        ("Vitamin C (D)", VITAMINS, None),
        ("The answer is A. 50 mg", DOSES, None),
        ("The best dose is 1,500 mg.", DOSES, None),
        ("The answer is 1.5.", DIGITS, None),
        ("The answer is 1,500.", DIGITS, None),
        # the text begins the next sentence, or is the letter's own
        ("The answer is C. Insulin is slow.", DRUGS, "C"),
        ("Answer: C\nInsulin: slow.\nGlipizide: new.", DRUGS, "C"),
        ("The answer is metformin (C).", DRUGS, "C"),
        ("The answer is NSTEMI (B).", ["STEMI", "Non-ST-elevation infarction", "Angina"], "B"),
        ("Vitamin C (C)", VITAMINS, "C"),
        ("The answer is C. Twice", ["One", "Twice", "Twice", "Never"], "C"),
        ("The answer is 1.", DIGITS, "A"),
    ],
)
def test_a_letter_with_another_options_text_is_no_choice(
    text: str, options: list[str], letter: str | None
) -> None:
    assert lenient_choice(text, options) == letter


def test_cut_keeps_what_is_before() -> None:
    assert cut_runaway("Answer: C\n\nQuestion: x") == "Answer: C\n\n"
    assert cut_runaway("No answer.\n\nQuestion: x") == "No answer.\n\nQuestion: x"
    for text, _ in RUNS_ON + CLEAR:
        assert text.startswith(cut_runaway(text, DRUGS))


# ---- Grammars ----

WORDS = ["liver", "vessel", "fever", "dose", "nerve", "rash", "pump", "cell wall", "sugar", "bone"]
FORMS = [
    "{}",
    "({})",
    "**{}**",
    "option {}",
    "option ({})",
    "[{}]",
    "**({})**",
    "{}. {text}",
    "({}) {text}",
]
STATED = [
    "The answer is {}.",
    "The correct answer is {}.",
    "So the answer must be {}.",
    "Therefore, the best option is {}.",
    "Final answer: {}",
    "**Answer:** {}",
    "The most likely cause is {}.",
    "Hence, {}.",
    "I would choose {}.",
    "This makes {} the correct answer.",
    "The answer to this question is therefore {}.",
    "Final Answer:\n{}",
    "My answer: {}",
    "The correct choice would be {}.",
    "答案是{}。",
]
REMARKS = [
    "",
    " {o} is wrong.",
    "\n\nNote that {o} does not fit.",
    " The other choice is {o}, which fails.",
    "\n\nWhy not {o}? It is slow.",
    " If the {w} were gone, the answer would be {o}.",
    " {o} was ruled out by the {w}.",
    "\n\nExplanation: the {w} rules out {o}.",
    " Some would say the answer is {o}.",
]
HEDGED = [
    "The answer is {} or {o}.",
    "The answer is {} and {o}.",
    "The answer is either {} or {o}.",
    "Answer: {}, {o}",
    "Answer: {} / {o}",
    "Both {} and {o} are correct.",
    "The answer is {} if the {w} is hot, and {o} if not.",
    "If the {w} is hot, the answer is {}. If not, the answer is {o}.",
    "The answer is {} for the {w} and {o} for the rest.",
    "The answer could be {} or {o}.",
    "Answer: {} (or {o})",
    "I would choose {} or possibly {o}.",
    "答案是{}或{o}。",
    "The answer is not {}.",
]
NEXT = [
    "\n\nQuestion: Which {w}?\nA. x\nB. y\nAnswer: {o}",
    "\nUser: And the {w}?\nAssistant: The answer is {o}.",
    "\n\nHuman: ok\n\nAssistant: {o}",
    "\n\n### Question 2\nThe {w}.\nAnswer: {o}",
    "\n\nQ: The {w}?\nA: The answer is {o}.",
    "\n\nProblem 2: the {w}\nSolution: the answer is {o}",
    "\n\nExample 3\nThe {w}?\nThe correct choice is {o}.",
    "<|im_end|>\n<|im_start|>user\nThe {w}?<|im_end|>\n<|im_start|>assistant\nThe answer is {o}.",
    "\n\nWhich {w} is it?\n(A) x\n(B) y\nThe answer is {o}.",
    "\n\nNext question: the {w}\nAnswer: {o}",
    "\n\n问题：哪个？\n答案：{o}",
]


def build(draw: random.Random, kind: str) -> tuple[str, list[str], str | None]:
    """Build a response of a kind from the grammar, with the options and the letter that is stated."""
    count = draw.randrange(3, 11)
    options = draw.sample([f"{one} {two}" for one in WORDS for two in WORDS if one != two], count)
    first, second = draw.sample(range(count), 2)

    def name(number: int) -> str:
        return draw.choice(FORMS).format("ABCDEFGHIJ"[number], text=options[number])

    reasons = " ".join(f"The {draw.choice(WORDS)} is made up." for _ in range(draw.randrange(4)))
    slots = {"o": name(second), "w": draw.choice(WORDS)}
    if kind == "hedge":
        text = draw.choice(HEDGED).format(name(first), **slots)
    else:
        text = draw.choice(STATED).format(name(first), **slots)
        text += "" if text[-1] in ".。" else "."
        text += draw.choice(REMARKS if kind == "statement" else NEXT).format(**slots)
    text = f"{reasons}{draw.choice([' ', chr(10)] if reasons else [''])}{text}"
    return text, options, None if kind == "hedge" else "ABCDEFGHIJ"[first]


def count_misread(kind: str, count: int) -> list[tuple[str, str | None, str | None]]:
    draw = random.Random(kind)
    misread = []
    for _ in range(count):
        text, options, letter = build(draw, kind)
        if (found := lenient_choice(text, options)) != letter:
            misread.append((text, letter, found))
    return misread


@pytest.mark.parametrize("kind", ["statement", "hedge", "runaway"])
def test_a_thousand_of_a_grammar(kind: str) -> None:
    assert not count_misread(kind, 1_000)[:3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["statement", "hedge", "runaway"])
def test_ten_thousand_of_a_grammar(kind: str) -> None:
    assert not count_misread(kind, 10_000)[:3]


HOSTILE = [
    *("A ", "(A)", "C. Glipizide ", "answer ", "The answer is ", "the answer is C. ", "is the "),
    *("\nQuestion: x", "\nUser: ", "<think>", "<answer>C</answer>", "?\n", "*", "_", "\\boxed{"),
    *("#", "\n#", "\n###\n", "'A'", "A or ", "hepatitis A or ", ". ", "答案", "[", "<|", "wait. "),
    *("A also ", "if ", "\n**_", "\u3000", "otherwise ", "most ", "\n- A. x", "summarize ", "A, "),
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE, ids=ascii)
def test_time_is_linear_to_a_megabyte(unit: str) -> None:
    seconds = []
    for size in (250_000, 1_000_000):
        text = (unit * (size // len(unit) + 1))[:size]
        start = time.process_time()
        lenient_choice(text, DRUGS)
        seconds.append(time.process_time() - start)
    assert seconds[1] < max(1.0, 8 * seconds[0]) and seconds[1] < 10


# ---- The benchmark's own rules, and real outputs ----


def test_mmlu_pro_rules() -> None:
    assert mmlu_pro_choice("The answer is (C). The answer is (D).") == ("C", 1)
    assert mmlu_pro_choice("Answer: B") == ("B", 2)
    assert mmlu_pro_choice("It is 98 F. I think") == ("I", 3), "an article or a pronoun too"
    assert mmlu_pro_choice("Nothing.") == (None, 0)


@pytest.fixture(scope="module")
def outputs() -> list[dict[str, Any]]:
    if not OUTPUTS.exists():
        pytest.skip(f"{OUTPUTS} is not here: real outputs are not part of the repository")
    rows = [json.loads(line) for line in OUTPUTS.read_text(encoding="utf-8").splitlines()]
    return [{**row, "ours": lenient_choice(row["text"], row["options"])} for row in rows]


def test_real_outputs_by_the_benchmarks_rules(outputs: list[dict[str, Any]]) -> None:
    for row in outputs:
        assert mmlu_pro_choice(row["text"]) == (row["mmlu_pro_choice"], row["mmlu_pro_rule"])
    both = [row for row in outputs if row["ours"] and row["mmlu_pro_choice"]]
    agree = sum(row["ours"] == row["mmlu_pro_choice"] for row in both)
    assert len(both) >= 1_260 and agree / len(both) >= 0.99


def test_real_outputs_by_hand(outputs: list[dict[str, Any]]) -> None:
    lines = (ROOT / "tests" / "mmlu_pro_labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = {(row["model"], row["question_id"]): row["letter"] for row in map(json.loads, lines)}
    assert len(labels) == 300 and set(Counter(model for model, _ in labels).values()) == {10, 11}
    rows = [row for row in outputs if (row["model"], row["question_id"]) in labels]
    assert len(rows) == 300
    pairs = [(row["ours"], labels[row["model"], row["question_id"]]) for row in rows]
    right = sum(ours is not None and ours == label for ours, label in pairs)
    assert right / sum(ours is not None for ours, _ in pairs) >= 0.995
    assert right / sum(label is not None for _, label in pairs) >= 0.98


def test_accuracy_of_each_model(outputs: list[dict[str, Any]]) -> None:
    """Four models differ by one row of 45, each read and written down in docs/evaluation.md."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in outputs:
        counts[row["model"]][0] += row["ours"] == row["gold"]
        counts[row["model"]][1] += row["mmlu_pro_choice"] == row["gold"]
    differ = {model: ours - theirs for model, (ours, theirs) in counts.items() if ours != theirs}
    assert len(counts) == 29
    assert differ == {
        "Mistral-7B-Instruct-v0.2": -1,
        "Mixtral-8x7B-Instruct-v0.1": -1,
        "Qwen1.5-72B-Chat": -1,
        "Qwen1.5-7B-Chat": -1,
    }


# ---- Modes ----


def test_strict_cot_reads_up_to_the_cut() -> None:
    judgement = judge("C\n\nQuestion: next?\nAnswer: A", "C", DRUGS, "cot")
    assert (judgement.choice, judgement.choice_lenient) == (None, "C")
    judgement = judge("So.\nAnswer: C\n\nQuestion: next?\nAnswer: A", "C", DRUGS, "cot")
    assert (judgement.choice, judgement.choice_lenient) == ("C", "C")
    assert judge("C. Metformin\n\nQuestion: x\nAnswer: A", "C", DRUGS, "direct").choice == "C"


@pytest.mark.parametrize("letter", "ABCD")
def test_direct_answers_in_the_form_that_names_the_option_are_read(letter):
    option = DRUGS["ABCD".index(letter)]
    for mode in ("direct", "direct@2"):
        found = judge(f" So {option} {letter}.\n", "A", DRUGS, mode)
        assert found == (True, "stated", letter, letter, None)
    # another option's letter, another text, more text, another mode: none of it is the target
    other = "ABCD"[("ABCD".index(letter) + 1) % 4]
    for text in (f"So {option} {other}.", f"So {option}x {letter}.", f"So {option} {letter}. Or"):
        assert judge(text, "A", DRUGS, "direct").choice is None, text
    assert judge(f"So {option} {letter}.", "A", DRUGS, "think").choice is None


@pytest.mark.parametrize("mode", ["think", "direct", "cot", "cot@5"])
def test_a_stop_string_changes_no_reading(mode: str) -> None:
    own = {"think": "<think>f</think><answer>C", "direct": "C"}.get(mode, "So.\nAnswer: C")
    stops = STOP[split_mode(mode)[0]]
    for stop in stops:
        whole = f"{own}{stop} And now?\nAssistant: A"
        kept = judge(f"{own}{stop}", "C", DRUGS, mode)
        dropped = judge(own, "C", DRUGS, mode)
        if stop != "\n\n":  # an explanation after a direct answer
            assert judge(whole, "C", DRUGS, mode)[2:] == kept[2:]
        assert kept.choice_lenient == dropped.choice_lenient == "C"
        if mode == "think":
            assert kept.reason == judge(whole, "C", DRUGS, mode).reason == "text_after"
            assert not dropped.format_ok, "never right where training says wrong"
    assert len(stops) <= 4


def test_the_third_column_is_of_that_benchmark_in_mode_cot() -> None:
    text = "The answer is (C). No: D"
    assert judge(text, "C", DRUGS, "cot", "mmlu_pro_health").choice_published == "C"
    assert judge(text, "C", DRUGS, "cot@5", "mmlu_pro_health").choice_published == "C"
    assert judge(text, "C", DRUGS, "cot", "medqa").choice_published is None
    assert judge(text, "C", DRUGS, "direct", "mmlu_pro_health").choice_published is None


def test_modes_with_examples() -> None:
    assert split_mode("think@5") == ("think", 5) and split_mode("cot") == ("cot", 0)
    for wrong in ("think@", "think@0", "loglikelihood@5", "chat", "cot@x", "@5"):
        with pytest.raises(ValueError, match="is not one of think, direct, cot"):
            split_mode(wrong)


def make_row(number: int) -> dict[str, Any]:
    return {
        "id": f"toy/dev/{number}",
        "question": f"Which drug {number}?",
        "options": DRUGS,
        "answer": "ABCD"[number % 4],
        "prompt": f"T {number}?\nAssistant:\n",
        "direct_prompt": f"D {number}?\nAssistant:\n",
    }


def test_examples_are_before_the_question() -> None:
    rows = [make_row(number) for number in range(1, 9)]
    shown = draw_examples(rows, 2, seed=1)
    assert shown == draw_examples(rows[::-1], 2, seed=1), "whatever the order of the rows"
    assert draw_examples(rows, 8, seed=1) != draw_examples(rows, 8, seed=2)
    with pytest.raises(ValueError, match="9 examples are asked for, and dev has 8 rows"):
        draw_examples(rows, 9, seed=1)
    with pytest.raises(ValueError, match="mode think@2 needs 2 examples, got 0"):
        render(rows[0], "think@2")
    asked, (one, two) = make_row(0), shown
    direct = render(asked, "direct@2", None, shown)
    answered = "".join(f"{row['direct_prompt']}{row['answer']}\n\n" for row in (one, two))
    assert direct == answered + asked["direct_prompt"]
    for mode in ("think", "cot", "direct"):
        text = render(asked, f"{mode}@2", None, shown)
        assert text.endswith(render(asked, mode))
        example = text.removesuffix(render(asked, mode)).split("Assistant:\n")[-1]
        assert judge(example, two["answer"], DRUGS, mode).choice == two["answer"], (
            "in its own format"
        )


def test_examples_in_a_chat_frame_are_one_message() -> None:
    from data_prep.prompt import ChatFrame

    frame = ChatFrame("<s>[U]", "[A]")
    rows = [{**make_row(n), "direct_prompt": f"<s>[U]D {n}?[A]"} for n in range(3)]
    text = render(rows[0], "direct@2", frame, rows[1:])
    assert text == "<s>[U]D 1?\nB\n\nD 2?\nC\n\nD 0?[A]"


def test_marks_are_private() -> None:
    assert not MARK.search("".join(map(chr, range(32, 0x3000)))), "no usual text has them"

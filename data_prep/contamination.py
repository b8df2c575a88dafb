"""Which training rows repeat evaluation rows, and which rows of one split repeat each other.

Training rows that share at least `drop` of an evaluation row's 8-grams are dropped; from `flag` on both are listed, and
the evaluation row carries the training row's id and the share, so that its clean subset can be reported. Compared are
the evaluation splits of this data set and of every prepared one that `data.overlap.against` names.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.mixture import read_rows
from data_prep.overlap import NGRAM, WORD, Grams, find_pairs, hash_grams, split_words
from data_prep.prepared import MANIFEST, read_manifest
from data_prep.rows import Question
from data_prep.splits import Progress, Split

TRAIN = "train"

Best = dict[str, tuple[str, float]]
"""id -> (id of the row it is most like, share)"""

Key = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """Rows with what they are compared by: `keys` [n] for exact copies, `grams` for shares of 8-grams."""

    questions: list[Question]
    keys: list[Key]
    grams: Grams


def measure_rows(questions: list[Question], vocabulary: dict[str, int]) -> Measured:
    """Prepares rows for comparison; `vocabulary` must be the same object for all that is compared."""
    keys = [make_key(question) for question in questions]
    words = (split_words(question.question, question.options) for question in questions)
    return Measured(questions, keys, hash_grams(words, vocabulary))


def make_key(question: Question) -> Key:
    """Stem and gold option as bare words; what consists of signs alone (`+ / -`) is kept as it is.

    The stem alone would not do: "Which of the following statements is correct?" is many questions. Nor would stem and
    option set: MMLU-Pro repeats questions with other distractors.
    """
    stem, gold = (
        " ".join(WORD.findall(text.casefold())) or text
        for text in (question.question, question.gold)
    )
    return stem, gold


def read_evaluation_sets(
    data_dir: Path, data: DictConfig
) -> tuple[list[Question], dict[str, Any], list[str]]:
    """Evaluation rows of the other prepared sets, what they are for the manifest, and the sets not prepared yet."""
    questions: list[Question] = []
    checked: dict[str, Any] = {}
    absent: list[str] = []
    for name in data.overlap.against:
        if name == data.name or name in data.parts_of_mixture:
            continue
        if not (data_dir / name / MANIFEST).is_file():
            absent.append(name)
            continue
        for file, facts in read_manifest(data_dir / name)["files"].items():
            if file != "train.jsonl":
                rows = read_rows(data_dir / name / file, facts["sha256"])
                questions.extend(
                    Question(row["id"], row["question"], row["options"], row["answer"])
                    for row in rows
                )
                checked[f"{name}/{file}"] = facts
    return questions, checked, absent


def find_clusters(rows: Measured) -> dict[str, str]:
    """id -> id of the first row with the same stem and gold option."""
    first: dict[Key, str] = {}
    pairs = zip(rows.questions, rows.keys, strict=True)
    return {question.id: first.setdefault(key, question.id) for question, key in pairs}


def count_duplicates(rows: Measured) -> dict[str, int]:
    """How many different questions a split has, by four ways to count; papers differ in which they mean."""
    sets = [
        frozenset(option.casefold() for option in question.options) for question in rows.questions
    ]
    return {
        "rows": len(rows.questions),
        "different_stems": len({stem for stem, _ in rows.keys}),
        "clusters_same_stem_and_gold": len(set(rows.keys)),
        "different_stems_and_option_sets": len(
            {(key[0], texts) for key, texts in zip(rows.keys, sets, strict=True)}
        ),
    }


def find_near_copies(rows: Measured, threshold: float) -> Best:
    """For each row that has one: the earlier row of the same split that it is most like, at or above the threshold.

    The share is that of the row with fewer 8-grams.
    """
    best: Best = {}
    for a, b, share in zip(
        *find_pairs(rows.grams, rows.grams, threshold, within=True), strict=True
    ):
        earlier, later = (rows.questions[index].id for index in sorted((a, b)))
        if share > best.get(later, ("", 0.0))[1]:
            best[later] = (earlier, round(float(share), 3))
    return best


def find_contamination(
    train: Measured, evaluation: list[Measured], overlap: DictConfig
) -> tuple[Best, Best, Best]:
    """Compares training rows with evaluation rows. Returns (drop, flagged, evaluation rows) as `Best` each.

    drop        training rows at or above `overlap.drop` (none where that is null): their evaluation row
    flagged     training rows at or above `overlap.flag` that stay
    evaluation  evaluation rows at or above `overlap.flag`: the training row, of those that stay if there is one
    """
    pairs: list[tuple[str, str, float]] = []
    for rows in evaluation:
        found = zip(*find_pairs(rows.grams, train.grams, overlap.flag), strict=True)
        pairs.extend(
            (rows.questions[e].id, train.questions[t].id, round(float(share), 3))
            for e, t, share in found
        )
        copies: dict[Key, list[str]] = {}
        for question, key in zip(rows.questions, rows.keys, strict=True):
            copies.setdefault(key, []).append(question.id)
        for question, key in zip(train.questions, train.keys, strict=True):
            # An exact copy of a short stem may have other distractors, and so fewer 8-grams in common.
            pairs.extend((copy, question.id, 1.0) for copy in copies.get(key, []))
    limit = overlap.drop if overlap.drop is not None else float("inf")
    drop: Best = {}
    flagged: Best = {}
    for eval_id, train_id, share in pairs:
        kind = drop if share >= limit else flagged
        if share > kind.get(train_id, ("", 0.0))[1]:
            kind[train_id] = (eval_id, share)
    flagged = {train_id: copy for train_id, copy in flagged.items() if train_id not in drop}
    seen: Best = {}
    for eval_id, train_id, share in sorted(pairs, key=lambda pair: (pair[1] in drop, -pair[2])):
        seen.setdefault(eval_id, (train_id, share))
    return drop, flagged, dict(sorted(seen.items()))


def compare_splits(cfg: DictConfig, splits: dict[str, Split], progress: Progress) -> dict[str, Any]:
    """Finds copies inside and between splits, drops and flags by policy, and describes it all for the manifest."""
    policy = cfg.data.overlap
    vocabulary: dict[str, int] = {}
    duplicates: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    for done, (name, split) in enumerate(splits.items()):
        progress("comparing rows", done, len(splits) + 1)
        rows = measure_rows(split.questions, vocabulary)
        clusters = find_clusters(rows)
        duplicates[name] = {
            **count_duplicates(rows),
            "near_copies": name_copies(find_near_copies(rows, policy.flag), "earlier_id"),
        }
        for question in split.questions:
            question.meta.update(cluster=clusters[question.id], overlap_id="", overlap_share=0.0)
        if cfg.data.duplicates == "first":
            split.keep_only(
                {row_id: "duplicate" for row_id, first in clusters.items() if row_id != first}
            )
            rows = measure_rows(split.questions, vocabulary)
        measured[name] = rows
    result: dict[str, Any] = {"policy": {"ngram": NGRAM, "drop": policy.drop, "flag": policy.flag}}
    result["within_splits"] = duplicates
    if TRAIN in splits:
        others, result["checked_against"], result["not_checked_against"] = read_evaluation_sets(
            Path(cfg.data_dir), cfg.data
        )
        own = [rows for name, rows in measured.items() if name != TRAIN]
        evaluation = [*own, measure_rows(others, vocabulary)]
        drop, flagged, seen = find_contamination(measured[TRAIN], evaluation, policy)
        splits[TRAIN].keep_only(dict.fromkeys(drop, "overlap"))
        for question in (question for rows in own for question in rows.questions):
            if question.id in seen and seen[question.id][0] not in drop:
                question.meta["overlap_id"], question.meta["overlap_share"] = seen[question.id]
        result["train_dropped"] = name_copies(drop, "evaluation_id")
        result["train_flagged"] = name_copies(flagged, "evaluation_id")
        result["evaluation_rows"] = {
            row_id: {"train_id": train_id, "share": share, "train_row_dropped": train_id in drop}
            for row_id, (train_id, share) in seen.items()
        }
    progress("comparing rows", 1, 1)
    return result


def name_copies(best: Best, name: str) -> dict[str, dict[str, Any]]:
    """The form in which the manifest lists copies."""
    return {row_id: {name: other, "share": share} for row_id, (other, share) in best.items()}


def check_ids(questions: Iterable[Question]) -> None:
    """Raises UserError where two rows have one id: rewards and rollouts are told apart by it."""
    double = [
        row_id
        for row_id, count in Counter(question.id for question in questions).items()
        if count > 1
    ]
    if double:
        raise UserError(
            f"{len(double)} ids occur twice, such as {double[0]}: the source numbers rows twice"
        )

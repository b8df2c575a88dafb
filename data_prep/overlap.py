"""Find rows that repeat each other, and drop training rows that repeat evaluation rows.

Two measures: copies of stem and gold option (*clusters*), and the share of a pair: the fraction of
one text's different 8-grams of words that the other has too. Pairs are looked up in an inverted
index with prefix filtering (Bayardo et al. 2007): a text that shares a fraction t of its n grams
shares at least one of any n - ceil(t n) + 1 of them, so only the rarest that many are looked up.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from scipy.sparse import csr_matrix, vstack

from data_prep.prepared import read_evaluation_sets
from data_prep.prompt import LETTERS
from data_prep.splits import Progress, Split

NGRAM = 8
# A stem of fewer words is compared together with its options: a frame such as "Which of the
# following is the most common cause of X" would make most of it, and different questions would look
# alike.
SHORT_STEM = 20
# A gram that more texts than this have is a frame, not a copy, and is not looked up: the cost stays
# linear where thousands of texts follow one pattern. Only a text of such grams alone can be missed.
FRAME = 2000
# Entries of the sparse product held at a time: bounds the memory to about 100 MB.
JOIN_CHUNK = 2_000_000
TRAIN = "train"
WORD = re.compile(r"\w+")

Row = dict[str, Any]
Key = tuple[str, str]
Ints = NDArray[np.int64]
Pairs = tuple[Ints, Ints, NDArray[np.float64]]


class Copy(NamedTuple):
    """The row that another is most like, and the share in (0, 1]."""

    id: str
    share: float


Copies = dict[str, Copy]


def split_words(question: str, options: Iterable[str]) -> list[str]:
    """Return the words to compare: the stem's, for a short one those of the sorted options too."""
    words = WORD.findall(question.casefold())
    if len(words) < SHORT_STEM:
        for option in sorted(options):
            words.extend(WORD.findall(option.casefold()))
    return words


def index_grams(sets: Sequence[Iterable[list[str]]]) -> list[csr_matrix]:
    """Index the 8-grams of several sets of texts (as words): a matrix [texts, grams] of 0 and 1
    each.

    Columns are the same in all. A text of fewer than 8 words is one gram.
    """
    numbers: dict[str, int] = {}
    flat, lengths, sizes = array("I"), array("I"), []
    for texts in sets:
        before = len(lengths)
        for words in texts:
            flat.extend(numbers.setdefault(word, len(numbers) + 1) for word in words)
            flat.extend([0] * (NGRAM - len(words)))
            lengths.append(max(len(words), NGRAM))
        sizes.append(len(lengths) - before)
    if not lengths:
        return [csr_matrix((size, 1), dtype=np.int32) for size in sizes]

    # a polynomial hash of each window over random 64-bit words; uint64 wraps around as wanted
    codes = np.random.default_rng(0).integers(2**64, size=len(numbers) + 1, dtype=np.uint64)
    coded = codes[np.frombuffer(flat, np.uint32)]
    windows = len(coded) - NGRAM + 1
    hashes = np.zeros(windows, np.uint64)
    for offset in range(NGRAM):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + coded[offset : offset + windows]
    # a window must not run over the end of its text
    counts = np.frombuffer(lengths, np.uint32).astype(np.int64)
    row_of = np.repeat(np.arange(len(counts)), counts)[:windows]
    inside = np.arange(windows) + NGRAM <= np.cumsum(counts)[row_of]
    grams, columns = np.unique(hashes[inside], return_inverse=True)
    ones = np.ones(len(columns), np.int32)
    matrix = csr_matrix((ones, (row_of[inside], columns)), shape=(len(counts), len(grams)))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    borders = np.cumsum([0, *sizes])
    return [matrix[start:end] for start, end in pairwise(borders)]


def find_pairs(
    left: csr_matrix, right: csr_matrix, threshold: float, within: bool = False
) -> Pairs:
    """Find pairs (text of left, text of right, share of left's grams) with share >= threshold.

    within: left is right; each pair once, with the text of fewer grams on the left.
    """
    sizes = np.diff(left.indptr)
    row_of = np.repeat(np.arange(len(sizes)), sizes)
    frequency = np.bincount(right.indices, minlength=right.shape[1])[left.indices]

    # of each text the rarest grams, as many as prefix filtering needs
    rarest = np.lexsort((frequency, row_of))
    rank = np.arange(len(rarest)) - left.indptr[row_of]
    needed = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    probes = rarest[rank < needed[row_of]]
    probes = probes[(frequency[probes] > 0) & (frequency[probes] <= FRAME)]
    cost = np.bincount(row_of[probes], frequency[probes], len(sizes))
    entries = (np.ones(len(probes), np.int32), (row_of[probes], left.indices[probes]))
    lookup, index = csr_matrix(entries, shape=left.shape), right.T.tocsr()

    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    found: list[Pairs] = [nothing]
    for start, end in split_chunks(cost):
        candidates = (lookup[start:end] @ index).sorted_indices().tocoo()
        a, b = candidates.row.astype(np.int64) + start, candidates.col.astype(np.int64)
        if within:
            size_b = sizes[b]
            smaller = (sizes[a] < size_b) | ((sizes[a] == size_b) & (a < b))
            a, b = a[smaller], b[smaller]
        for first, last in split_chunks(sizes[a]):
            one, other = a[first:last], b[first:last]
            shares = left[one].multiply(right[other]).sum(axis=1).A1 / sizes[one]
            enough = shares >= threshold - 1e-9
            found.append((one[enough], other[enough], shares[enough]))
    a, b, shares = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return a, b, shares


def split_chunks(costs: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Cut items into runs (start, end) whose costs sum to about JOIN_CHUNK at most."""
    borders = np.flatnonzero(np.diff(np.cumsum(costs) // JOIN_CHUNK)) + 1
    return pairwise([0, *borders.tolist(), len(costs)])


def make_key(row: Row) -> Key:
    """Return stem and gold option as bare words; a text of signs alone (`+ / -`) stays as it is.

    The stem alone would not do: "Which of the following statements is correct?" is many questions.
    Nor would stem and option set: MMLU-Pro repeats questions with other distractors.
    """
    gold = row["options"][LETTERS.index(row["answer"])]
    stem, gold = (
        " ".join(WORD.findall(text.casefold())) or text for text in (row["question"], gold)
    )
    return stem, gold


def find_clusters(rows: Sequence[Row]) -> dict[str, str]:
    """Find for each id the id of the first row with the same stem and gold option."""
    first: dict[Key, str] = {}
    return {row["id"]: first.setdefault(make_key(row), row["id"]) for row in rows}


def count_duplicates(rows: Sequence[Row]) -> dict[str, int]:
    """Count a split's different questions in four ways; papers differ in which they mean."""
    keys = [make_key(row) for row in rows]
    sets = [frozenset(map(str.casefold, row["options"])) for row in rows]
    stems = [stem for stem, _ in keys]
    return {
        "rows": len(rows),
        "different_stems": len(set(stems)),
        "clusters_same_stem_and_gold": len(set(keys)),
        "different_stems_and_option_sets": len(set(zip(stems, sets, strict=True))),
    }


def find_near_copies(rows: Sequence[Row], grams: csr_matrix, threshold: float) -> Copies:
    """Find for each row the earlier row that it is most like, by the share of the smaller one."""
    best: Copies = {}
    for a, b, share in zip(*find_pairs(grams, grams, threshold, within=True), strict=True):
        earlier, later = (rows[index]["id"] for index in sorted((a, b)))
        if later not in best or share > best[later].share:
            best[later] = Copy(earlier, round(float(share), 3))
    return best


def find_contamination(
    train: Sequence[Row],
    train_grams: csr_matrix,
    evaluation: Sequence[Row],
    evaluation_grams: csr_matrix,
    policy: DictConfig,
) -> tuple[Copies, Copies, Copies]:
    """Compare training rows with evaluation rows. Returns three:

    drop        training rows from `policy.drop` on (none where that is null): their evaluation row
    listed      training rows from `policy.flag` on that stay
    evaluation  evaluation rows from `policy.flag` on: the training row, of those that stay if any
    """
    found = find_pairs(evaluation_grams, train_grams, policy.flag)
    pairs = [
        (evaluation[e]["id"], train[t]["id"], round(float(share), 3))
        for e, t, share in zip(*found, strict=True)
    ]
    # An exact copy of a short stem may have other distractors, and so fewer 8-grams in common.
    copies: dict[Key, list[str]] = {}
    for row in evaluation:
        copies.setdefault(make_key(row), []).append(row["id"])
    for row in train:
        pairs.extend((copy, row["id"], 1.0) for copy in copies.get(make_key(row), []))

    limit = float("inf") if policy.drop is None else policy.drop
    drop: Copies = {}
    listed: Copies = {}
    for eval_id, train_id, share in pairs:
        kind = drop if share >= limit else listed
        if train_id not in kind or share > kind[train_id].share:
            kind[train_id] = Copy(eval_id, share)
    listed = {train_id: copy for train_id, copy in listed.items() if train_id not in drop}
    seen: Copies = {}
    for eval_id, train_id, share in sorted(pairs, key=lambda pair: (pair[1] in drop, -pair[2])):
        seen.setdefault(eval_id, Copy(train_id, share))
    return drop, listed, dict(sorted(seen.items()))


def drop_copies(cfg: DictConfig, splits: dict[str, Split], progress: Progress) -> dict[str, Any]:
    """Drop and list copies in and between splits by `data.overlap`; returns the manifest's part.

    Sets `meta.cluster` of every row; `meta.overlap_id` and `.overlap_share` of evaluation rows that
    a remaining training row repeats, so that a clean subset can be reported.
    """
    policy = cfg.data.overlap
    progress("comparing rows", 0, len(splits) + 1)
    result: dict[str, Any] = {
        "policy": {"ngram": NGRAM, "drop": policy.drop, "flag": policy.flag},
        "within_splits": {},
    }
    others: list[Row] = []
    if TRAIN in splits:
        parts = {cfg.data.name, *cfg.data.parts_of_mixture}
        against = [name for name in policy.against if name not in parts]
        others, checked, absent = read_evaluation_sets(Path(cfg.data_dir), against)
        result.update(checked_against=checked, not_checked_against=absent)
    sets = [*(split.rows for split in splits.values()), others]
    grams = index_grams(
        [(split_words(row["question"], row["options"]) for row in rows) for rows in sets]
    )
    grams_of = dict(zip(splits, grams, strict=False))

    for done, (name, split) in enumerate(splits.items(), 1):
        clusters = find_clusters(split.rows)
        copies = find_near_copies(split.rows, grams_of[name], policy.flag)
        result["within_splits"][name] = {
            **count_duplicates(split.rows),
            "near_copies": {
                later: {"earlier_id": copy.id, "share": copy.share}
                for later, copy in copies.items()
            },
        }
        for row in split.rows:
            row["meta"].update(cluster=clusters[row["id"]], overlap_id="", overlap_share=0.0)
        if cfg.data.duplicates == "first":
            firsts = [index for index, (row, first) in enumerate(clusters.items()) if row == first]
            grams_of[name] = grams_of[name][firsts]
            split.keep_only({row: "duplicate" for row, first in clusters.items() if row != first})
        progress("comparing rows", done, len(splits) + 1)

    if TRAIN in splits:
        own = [name for name in splits if name != TRAIN]
        evaluation = [row for name in own for row in splits[name].rows]
        evaluation_grams = vstack([*(grams_of[name] for name in own), grams[-1]], "csr")
        drop, listed, seen = find_contamination(
            splits[TRAIN].rows, grams_of[TRAIN], [*evaluation, *others], evaluation_grams, policy
        )
        splits[TRAIN].keep_only(dict.fromkeys(drop, "overlap"))
        for row in evaluation:
            copy = seen.get(row["id"])
            if copy is not None and copy.id not in drop:
                row["meta"].update(overlap_id=copy.id, overlap_share=copy.share)
        for key, copies in (("train_dropped", drop), ("train_flagged", listed)):
            result[key] = {
                row_id: {"evaluation_id": copy.id, "share": copy.share}
                for row_id, copy in copies.items()
            }
        result["evaluation_rows"] = {
            row_id: {"train_id": copy.id, "share": copy.share, "train_row_dropped": copy.id in drop}
            for row_id, copy in seen.items()
        }
    progress("comparing rows", len(splits) + 1, len(splits) + 1)
    return result

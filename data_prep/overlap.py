"""Find rows that repeat each other, and drop training rows that repeat evaluation rows.

Two measures: copies of stem and gold option (*clusters*), and the share of a pair: the fraction of
one text's different 8-grams of words that the other has too.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from omegaconf import DictConfig
from scipy.sparse import csr_matrix

from data_prep.prepared import MANIFEST, open_prepared
from data_prep.prompt import LETTERS
from data_prep.splits import TRAIN, Split, follow_rows

NGRAM = 8
# A shorter stem is compared together with its options: a frame such as "Which of the following is
# the most common cause of X" would make most of it, and different questions would look alike.
SHORT_STEM = 20
# A gram that more texts than this have is a frame, not a copy, and is not looked up: the cost stays
# linear where thousands of texts follow one pattern. Only a text of such grams alone can be missed.
FRAME = 2000
# Entries of the sparse product held at a time: bounds the memory to about 100 MB.
JOIN_CHUNK = 2_000_000
WORD = re.compile(r"\w+")

Row = dict[str, Any]
Copies = dict[str, dict[str, Any]]
"""By row id, as the manifest lists it: the id of the row that it is most like, and the share."""


def split_words(row: Row) -> list[str]:
    """Return the words to compare: the stem's, for a short one those of the sorted options too."""
    words = WORD.findall(row["question"].casefold())
    if len(words) < SHORT_STEM:
        words += WORD.findall(" ".join(sorted(row["options"])).casefold())
    return words


def index_grams(*sets: Iterable[list[str]]) -> list[csr_matrix]:
    """Index the 8-grams of sets of texts (as words): for each a matrix [texts, grams] of 0 and 1.

    Columns are the same in all. A text of fewer than 8 words is one gram.
    """
    grams, starts, borders = array("q"), [0], [0]
    for texts in sets:
        for words in texts:
            windows = range(max(len(words) - NGRAM, 0) + 1)
            grams.extend({hash(tuple(words[start : start + NGRAM])) for start in windows})
            starts.append(len(grams))
        borders.append(len(starts) - 1)
    different, columns = np.unique(np.asarray(grams), return_inverse=True)
    ones = np.ones(len(columns), np.int32)
    matrix = csr_matrix((ones, columns, starts), shape=(len(starts) - 1, max(1, len(different))))
    return [matrix[start:end] for start, end in pairwise(borders)]


def find_pairs(
    left: csr_matrix, right: csr_matrix, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Find pairs (text of left, text of right, fraction of left's grams) of at least `threshold`.

    An inverted index with prefix filtering (Bayardo et al. 2007): a text that shares a fraction t
    of its n grams shares at least one of any n - ceil(t n) + 1 of them, so only the rarest that
    many are looked up.
    """
    sizes = np.diff(left.indptr)
    row_of = np.repeat(np.arange(len(sizes)), sizes)
    frequency = np.bincount(right.indices, minlength=right.shape[1])[left.indices]

    # grams of each text, rarest first; rank: the place within the text
    rarest = np.lexsort((frequency, row_of))
    rank = np.arange(len(rarest)) - left.indptr[row_of]
    needed = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    probes = rarest[rank < needed[row_of]]
    probes = probes[frequency[probes] <= FRAME]
    entries = (np.ones(len(probes), np.int32), (row_of[probes], left.indices[probes]))
    lookup, index = csr_matrix(entries, shape=left.shape), right.T.tocsr()

    costs = np.bincount(row_of[probes], frequency[probes], len(sizes))
    for start, end in split_chunks(costs, JOIN_CHUNK):
        # texts that share a rare gram: only these few are compared in full
        candidates = (lookup[start:end] @ index).sorted_indices().tocoo()
        a, b = candidates.row + start, candidates.col
        for first, last in split_chunks(sizes[a], JOIN_CHUNK):
            one, other = a[first:last], b[first:last]
            shares = left[one].multiply(right[other]).sum(axis=1).A1 / sizes[one]
            enough = shares >= threshold - 1e-9
            found = (one[enough].tolist(), other[enough].tolist(), shares[enough].tolist())
            yield from zip(*found, strict=True)


def split_chunks(costs: ArrayLike, most: int) -> Iterator[tuple[int, int]]:
    """Cut items into runs (start, end) whose costs sum to about `most`."""
    borders = np.flatnonzero(np.diff(np.cumsum(costs) // most)) + 1
    return pairwise([0, *borders.tolist(), np.size(costs)])


def make_key(row: Row) -> tuple[str, str]:
    """Return stem and gold option as bare words; a text of signs alone (`+ / -`) stays as it is.

    The stem alone would not do: "Which of the following statements is correct?" is many questions.
    Nor would stem and option set: MMLU-Pro repeats questions with other distractors.
    """
    stem, gold = row["question"], row["answer"]
    gold = row["options"][LETTERS.index(gold)] if row["options"] else gold
    bare_stem, bare_gold = (" ".join(WORD.findall(text.casefold())) for text in (stem, gold))
    return bare_stem or stem, bare_gold or gold


def find_clusters(rows: Sequence[Row]) -> dict[str, str]:
    """Find for each id the id of the first row with the same stem and gold option."""
    first: dict[tuple[str, str], str] = {}
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


def list_best(pairs: Iterable[tuple[str, str, float]], name: str) -> Copies:
    """List for each row of pairs (row id, other id, share) the first other of the largest share."""
    best: Copies = {}
    for row_id, other_id, share in sorted(pairs, key=lambda pair: -pair[2]):
        best.setdefault(row_id, {name: other_id, "share": round(share, 3)})
    return best


def find_near_copies(rows: Sequence[Row], threshold: float) -> Copies:
    """Find for each row the earlier row that it is most like, by the share of the smaller one."""
    [grams] = index_grams(map(split_words, rows))
    # a pair comes from both sides; the smaller text has the larger share
    pairs = [
        (rows[max(a, b)]["id"], rows[min(a, b)]["id"], share)
        for a, b, share in find_pairs(grams, grams, threshold)
        if a != b
    ]
    return list_best(pairs, "earlier_id")


def find_contamination(
    train: Sequence[Row], evaluation: Sequence[Row], policy: DictConfig
) -> tuple[Copies, Copies, Copies]:
    """Compare training rows with evaluation rows. Returns three:

    drop        training rows from `policy.drop` on (none where that is null)
    listed      training rows from `policy.flag` on that stay
    evaluation  evaluation rows from `policy.flag` on: the training row, of those that stay if any
    """
    left, right = index_grams(map(split_words, evaluation), map(split_words, train))
    pairs = [
        (train[t]["id"], evaluation[e]["id"], round(share, 3))
        for e, t, share in find_pairs(left, right, policy.flag)
    ]
    # An exact copy of a short stem may have other distractors, and so fewer 8-grams in common.
    copies: dict[tuple[str, str], list[str]] = {}
    for row in evaluation:
        copies.setdefault(make_key(row), []).append(row["id"])
    for row in train:
        pairs.extend((row["id"], copy, 1.0) for copy in copies.get(make_key(row), []))

    limit = float("inf") if policy.drop is None else policy.drop
    found = list_best(pairs, "evaluation_id")
    drop = {row_id: copy for row_id, copy in found.items() if copy["share"] >= limit}
    listed = {row_id: copy for row_id, copy in found.items() if row_id not in drop}
    turned = [(evaluation_id, train_id, share) for train_id, evaluation_id, share in pairs]
    staying = [pair for pair in turned if pair[1] not in drop]
    seen = list_best(turned, "train_id") | list_best(staying, "train_id")
    for copy in seen.values():
        copy["train_row_dropped"] = copy["train_id"] in drop
    return drop, listed, dict(sorted(seen.items()))


def drop_copies(cfg: DictConfig, splits: dict[str, Split]) -> dict[str, Any]:
    """Drop and list copies in and between splits by `data.overlap`; returns the manifest's part.

    Sets `meta.cluster` of every row; `meta.overlap_id` and `.overlap_share` of evaluation rows that
    a remaining training row repeats, so that a clean subset can be reported.
    """
    policy = cfg.data.overlap
    within = {}
    for name, split in follow_rows(list(splits.items()), "comparing rows"):
        clusters = find_clusters(split.rows)
        near = find_near_copies(split.rows, policy.flag)
        within[name] = count_duplicates(split.rows) | {"near_copies": near}
        for row in split.rows:
            row["meta"].update(cluster=clusters[row["id"]], overlap_id="", overlap_share=0.0)
        if cfg.data.duplicates == "first":
            split.keep_only({row: "duplicate" for row, first in clusters.items() if row != first})
    result: dict[str, Any] = {
        "policy": {"ngram": NGRAM, "drop": policy.drop, "flag": policy.flag},
        "within_splits": within,
    }
    if TRAIN not in splits:
        return result

    # training rows with the evaluation rows of this set and of others
    own = [row for name, split in splits.items() if name != TRAIN for row in split.rows]
    parts = {cfg.data.name, *cfg.data.parts_of_mixture}
    others, checked, unchecked = list(own), {}, []
    for name in [name for name in policy.against if name not in parts]:
        folder = Path(cfg.data_dir) / name
        if not (folder / MANIFEST).is_file():
            unchecked.append(name)
            continue
        prepared = open_prepared(folder)
        for test in [split for split in prepared.splits if split != TRAIN]:
            others += prepared.read_rows(test)
            checked[f"{name}/{test}.jsonl"] = prepared.manifest["files"][f"{test}.jsonl"]
    drop, listed, seen = find_contamination(splits[TRAIN].rows, others, policy)
    splits[TRAIN].keep_only(dict.fromkeys(drop, "overlap"))
    for row in own:
        copy = seen.get(row["id"])
        if copy is not None and not copy["train_row_dropped"]:
            row["meta"].update(overlap_id=copy["train_id"], overlap_share=copy["share"])
    return result | {
        "checked_against": checked,
        "not_checked_against": unchecked,
        "train_dropped": drop,
        "train_flagged": listed,
        "evaluation_rows": seen,
    }

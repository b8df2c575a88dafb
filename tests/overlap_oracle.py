"""Overlap of texts by shared 8-grams of words, exactly and in nearly linear time.

The share of a pair is the part of one text's different 8-grams that the other has too. Pairs at or above a threshold
are found by prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007): whoever shares a part t of n grams shares
at least one of any n - ceil(t n) + 1 of them, so only the rarest that many are looked up. Common phrases ("which of
the following is the most likely diagnosis") are then nearly never looked up, and no pair is missed (but see FRAME).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NGRAM = 8
SHORT_STEM = 20
"""Words. A shorter stem is compared together with its options, or a frame such as "Which of the following is the most
common cause of X" would make most of it, and different questions would look alike."""

WORD = re.compile(r"\w+")
FRAME = 2000
"""A gram that more texts than this share is a frame, not a copy, and is not looked up. It keeps the cost linear where
thousands of texts are made after one pattern; only a text made of such grams alone could be missed."""

JOIN_CHUNK = 10_000_000
"""Pairs held at a time while joining: bounds the memory (about 0.5 GB)."""

UInts = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grams:
    """The different 8-grams of n texts, as 64-bit hashes: sorted by text, `rows` gives the text of each, `counts` [n]
    the number of each text's grams (at least 1), `starts` [n] where they begin."""

    hashes: UInts
    rows: Ints
    counts: Ints
    starts: Ints


def split_words(question: str, options: Iterable[str]) -> list[str]:
    """The words that are compared: the stem's, and for a short stem also those of its options in sorted order."""
    words = WORD.findall(question.casefold())
    if len(words) < SHORT_STEM:
        for option in sorted(options):
            words.extend(WORD.findall(option.casefold()))
    return words


def hash_grams(texts: Iterable[list[str]], vocabulary: dict[str, int]) -> Grams:
    """The 8-grams of texts given as words. `vocabulary` numbers the words and must be shared by what is compared.

    A text of fewer than 8 words is one gram.
    """
    flat: list[int] = []
    lengths: list[int] = []
    for words in texts:
        numbers = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
        numbers.extend([0] * (NGRAM - len(numbers)))
        flat.extend(numbers)
        lengths.append(len(numbers))
    if not lengths:
        empty = np.zeros(0, np.int64)
        return Grams(np.zeros(0, np.uint64), empty, empty, empty)
    words_of = mix_bits(np.array(flat, np.uint64))
    windows = len(words_of) - NGRAM + 1
    hashes = np.zeros(windows, np.uint64)
    for offset in range(NGRAM):  # a polynomial hash of the window; uint64 wraps around as wanted
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words_of[offset : offset + windows]
    row_of = np.repeat(np.arange(len(lengths)), lengths)[:windows]
    inside = np.arange(windows) + NGRAM <= np.cumsum(lengths)[row_of]  # not over the end of a text
    hashes, row_of = mix_bits(hashes[inside]), row_of[inside]
    order = np.lexsort((hashes, row_of))
    hashes, row_of = hashes[order], row_of[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (row_of[1:] != row_of[:-1])
    hashes, row_of = hashes[first], row_of[first]
    counts = np.bincount(row_of, minlength=len(lengths))
    return Grams(hashes, row_of, counts, np.cumsum(counts) - counts)


def find_pairs(
    left: Grams, right: Grams, threshold: float, within: bool = False
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Pairs (text of left, text of right, share of the left text's grams) with share >= threshold, in (0, 1].

    `within` compares a set with itself (left is right): each pair once, the text with fewer grams on the left.
    """
    order = np.argsort(right.hashes, kind="stable")
    sorted_hashes, sorted_rows = right.hashes[order], right.rows[order]
    low = np.searchsorted(sorted_hashes, left.hashes, "left")
    frequency = np.searchsorted(sorted_hashes, left.hashes, "right") - low
    rarest = np.lexsort((frequency, left.rows))
    rank = np.arange(len(rarest)) - left.starts[left.rows[rarest]]
    needed = left.counts - np.ceil(threshold * left.counts - 1e-9).astype(np.int64) + 1
    probes = rarest[rank < needed[left.rows[rarest]]]
    probes = probes[(frequency[probes] > 0) & (frequency[probes] <= FRAME)]

    found: list[tuple[Ints, Ints, NDArray[np.float64]]] = []
    keys = np.sort(pair_keys(right.hashes, right.rows))
    for chunk in split_chunks(probes, frequency[probes]):
        hits = expand_ranges(low[chunk], frequency[chunk])
        a, b = np.repeat(left.rows[chunk], frequency[chunk]), sorted_rows[hits]
        if within:
            smaller = (left.counts[a] < left.counts[b]) | (
                (left.counts[a] == left.counts[b]) & (a < b)
            )
            a, b = a[smaller], b[smaller]
        candidates = np.unique(a * len(right.counts) + b)
        found.append(
            measure_shares(
                left, keys, candidates // len(right.counts), candidates % len(right.counts)
            )
        )
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    a, b, shares = (np.concatenate(parts) for parts in zip(*found, strict=True))
    unique = np.unique(a * len(right.counts) + b, return_index=True)[1]
    unique = unique[shares[unique] >= threshold - 1e-9]
    return a[unique], b[unique], shares[unique]


def measure_shares(
    left: Grams, keys: UInts, a: Ints, b: Ints
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """The share of each candidate pair: how many of the grams of a are among `keys`, the (gram, text) keys of right."""
    shares = np.zeros(len(a))
    for chunk in split_chunks(np.arange(len(a)), left.counts[a]):
        counts = left.counts[a[chunk]]
        grams = left.hashes[expand_ranges(left.starts[a[chunk]], counts)]
        wanted = pair_keys(grams, np.repeat(b[chunk], counts))
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        pair_of = np.repeat(np.arange(len(chunk)), counts)
        shares[chunk] = np.bincount(pair_of[keys[place] == wanted], minlength=len(chunk)) / counts
    return a, b, shares


def split_chunks(items: Ints, weights: Ints) -> list[Ints]:
    """Cuts items into runs whose weights sum to about JOIN_CHUNK at most (or one item, where it alone is more)."""
    if not len(items):
        return []
    borders = np.flatnonzero(np.diff(np.cumsum(weights) // JOIN_CHUNK)) + 1
    return np.split(items, borders)


def expand_ranges(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, … of each range, one after the other."""
    ends = np.cumsum(lengths)
    return (
        np.arange(ends[-1] if len(ends) else 0)
        - np.repeat(ends - lengths, lengths)
        + np.repeat(starts, lengths)
    )


def pair_keys(hashes: UInts, rows: Ints) -> UInts:
    """One 64-bit key for a gram in a text."""
    return mix_bits(hashes + mix_bits(rows.astype(np.uint64) + np.uint64(1)))


def mix_bits(values: UInts) -> UInts:
    """The finaliser of splitmix64: spreads numbers over 64 bits, one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

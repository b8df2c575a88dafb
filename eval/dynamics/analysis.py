"""From rollouts to what is shown: features of each (in two processes where there are many), means of each step, the
phase of each step with its confidence, monitors, dev accuracy."""

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UserError
from eval.dynamics.features import UNKNOWN, Features, extract_features, find_terms
from eval.dynamics.monitors import Span, check_run
from eval.dynamics.phases import KEYS, label_steps
from eval.dynamics.run_files import Record
from eval.dynamics.texts import CHUNK, pack_texts
from eval.statistics import wilson_interval

RESAMPLES = 100
QUESTION_WORDS = 100.0  # where no question is found
MAY_LACK = ("first_statement", "leak_position", "overlap", "agrees")
PARALLEL = 5000  # rollouts, from which two processes are worth their start
METRICS = (
    "kl",
    "vllm_kl",
    "entropy_loss",
    "actor_grad_norm",
    "critic_loss",
    "policy_loss",
    "actor_lr",
)
"""What the page shows of metrics.jsonl, where it is logged."""

Work = tuple[list[str], list[tuple[str, list[str], frozenset[str]]], dict[str, bytes]]


class Analysis(NamedTuple):
    """A run, analysed. features: [rollouts, len(Features._fields)] in the record's order; chunks: their texts, packed.

    steps: means by step, with the names of metrics.jsonl. phases, confidence: of each of them. evals: dev accuracy.
    """

    record: Record
    features: NDArray[np.float32]
    chunks: list[bytes]
    steps: list[dict[str, Any]]
    phases: list[int]
    confidence: list[float]
    spans: list[Span]
    evals: list[dict[str, Any]]
    question_words: float


def analyse(
    record: Record, codes: dict[str, bytes], progress: Callable[[int], None] = lambda done: None
) -> Analysis:
    """Analyses a run. codes: of `encode_vocabulary`. progress: called with how many rollouts were done since."""
    texts = {
        key: " ".join([row["question"], *row.get("options", [])])
        for key, row in record.questions.items()
    }
    words = (
        sum(len(text.split()) for text in texts.values()) / len(texts) if texts else QUESTION_WORDS
    )
    features, chunks = measure_rollouts(record, find_terms(texts), codes, progress)
    train = np.array([row["split"] == "train" for row in record.rollouts])
    if not train.any():
        raise UserError(
            f"{record.folder}: no rollout of the split train, so there are no steps to report on"
        )
    steps_of = np.array([row["step"] for row in record.rollouts])
    steps, samples = [int(step) for step in np.unique(steps_of[train])], []
    order = np.flatnonzero(train)[np.argsort(steps_of[train], kind="stable")]
    bounds = np.searchsorted(steps_of[order], steps)
    rows = []
    for step, index in zip(steps, np.split(order, bounds[1:]), strict=True):
        group = [record.rollouts[i] for i in index]
        rows.append(describe_step(step, features[index], group, record.train.get(step, {})))
        truncated = np.array([bool(row.get("truncated")) for row in group], dtype=np.float32)
        columns = [
            features[index, Features._fields.index(key)] for key in KEYS if key != "truncated"
        ]
        samples.append(np.column_stack([*columns, truncated]))
    phases = label_steps(rows, words)
    confidence = bootstrap_phases(samples, phases, words)
    evals = measure_evals(record)
    return Analysis(
        record, features, chunks, rows, phases, confidence, check_run(rows), evals, words
    )


def measure_rollouts(
    record: Record,
    terms: Mapping[str, frozenset[str]],
    codes: dict[str, bytes],
    progress: Callable[[int], None],
) -> tuple[NDArray[np.float32], list[bytes]]:
    """Features of all rollouts, and their texts packed in chunks."""
    work: list[Work] = []
    for start in range(0, len(record.rollouts), CHUNK):
        group = record.rollouts[start : start + CHUNK]
        asked = []
        for row in group:
            question = record.questions.get(row["id"], {})
            asked.append(
                (
                    question.get("answer", "A"),
                    question.get("options", []),
                    terms.get(row["id"], frozenset()),
                )
            )
        work.append(([row["response"] for row in group], asked, codes))
    measured, chunks = [], []
    many = len(record.rollouts) >= PARALLEL
    with (
        ProcessPoolExecutor(max_workers=max(2, (os.cpu_count() or 2) // 2))
        if many
        else nullcontext() as pool
    ):
        for features, packed in (pool.map if pool else map)(measure_chunk, work):
            measured.append(features)
            chunks.append(packed)
            progress(len(features))
    return np.concatenate(measured), chunks


def measure_chunk(work: Work) -> tuple[NDArray[np.float32], bytes]:
    """Features [n, features] and packed texts of one chunk."""
    responses, asked, codes = work
    found = [
        extract_features(text, *question) for text, question in zip(responses, asked, strict=True)
    ]
    return np.array(found, dtype=np.float32), pack_texts(responses, codes)


def describe_step(
    step: int, features: NDArray[np.float32], rows: list[dict[str, Any]], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """A step's means: the features (of the rollouts that have them), what the rows hold, what the engine logged."""
    described: dict[str, Any] = {"step": step, "n": len(rows)}
    for place, name in enumerate(Features._fields):
        values = features[:, place]
        known = values[values != UNKNOWN] if name in MAY_LACK else values
        if len(known):
            described[name] = float(known.mean())
    rewards = np.array([row["reward"] for row in rows], dtype=float)
    described["rollout/reward_mean"] = float(rewards.mean())
    described["reward_se"] = (
        float(rewards.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else 0.0
    )
    for name, key in (
        ("accuracy", "correct"),
        ("format_rate", "format_ok"),
        ("truncated", "truncated"),
    ):
        described[name] = sum(bool(row.get(key)) for row in rows) / len(rows)
    lengths = [row["response_tokens"] for row in rows if "response_tokens" in row]
    if lengths:
        described["response_length"] = sum(lengths) / len(lengths)
    described |= {key: metrics[key] for key in METRICS if key in metrics}
    return described


def bootstrap_phases(
    samples: list[NDArray[np.float32]], phases: list[int], question_words: float
) -> list[float]:
    """For each step the share of resamplings of all steps' rollouts that give it the same phase, 0.0 to 1.0.

    samples: for each step [n, 6], the values under KEYS.
    """
    rng = np.random.default_rng(0)
    drawn = []
    for values in samples:
        weights = rng.multinomial(
            len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES
        )
        drawn.append(weights @ values / len(values))
    means = np.stack(drawn, axis=1).tolist()  # resamples, steps, keys
    same = np.zeros(len(phases))
    for resample in means:
        labels = label_steps(
            (dict(zip(KEYS, values, strict=True)) for values in resample), question_words
        )
        same += np.array(labels) == np.array(phases)
    return [float(share) for share in same / RESAMPLES]


def find_spans(one: Analysis) -> list[tuple[int, int, int]]:
    """The run's phases in order: (first step, last step, phase), no phase (0) among them."""
    spans: list[tuple[int, int, int]] = []
    for row, phase in zip(one.steps, one.phases, strict=True):
        first = spans.pop()[0] if spans and spans[-1][2] == phase else row["step"]
        spans.append((first, row["step"], phase))
    return spans


def measure_evals(record: Record) -> list[dict[str, Any]]:
    """Accuracy of each evaluation during training with its 95 % interval (Wilson), by data set, from its rollouts."""
    groups: dict[tuple[str, int], list[bool]] = {}
    for row in record.rollouts:
        if row["split"] != "train":
            name = f"{row['id'].split('/')[0]}/{row['split']}"
            groups.setdefault((name, row["step"]), []).append(row["correct"])
    evals = []
    for (name, step), correct in sorted(groups.items()):
        low, high, _ = wilson_interval(sum(correct), len(correct))
        value = sum(correct) / len(correct)
        evals.append(
            {
                "name": name,
                "step": step,
                "n": len(correct),
                "value": value,
                "low": low,
                "high": high,
            }
        )
    return evals

"""Compute how many questions, or answers to each, a difference between two models needs.

python -m eval.power                                     questions for 1 to 10 points
python -m eval.power --difference 8 --questions 818      the power of one comparison
python -m eval.power --questions 1273                    the least difference that is found
python -m eval.power --results results/laptop            with the disagreement measured there

Two-sided at 5 %, for a power of 80 %. What counts is on how many questions exactly one of two
models is right (`--discordant`, per cent); the test is the exact McNemar test. With several sampled
answers the part of the variance that is sampling noise (`--noise`, per cent) shrinks.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import bisect
from scipy.stats import binom, norm

ALPHA, POWER = 0.05, 0.8
DIFFERENCES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)


def mcnemar_power(n: int, difference: float, discordant: float) -> float:
    """Compute the exact power of the two-sided exact McNemar test on n questions.

    difference: of true accuracies; discordant: fraction that exactly one model answers; in [0, 1].
    Raises ValueError where |difference| > discordant, which no two models can have.
    """
    if not abs(difference) <= discordant <= 1 or discordant <= 0:
        points = f"{100 * difference:g} points"
        raise ValueError(f"{points} are more than --discordant: raise --discordant")
    spread = 8 * np.sqrt(n * discordant * (1 - discordant)) + 8
    first, last = max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread))
    m = np.arange(first, last + 1)
    # reject where the rarer side is at most this, if its tail is small enough
    critical = binom.ppf(ALPHA / 2, m, 0.5)
    critical = np.where(binom.cdf(critical, m, 0.5) <= ALPHA / 2, critical, critical - 1)
    fraction = (discordant + difference) / (2 * discordant)
    reject = binom.cdf(critical, m, fraction) + binom.sf(m - critical - 1, m, fraction)
    return float((binom.pmf(m, n, discordant) * reject).sum())


def find_questions(difference: float, discordant: float) -> int:
    """Find the number of questions that reach the power, by halving."""
    low, high = 8, 16
    while mcnemar_power(high, difference, discordant) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = mcnemar_power(middle, difference, discordant) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def find_difference(questions: int, discordant: float) -> float | None:
    """Find the least difference that is found with the power; None where the largest is not."""

    def lack(difference: float) -> float:
        return POWER - mcnemar_power(questions, difference, discordant)

    return None if lack(discordant) > 0 else float(bisect(lack, 0, discordant, xtol=1e-4))


def deviation(difference: float, discordant: float, noise: float, samples: int) -> float:
    """Compute the SD of one question's difference when each model answers it `samples` times."""
    return float(np.sqrt((discordant - difference**2) * ((1 - noise) + noise / samples)))


def sampled_power(
    n: int, difference: float, discordant: float, noise: float, samples: int
) -> float:
    """Compute the power of comparing means over samples, by the normal approximation."""
    z = norm.ppf(1 - ALPHA / 2)
    shift = difference * np.sqrt(n) / deviation(difference, discordant, noise, samples)
    return float(norm.sf(z - shift) + norm.cdf(-z - shift))


def read_discordant(folder: Path) -> float:
    """Read the fraction of questions that exactly one of two models got right, mean over pairs."""
    comparisons = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["comparisons"]
    found = [(c["only_a"] + c["only_b"]) / c["n"] for c in comparisons if c["only_a"] is not None]
    if not found:
        raise ValueError(f"{folder} compares no two models by single answers: give --discordant")
    return float(np.mean(found))


def percent(text: str) -> float:
    """Read per cent or points from the command line as a fraction. Raises ValueError."""
    if not 0 < float(text) <= 100:
        raise ValueError
    return float(text) / 100


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Parse the command line, which is in points and per cent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--discordant", type=percent, default=0.3, metavar="PERCENT")
    parser.add_argument("--noise", type=percent, default=0.5, metavar="PERCENT")
    parser.add_argument("--difference", type=percent, metavar="POINTS")
    parser.add_argument("--questions", type=int, metavar="N")
    parser.add_argument("--results", type=Path, metavar="FOLDER")
    return parser.parse_args(argv)


def describe(args: argparse.Namespace) -> list[str]:
    """Answer in lines of text. Raises ValueError where the question makes no sense."""
    discordant = read_discordant(args.results) if args.results else args.discordant
    n, noise, wanted = args.questions, args.noise, args.difference
    lines = [f"exactly one of the two models is right on {100 * discordant:.1f} % of the questions"]
    if n and wanted:
        powers = [mcnemar_power(n, wanted, discordant)]
        powers += [sampled_power(n, wanted, discordant, noise, k) for k in (4, 16)]
        text = ", ".join(f"{power:.1%}" for power in powers)
        lines.append(f"power of {100 * wanted:g} points on {n:,} questions: {text}")
    elif n:
        least = find_difference(n, discordant)
        text = "no difference at all" if least is None else f"{100 * least:.1f} points"
        lines.append(f"{n:,} questions show {text}")
    else:
        z = norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)
        for points in [wanted] if wanted else DIFFERENCES:
            counts = [find_questions(points, discordant)]
            for k in (4, 16):
                counts.append(
                    math.ceil((z * deviation(points, discordant, noise, k) / points) ** 2)
                )
            text = " ".join(f"{count:8,}" for count in counts)
            lines.append(f"{100 * points:5g} points {text} questions")
    return [*lines, "with 1 answer to each question, with 4, and with 16 sampled ones"]


if __name__ == "__main__":
    try:
        print("\n".join(describe(parse_args(sys.argv[1:]))))
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"power: {error}")

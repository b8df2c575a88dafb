"""Compute how many questions, or answers to each, a difference between two models needs.

python -m eval.power                                     questions for 1 to 10 points
python -m eval.power --difference 8 --questions 818      the power of one comparison
python -m eval.power --questions 1273                    the least difference that is found
python -m eval.power --results results/laptop            with the disagreement measured there

Two-sided exact McNemar test at 5 %, power 80 %. --discordant: per cent of the questions on which
exactly one model is right; --noise: per cent of an answer's variance that is sampling noise.
"""

import sys
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import bisect
from scipy.stats import binom, norm

from data_prep.files import read_mapping

ALPHA, POWER = 0.05, 0.8
Z = norm.ppf(1 - ALPHA / 2)
Power = Callable[[int], float]


def mcnemar_power(n: int, difference: float, discordant: float) -> float:
    """Compute the exact power of the two-sided exact McNemar test on n questions.

    discordant: fraction that exactly one model answers. Raises ValueError where it is less than the
    difference of the true accuracies, both in [0, 1].
    """
    if not abs(difference) <= discordant <= 1 or discordant <= 0:
        raise ValueError(f"{100 * difference:g} points are too many: raise --discordant")
    spread = 8 * np.sqrt(n * discordant * (1 - discordant)) + 8
    m = np.arange(max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread)) + 1)
    # reject where the rarer side is at most this, if its tail is small enough
    critical = binom.ppf(ALPHA / 2, m, 0.5)
    critical -= binom.cdf(critical, m, 0.5) > ALPHA / 2
    fraction = (discordant + difference) / (2 * discordant)
    reject = binom.cdf(critical, m, fraction) + binom.sf(m - critical - 1, m, fraction)
    return float((binom.pmf(m, n, discordant) * reject).sum())


def sampled_power(n: int, difference: float, discordant: float, noise: float, k: int) -> float:
    """Compute the power of comparing means over k samples, by the normal approximation."""
    variance = (discordant - difference**2) * ((1 - noise) + noise / k)
    shift = difference * np.sqrt(n / variance)
    return float(norm.sf(Z - shift) + norm.cdf(-Z - shift))


def find_questions(power: Power) -> int:
    """Find the number of questions, up to 4 million, at which `power` of it is enough."""
    return 8 + bisect_left(range(8, 1 << 22), POWER, key=power)


def find_difference(n: int, discordant: float) -> float:
    """Find the least difference that is found with the power. Raises ValueError if none is."""
    if mcnemar_power(n, discordant, discordant) < POWER:
        raise ValueError(f"{n:,} questions show no difference at all")
    return bisect(lambda d: mcnemar_power(n, d, discordant) - POWER, 0, discordant, xtol=1e-4)


def describe(args: Namespace) -> list[str]:
    """Answer in lines of text. Raises ValueError where the question makes no sense."""
    n, discordant, wanted = args.questions, args.discordant, args.difference
    if args.results:
        summary = read_mapping(args.results / "summary.json", "give a folder of `make eval`")
        pairs = [c for c in summary["comparisons"] if c["only_a"] is not None]  # else sampled
        if not pairs:
            raise ValueError(f"{args.results} compares no single answers: give --discordant")
        discordant = float(np.mean([(c["only_a"] + c["only_b"]) / c["n"] for c in pairs]))
    lines = [f"exactly one of the two models is right on {100 * discordant:.1f} % of the questions"]
    if n and not wanted:
        return [*lines, f"{n:,} questions show {100 * find_difference(n, discordant):.1f} points"]
    lines.append(f"{'power' if n else 'questions'} with 1 answer to each, with 4 and 16 samples")
    for points in [wanted] if wanted else [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1]:
        facts = {"difference": points, "discordant": discordant}
        powers: list[Power] = [partial(mcnemar_power, **facts)]
        powers += [partial(sampled_power, **facts, noise=args.noise, k=k) for k in (4, 16)]
        cells = [f"{power(n):8.1%}" if n else f"{find_questions(power):8,}" for power in powers]
        lines.append(f"{100 * points:5g} points {' '.join(cells)}")
    return lines


def percent(text: str) -> float:
    """Read per cent or points from the command line as a fraction. Raises ValueError."""
    if not 0 < float(text) <= 100:
        raise ValueError
    return float(text) / 100


def parse_args(argv: list[str]) -> Namespace:
    """Parse the command line, which is in points and per cent."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--discordant", type=percent, default=0.3, metavar="PERCENT")
    parser.add_argument("--noise", type=percent, default=0.5, metavar="PERCENT")
    parser.add_argument("--difference", type=percent, metavar="POINTS")
    parser.add_argument("--questions", type=int, metavar="N")
    parser.add_argument("--results", type=Path, metavar="FOLDER")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        print("\n".join(describe(parse_args(sys.argv[1:]))))
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"power: {error}")

"""How many questions, or samples of each, does a difference of d points need?

python -m eval.power                                          questions for 1 to 10 points
python -m eval.power --difference 8 --questions 818           the power of one comparison
python -m eval.power --questions 1273                         the least difference that 1,273 questions show
python -m eval.power --results results/laptop                 with the disagreement that was measured there

Two models answer the same questions; what counts is on how many exactly one of them is right (`--discordant`, in per
cent of the questions). The test is the exact McNemar test. With several sampled answers to each question, the part of
the variance that is sampling noise (`--noise`, in per cent) shrinks; the part that is the choice of questions does not.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm


def mcnemar_power(
    questions: int, difference: float, discordant: float, alpha: float = 0.05
) -> float:
    """Exact power of the two-sided exact McNemar test.

    difference: true accuracy of a minus that of b; discordant: share of questions that exactly one answers; both in
    [0, 1]. Raises ValueError where |difference| > discordant, which no two models can have.
    """
    if not abs(difference) <= discordant <= 1 or discordant <= 0:
        raise ValueError(
            f"a difference of {difference:.3g} needs discordant questions between that and 1: {discordant:.3g}"
        )
    spread = 8 * np.sqrt(questions * discordant * (1 - discordant)) + 8
    m = np.arange(
        max(0, int(questions * discordant - spread)),
        min(questions, int(questions * discordant + spread)) + 1,
    )
    critical = binom.ppf(
        alpha / 2, m, 0.5
    )  # reject where the rarer side is at most this, if its tail is small enough
    critical = np.where(binom.cdf(critical, m, 0.5) <= alpha / 2, critical, critical - 1)
    share = (discordant + difference) / (2 * discordant)
    reject = binom.cdf(critical, m, share) + binom.sf(m - critical - 1, m, share)
    return float((binom.pmf(m, questions, discordant) * reject).sum())


def find_questions(
    difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """The least number of questions from which on the power is reached (the exact test's power saws a little)."""
    high = 16
    while mcnemar_power(high, difference, discordant, alpha) < power:
        high *= 2
        if high > 10_000_000:
            raise ValueError(
                f"a difference of {difference:.3g} needs more than 10 million questions"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(middle, difference, discordant, alpha) >= power:
            high = middle
        else:
            low = middle
    return high


def find_difference(
    questions: int, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The least difference that is found with this power, to 0.01 points; None where even the largest is not."""
    low, high = 0.0, discordant
    if mcnemar_power(questions, high, discordant, alpha) < power:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        if mcnemar_power(questions, middle, discordant, alpha) >= power:
            high = middle
        else:
            low = middle
    return high


def shrink_variance(discordant: float, difference: float, noise: float, samples: int) -> float:
    """Variance of one question's difference when each model answers it `samples` times (noise in [0, 1])."""
    return (discordant - difference**2) * ((1 - noise) + noise / samples)


def sampled_power(
    questions: int,
    difference: float,
    discordant: float,
    noise: float,
    samples: int,
    alpha: float = 0.05,
) -> float:
    """Power of the paired comparison of means over samples, by the normal approximation."""
    error = np.sqrt(shrink_variance(discordant, difference, noise, samples) / questions)
    z = norm.ppf(1 - alpha / 2)
    return float(norm.sf(z - difference / error) + norm.cdf(-z - difference / error))


def find_sampled_questions(
    difference: float,
    discordant: float,
    noise: float,
    samples: int,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """Questions needed with several samples of each, by the normal approximation."""
    z = norm.ppf(1 - alpha / 2) + norm.ppf(power)
    return int(
        np.ceil(z**2 * shrink_variance(discordant, difference, noise, samples) / difference**2)
    )


def read_discordant(folder: Path) -> float:
    """Mean share of questions that exactly one of two models got right, over the comparisons of a results folder."""
    comparisons = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["comparisons"]
    shares = [(c["only_a"] + c["only_b"]) / c["n"] for c in comparisons if c["only_a"] is not None]
    if not shares:
        raise ValueError(
            f"{folder} compares no two models with one answer to each question: give --discordant"
        )
    return float(np.mean(shares))


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command line; points and per cent, as people say them."""
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        prog="python -m eval.power",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--difference", type=float, metavar="POINTS", help="true difference in points of accuracy"
    )
    parser.add_argument("--questions", type=int, metavar="N", help="number of different questions")
    parser.add_argument(
        "--discordant", type=float, default=30.0, metavar="PERCENT", help="default: 30"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="take --discordant from this results folder"
    )
    parser.add_argument("--power", type=float, default=80.0, metavar="PERCENT", help="default: 80")
    parser.add_argument(
        "--alpha", type=float, default=5.0, metavar="PERCENT", help="two-sided level; default: 5"
    )
    parser.add_argument("--noise", type=float, default=50.0, metavar="PERCENT", help="default: 50")
    args = parser.parse_args(argv)
    for name in ("discordant", "power", "alpha", "noise"):
        if not 0 < getattr(args, name) <= 100:
            parser.error(f"--{name} {getattr(args, name)} is not within 0 and 100 per cent")
    if args.questions is not None and args.questions < 1:
        parser.error(f"--questions {args.questions} is no number of questions")
    if args.difference is not None and not 0 < args.difference <= 100:
        parser.error(f"--difference {args.difference} is not within 0 and 100 points")
    return args


def describe(args: argparse.Namespace) -> list[str]:
    """The lines that are printed. Raises ValueError where the question makes no sense."""
    discordant = read_discordant(args.results) if args.results else args.discordant / 100
    power, alpha, noise = args.power / 100, args.alpha / 100, args.noise / 100
    lines = [
        f"exactly one of the two models is right on {100 * discordant:.1f} % of the questions; level {args.alpha:g} %"
    ]
    if args.difference and args.questions:
        found = mcnemar_power(args.questions, args.difference / 100, discordant, alpha)
        lines.append(
            f"{args.difference:g} points on {args.questions:,} questions: found with a power of {found:.1%}"
        )
        for samples in (4, 16):
            found = sampled_power(
                args.questions, args.difference / 100, discordant, noise, samples, alpha
            )
            lines.append(
                f"  with {samples} sampled answers to each, {args.noise:g} % of the variance noise: {found:.1%}"
            )
    elif args.questions:
        least = find_difference(args.questions, discordant, power, alpha)
        text = "no difference at all" if least is None else f"{100 * least:.1f} points"
        lines.append(f"{args.questions:,} questions show {text} with a power of {args.power:g} %")
    else:
        lines.append(
            f"questions for a power of {args.power:g} %: with 1 answer to each, and with 4 and 16 sampled ones"
        )
        for points in [args.difference] if args.difference else [1, 2, 3, 4, 5, 6, 8, 10]:
            if points / 100 > discordant:
                raise ValueError(
                    f"{points:g} points need at least as many discordant questions: raise --discordant"
                )
            more = [
                find_sampled_questions(points / 100, discordant, noise, k, power, alpha)
                for k in (4, 16)
            ]
            one = find_questions(points / 100, discordant, power, alpha)
            lines.append(f"{points:5g} points {one:8,} {more[0]:8,} {more[1]:8,}")
    return lines


def main() -> None:
    """Prints the answer, or one line of what is wrong."""
    try:
        print("\n".join(describe(parse_args(sys.argv[1:]))))
    except (ValueError, OSError) as error:
        sys.exit(f"power: {error}")


if __name__ == "__main__":
    main()

"""How many questions a difference needs: the two ways to ask agree with each other and with what was measured."""

from pathlib import Path

import pytest

from eval.power import (
    describe,
    find_difference,
    find_questions,
    mcnemar_power,
    parse_args,
    sampled_power,
)


def test_power_finds_what_it_says() -> None:
    n = find_questions(lambda n: mcnemar_power(n, 0.08, 0.3))
    assert mcnemar_power(n, 0.08, 0.3) >= 0.8 > mcnemar_power(n - 30, 0.08, 0.3)
    least = find_difference(1273, 0.3)
    assert least is not None and mcnemar_power(1273, least, 0.3) == pytest.approx(0.8, abs=0.01)
    assert sampled_power(818, 0.08, 0.3, 0.5, 1) == pytest.approx(
        mcnemar_power(818, 0.08, 0.3), abs=0.02
    )
    assert sampled_power(818, 0.03, 0.3, 0.5, 16) > sampled_power(818, 0.03, 0.3, 0.5, 1) + 0.1
    assert "98.6%" in "\n".join(describe(parse_args(["--difference", "8", "--questions", "818"])))
    with pytest.raises(ValueError, match="raise --discordant"):
        describe(parse_args(["--difference", "40"]))
    with pytest.raises(SystemExit):
        parse_args(["--discordant", "0"])


def test_power_takes_the_measured_disagreement(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        '{"comparisons": [{"only_a": 30, "only_b": 10, "n": 200}]}'
    )
    assert "20.0 % of the questions" in describe(parse_args(["--results", str(tmp_path)]))[0]

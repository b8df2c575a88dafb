"""The lenient reading of whole responses: every row of tests/lenient.yaml."""

from pathlib import Path

import pytest
import yaml

from eval.reading import lenient_choice

OPTIONS = ["Aspirin", "Glipizide", "Metformin", "Insulin"]
ROWS = yaml.safe_load(Path(__file__).with_name("lenient.yaml").read_text())["lenient"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row["response"])[:60])
def test_lenient_choice(row):
    assert lenient_choice(row["response"], OPTIONS) == row["choice"], row["why"]

"""The lenient reading of whole responses: every row of tests/lenient.yaml."""

from pathlib import Path

import pytest
import yaml

from reward_server.lenient import lenient_choice

ROWS = yaml.safe_load(Path(__file__).with_name("lenient.yaml").read_text())["lenient"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row["response"])[:60])
def test_lenient_choice(row):
    assert lenient_choice(row["response"], 4) == row["choice"], row["why"]

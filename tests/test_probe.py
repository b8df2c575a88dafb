"""What `make probe` asks, and what it says of a format rate. That it runs: `make probe` itself (docs/LOG.md)."""

import pytest

from eval import probe


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.0, "nothing can be learned"),
        (0.02, "learning begins slowly"),
        (0.10, "the format is learned first"),
        (0.20, "within a few steps"),
        (1.0, "within a few steps"),
    ],
)
def test_what_a_format_rate_means(compose_config, monkeypatch, capsys, rate, words):
    asked = []

    def answer(cfg):
        asked.append(cfg)
        return {"results": [{"benchmark": "bank/dev", "format_rate": rate, "n": 200}]}

    monkeypatch.setattr(probe, "evaluate", answer)
    probe.probe(compose_config("eval", "experiment=laptop"))
    (cfg,) = asked
    assert (cfg.temperature, cfg.samples, cfg.limit) == (1.0, 1, 200)
    assert cfg.benchmarks == ["bank/dev"] and cfg.modes == ["think"] and cfg.claims is None
    assert cfg.models == {"base": "recipes/laptop_model"} and cfg.name == "probe-laptop"
    shown = capsys.readouterr().out
    assert words in shown and f"{rate:.1%} of 200 answers" in shown


def test_a_hub_model_is_asked_at_its_pinned_revision(compose_config, monkeypatch):
    def stop(cfg):
        raise KeyError(cfg.models.base)

    monkeypatch.setattr(probe, "evaluate", stop)
    with pytest.raises(
        KeyError, match=r"Qwen/Qwen2\.5-3B@3aab1f1954e9cc14eb9509a215f9e5ca08227a9b"
    ):
        probe.probe(compose_config("eval", "experiment=tuned"))

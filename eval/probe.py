"""Ask the base model before a run how often it follows the format: `make probe experiment=paper`.

It asks 200 dev questions at temperature 1, as the first rollouts do, into results/probe-NAME/.
"""

from omegaconf import DictConfig

from data_prep.command import run_command
from eval.run import evaluate
from eval.statistics import wilson_interval

# up to this rate → what to expect: PPO learns from answers that earn more than others
MEANING = {
    0.005: "every reward is -1 and nothing can be learned: try another prompt (docs/data.md), an "
    "instruct model (experiment=instruct), or SFT on worked answers first",
    0.05: "learning begins slowly, and may not begin: watch `format` for the first 20 steps",
    0.15: "enough to begin with: the format is learned first, within some tens of steps",
    1.0: "the format is learned within a few steps, and accuracy from the start",
}


def probe(cfg: DictConfig) -> None:
    """Evaluate the base model on dev as a rollout samples it, and say what its rate means."""
    revision = cfg.model.revision
    cfg.models = {"base": f"{cfg.model.path}@{revision}" if revision else str(cfg.model.path)}
    cfg.name = f"probe-{cfg.name}"
    cfg.benchmarks, cfg.modes, cfg.claims = [f"{cfg.data.name}/dev"], ["think"], None
    cfg.temperature, cfg.samples, cfg.limit = 1.0, 1, cfg.limit or 200
    (result,) = evaluate(cfg)["results"]
    rate, n = result["format_rate"], result["n"]
    low, high, _ = wilson_interval(round(rate * n), n)
    meaning = next(text for limit, text in MEANING.items() if rate <= limit)
    print(
        f"{cfg.models.base} on {result['benchmark']} at T = 1: {rate:.1%} of {n} answers follow "
        f"the format (95 % interval {low:.1%} to {high:.1%}): {meaning}"
    )


if __name__ == "__main__":
    run_command(probe, "eval")

"""Writes the model card of a trained model, `README.md` as model hubs want it, from what the run left on disk.

make card                                        the model of the experiment's run -> runs/rlvr/<name>/model/README.md
python -m eval.card run=runs/rlvr/mine evaluation=results/mine

Every number comes from the run folder and from an evaluation's summary.json; what is not there is said to be missing.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import hydra
import yaml
from omegaconf import DictConfig

from data_prep.errors import UserError
from data_prep.files import write_text
from eval.choices import add_experiment

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"
PICTURE = "training_dynamics.png"
LICENCES = {
    "Qwen/Qwen2.5-3B": (
        "other",
        "qwen-research",
        "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
    ),
    "Qwen/Qwen2.5-3B-Instruct": (
        "other",
        "qwen-research",
        "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
    ),
    "recipes/laptop_model": ("apache-2.0", None, None),
}
"""Base model -> licence for the hub's header, its name, its text. A fine-tuned model stays under its base's licence."""
CHECKS = {
    "paper": ": text before `<think>` was not forbidden, and may hold the reasoning.",
    "strict": ": nothing was allowed before `<think>`.",
}
SETTINGS = {
    "passes over the questions": "train.num_episodes",
    "questions a step": "rollout.batch_size",
    "samples a question": "rollout.n_samples_per_prompt",
    "sampling temperature": "rollout.temperature",
    "most new tokens": "rollout.max_new_tokens",
    "actor's learning rate": "actor.adam.lr",
    "critic's learning rate": "critic.adam.lr",
    "KL coefficient": "algo.kl.init_coef",
    "advantage estimator": "algo.advantage.estimator",
    "seed": "train.seed",
}


def make_card(cfg: DictConfig) -> Path:
    """Writes the card into the model's folder, with the picture; returns its path. Raises UserError."""
    folder = Path(cfg.run)
    model = folder / "model"
    problems = [
        f"{path} is not there: {mend}"
        for path, mend in (
            (folder / "run.json", "give a run folder, run=runs/rlvr/NAME"),
            (folder / "config.yaml", "give a run folder, run=runs/rlvr/NAME"),
            (
                model / "config.json",
                "the run has saved no model yet; finish it with `make rlvr resume=true`",
            ),
        )
        if not path.is_file()
    ]
    if problems:
        raise UserError(*problems)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    scores = find_scores(Path(cfg.evaluation), model)
    dynamics = read_dynamics(folder / "report")
    if dynamics:
        shutil.copyfile(folder / "report" / "dynamics.png", model / PICTURE)
    write_text(model / "README.md", render_card(run, config, scores, dynamics, cfg.licence))
    return model / "README.md"


def find_scores(folder: Path, model: Path) -> list[dict[str, Any]]:
    """The results of an evaluation that are of this model's folder; none where it was not evaluated there."""
    path = folder / "summary.json"
    if not path.is_file():
        return []
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [result for result in results if Path(result["path"]).resolve() == model.resolve()]


def read_dynamics(folder: Path) -> dict[str, Any] | None:
    """The first run of a report's dynamics.json; None without a report."""
    if not (folder / "dynamics.json").is_file() or not (folder / "dynamics.png").is_file():
        return None
    found: list[dict[str, Any]] = json.loads((folder / "dynamics.json").read_text(encoding="utf-8"))
    return found[0]


def render_card(
    run: dict[str, Any],
    config: dict[str, Any],
    scores: list[dict[str, Any]],
    dynamics: dict[str, Any] | None,
    licence: str | None,
) -> str:
    """The card: the hub's header, then what the model is, scores, dynamics, training, limits, licences."""
    base = config["model"]["path"]
    kind, name, link = (
        (licence, None, None) if licence else LICENCES.get(base, ("other", "see-base-model", None))
    )
    hub = "/" in base and not Path(base).exists()
    header: dict[str, Any] = {"license": kind}
    header |= {
        key: value for key, value in (("license_name", name), ("license_link", link)) if value
    }
    header |= {"base_model": base} if hub else {}
    header |= {
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    header |= {"tags": ["medical", "rlvr", "ppo", "openrlhf", "not-for-clinical-use"]}
    if scores:
        header["model-index"] = [
            {"name": config["name"], "results": [describe_result(score) for score in scores]}
        ]
    data, reward = config["data"], config["reward"]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {config['name']}",
        "> **Not for clinical use.** A research model. Its answers and its reasoning may be wrong, and must not be "
        "used to diagnose, treat or advise anyone.",
        f"`{base}` trained on multiple-choice questions of `{data['name']}` by PPO with a verifiable reward: 1 for the "
        "right letter in the right format, 0 for a wrong one, −1 where the format is not followed. No reasoning was "
        "shown to it in this training. Made with Med-RLVR, after [arXiv 2502.19655](https://arxiv.org/abs/2502.19655).",
        "## Scores",
        render_scores(scores),
        "## Training dynamics",
        render_dynamics(dynamics),
        "## Training",
        render_training(run, config),
        "## Limits",
        "* Trained to choose among given options; open questions are outside of what was trained.\n"
        "* The reward sees the letter and the format alone: nothing checked whether the reasoning is sound, or whether "
        "it is what led to the answer.\n"
        f"* The reward's format check was `{reward['mode']}`{CHECKS[reward['mode']]}\n"
        "* Benchmarks may be part of the base model's training data.",
        "## Licences",
        f"* Model: that of its base, {name or kind}"
        + (f" ([text]({link}))" if link else "")
        + "."
        + (" Research use only: no commercial use." if name == "qwen-research" else "")
        + f"\n* Data `{data['name']}`: {data['licence']}.\n* Code: Apache-2.0.",
    ]
    return "\n\n".join(parts) + "\n"


def describe_result(score: dict[str, Any]) -> dict[str, Any]:
    """A result for the header's model-index."""
    value = round(score["accuracy"]["value"], 4)
    return {
        "task": {"type": "multiple-choice"},
        "dataset": {"name": score["benchmark"], "type": score["benchmark"]},
        "metrics": [
            {"type": "accuracy", "value": value, "name": f"accuracy, strict, mode {score['mode']}"}
        ],
    }


def render_scores(scores: list[dict[str, Any]]) -> str:
    """A table: accuracy with n and 95 % interval."""
    if not scores:
        return "Not evaluated: `make eval`, then `make card` again."
    lines = [
        "| benchmark | mode | n | accuracy, strict (95 %) | lenient | chance |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for score in scores:
        low, value, high = (100 * score["accuracy"][key] for key in ("low", "value", "high"))
        lenient = 100 * score["accuracy_lenient"]["value"]
        strict = f"{value:.1f} % ({low:.1f} to {high:.1f})"
        cells = [
            score["benchmark"],
            score["mode"],
            f"{score['accuracy']['n']:,}",
            strict,
            f"{lenient:.1f} %",
        ]
        cells.append(f"{100 * score['chance']:.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def render_dynamics(dynamics: dict[str, Any] | None) -> str:
    """The picture, the phases, and the monitors that tripped."""
    if dynamics is None:
        return "No report: `make report`, then `make card` again."
    lines = [f"![Training dynamics]({PICTURE})", ""]
    for span in dynamics["phases"]:
        label = f"phase {span['phase']}, {span['name']}" if span["phase"] else "no phase"
        lines.append(f"* steps {span['first']} to {span['last']}: {label}")
    lines += [
        f"* warning, steps {span['first']} to {span['last']}: {span['says']} (`{span['monitor']}`)"
        for span in dynamics["monitors"]
    ] or ["* no monitor tripped"]
    return "\n".join(lines)


def render_training(run: dict[str, Any], config: dict[str, Any]) -> str:
    """Settings, data with hashes, versions, machine, commit."""
    flags = config["openrlhf"]
    lines = ["| | |", "|---|---|"]
    for label, key in SETTINGS.items():
        value: Any = flags
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        lines.append(f"| {label} | {value} |")
    git, machine, minutes = (
        run.get("git") or {},
        run["machine"],
        (run.get("wall_seconds") or 0) / 60,
    )
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    lines += [
        f"| steps | {run.get('total_steps')} |",
        f"| reward | mode `{config['reward']['mode']}`, options `{json.dumps(config['reward']['options'])}` |",
        f"| base model's revision | {config['model'].get('revision') or 'a local folder'} |",
        f"| machine | {machine['system']}, {machine['cpus']} CPUs, hardware={machine['hardware']} |",
        f"| started, took | {run['started']}, {minutes:.1f} minutes, exit code {run.get('exit')} |",
        f"| commit | {git.get('commit', 'unknown')}{dirty} |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in run['versions'].items())} |",
        f"| questions trained on | {run['data']['train_rows']:,} of `{run['data']['name']}` |",
    ]
    lines += [
        f"| SHA-256 of {name} | `{digest}` |" for name, digest in run["data"]["files"].items()
    ]
    return "\n".join(lines)


@hydra.main(config_path=str(CONFIGS), config_name="card", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Writes the card. Exits with 2 and one line for each problem where the user must act."""
    try:
        path = make_card(cfg)
    except UserError as error:
        for problem in error.problems:
            print(f"card: {problem}", file=sys.stderr)
        sys.exit(2)
    print(f"{path} ({len(path.read_text(encoding='utf-8').splitlines())} lines)")


if __name__ == "__main__":
    add_experiment(sys.argv)
    main()

"""Write the model card of a trained model, README.md as model hubs want it.

make card                             of the experiment's run, into runs/rlvr/<name>/model/
make card run=runs/rlvr/mine evaluation=results/mine

Every number comes from the run folder and from an evaluation's summary.json; what is missing or
cannot be read is named in the card. A path of this machine is never written.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.command import run_command, show_text
from data_prep.errors import UserError
from data_prep.files import write_text
from eval.dynamics.run_files import find_value, read_mapping
from eval.tables import (
    TEMPLATES,
    build_published,
    build_scores,
    escape_markdown,
    render_markdown,
)

PICTURE = "training_dynamics.png"
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "llama3", "llama3.1", "llama3.2", "gemma")
"""Licences with an identifier of their own on the hub; another one is `other` with its name."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # Qwen/Qwen2.5-3B

Values = dict[str, Any]


def make_card(cfg: DictConfig) -> Path:
    """Write the card and its picture into the model's folder; return its path. Raises UserError."""
    folder = Path(cfg.run)
    model, report = folder / "model", folder / "report"
    missing = [
        f"{folder / name} is not there: give a run folder, run=runs/rlvr/NAME"
        for name in ("run.json", "config.yaml")
        if not (folder / name).is_file()
    ]
    if not (model / "config.json").is_file():
        missing.append(f"{folder} saved no model yet; `make rlvr resume=true` finishes it")
    if missing:
        raise UserError(*missing)
    gaps: list[str] = []  # from here on what is missing is named in the card, and ends nothing
    run = read_mapping(folder / "run.json", gaps)
    config = read_mapping(folder / "config.yaml", gaps)
    scores = find_scores(Path(cfg.evaluation) / "summary.json", model, gaps)
    dynamics = read_dynamics(report, gaps)
    text = render_card(run, config, scores, dynamics, cfg.licence, gaps)
    if dynamics:
        shutil.copyfile(report / "dynamics.png", model / PICTURE)
    write_text(model / "README.md", text)
    return model / "README.md"


def find_scores(path: Path, model: Path, gaps: list[str]) -> list[Values]:
    """Find an evaluation's results of this model's folder; none where it was not evaluated."""
    scores: list[Values] = []
    results: Any = find_value(read_mapping(path, gaps), "results", []) if path.is_file() else []
    for result in results if isinstance(results, list) else [results]:
        try:
            if Path(result["path"]).resolve() == model.resolve():
                # what the card will do with it
                render_markdown(build_scores([result]))
                render_markdown(build_published([result]))
                round(result["accuracy"]["value"], 4)
                scores.append(result)
        except Exception:  # a damaged file is a gap in the card, not its end
            gaps.append(f"a result in {path.name} cannot be read: run `make eval` again")
    return scores


def read_dynamics(report: Path, gaps: list[str]) -> list[str]:
    """Read phases and monitors of a report's first run as sentences; none without a report."""
    if not (report / "dynamics.json").is_file() or not (report / "dynamics.png").is_file():
        return []
    lines = []
    try:
        first = json.loads((report / "dynamics.json").read_text(encoding="utf-8"))[0]
        for span in first["phases"]:
            phase = f"phase {span['phase']}, {span['name']}" if span["phase"] else "no phase"
            lines.append(f"steps {span['first']} to {span['last']}: {phase}")
        for span in first["monitors"]:
            line = f"{span['says']} ({span['monitor']})"
            lines.append(f"warning, steps {span['first']} to {span['last']}: {line}")
        return lines if first["monitors"] else [*lines, "no monitor tripped"]
    except Exception:  # damaged in any way
        gaps.append("the report cannot be read: run `make report` again")
        return []


def render_card(
    run: Values,
    config: Values,
    scores: list[Values],
    dynamics: list[str],
    licence: str | None,
    gaps: list[str],
) -> str:
    """Render the card: the hub's header, then model_card.md.j2."""
    from huggingface_hub import EvalResult, ModelCardData
    from markupsafe import Markup

    name, base = str(config.get("name") or "model"), find_base(config)
    facts = {"name": licence} if licence else find_value(config, "model.licence", {})
    facts = {"name": facts} if isinstance(facts, str) else facts
    kind, link = find_value(facts, "name"), find_value(facts, "link")
    kind = kind if isinstance(kind, str) and kind.strip() else "see-base-model"
    if kind == "see-base-model":
        gaps = [*gaps, "the licence of the base model is not recorded: `make card licence=NAME`"]
    # the hub's header: a licence that it does not list is `other` with its name and link
    own = {} if kind in HUB_LICENCES else {"license_name": kind, "license_link": link}
    results = [
        EvalResult(
            task_type="multiple-choice",
            dataset_type=score["benchmark"],
            dataset_name=score["benchmark"],
            metric_type="accuracy",
            metric_name=f"accuracy, strict, mode {score['mode']}",
            metric_value=round(score["accuracy"]["value"], 4),
        )
        for score in scores
    ]
    header = ModelCardData(
        language="en",
        license="other" if own else kind,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["medical", "rlvr", "ppo", "openrlhf", "not-for-clinical-use"],
        base_model=base if HUB_ID.fullmatch(base) else None,
        model_name=name if scores else None,
        eval_results=results or None,
        **own,
    )
    # the text: tables are ready Markdown, everything else is escaped
    paper = build_published(scores)
    escaping = TEMPLATES.overlay(
        finalize=lambda text: text if hasattr(text, "__html__") else escape_markdown(text)
    )
    return escaping.get_template("model_card.md.j2").render(
        header=Markup(header.to_yaml()),
        name=name,
        base=base,
        gaps=gaps,
        scores=Markup(render_markdown(build_scores(scores))) if scores else "",
        prompts=sorted({score["settings"]["benchmark"]["prompt"]["name"] for score in scores}),
        paper=Markup(render_markdown(paper)) if len(paper.frame) else "",
        paper_note=paper.note,
        picture=PICTURE,
        dynamics=dynamics,
        run=lambda key, default="not recorded": find_value(run, key, default),
        config=lambda key, default="not recorded": find_value(config, key, default),
        licence={"name": kind, "link": link, "note": find_value(facts, "note")},
    )


def find_base(config: Values) -> str:
    """Name the base model: its hub id, or the last part of a folder's path."""
    path = str(find_value(config, "model.path", "not recorded"))
    for name in (str(find_value(config, "model.id", "")), path):
        if HUB_ID.fullmatch(name) and not Path(name).exists():
            return name
    return Path(path).name


if __name__ == "__main__":
    run_command(lambda cfg: print(show_text(make_card(cfg))), "card")

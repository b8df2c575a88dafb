"""Mode loglikelihood against lm-evaluation-harness: the same choices? how much faster?

python bench/eval.py                                             ours alone, on the laptop's model and bank
python bench/eval.py --harness-python OTHER/bin/python --benchmark medqa/test --benchmark mmlu_pro_health/test

OTHER is another virtual environment with `pip install lm_eval transformers torch` (lm_eval is no dependency of
ours). Both sides are timed as whole commands, start-up included, one after the other in float32, and answer the same
prepared questions with the same prompt (`direct_prompt`) and letters. Next to wall time there is processor time, which
says more on a machine that does other work too.

lm-evaluation-harness moves white space at the end of a prompt into the answer and cuts the tokens of the whole there.
Where the tokenizer joins `:` and the line break (Qwen's does) the model is then shown a prompt without its line break.
So two runs are compared: the harness as it is, and with prompt and letter tokenised as they are (`--boundary ours`).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{direct_prompt}}}}"
doc_to_choice: "{{{{'{letters}'[:options|length]|list}}}}"
doc_to_target: "{{{{'{letters}'.index(answer)}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


class Seconds(NamedTuple):
    """Of a command and all that it starts: wall time, and processor time of the user and the system."""

    wall: float
    processor: float


def run_harness(args: argparse.Namespace) -> None:
    """In the other environment: lm-evaluation-harness on the task files of a folder; writes {task: {id: choice}}."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class OwnBoundary(HFLM):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            return self.tok_encode(context), self.tok_encode(continuation, add_special_tokens=False)

    kind = HFLM if args.boundary == "stock" else OwnBoundary
    model = kind(
        pretrained=args.model, dtype="float32", batch_size=args.batch_size, device=args.device
    )
    names = sorted(path.stem for path in args.tasks.glob("*.yaml"))
    manager = TaskManager(include_path=str(args.tasks), include_defaults=False)
    found = simple_evaluate(
        model=model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    choices: dict[str, dict[str, Any]] = {}
    for name in names:
        choices[name] = {}
        for sample in found["samples"][name]:
            scores = [float(resp[0]) for resp in sample["filtered_resps"]]
            choices[name][sample["doc"]["id"]] = {
                "choice": LETTERS[scores.index(max(scores))],
                "scores": scores,
            }
    args.out.write_text(json.dumps(choices))


def time_harness(
    args: argparse.Namespace, folder: Path, boundary: str
) -> tuple[Seconds, dict[str, Any]]:
    """Times the whole command; returns its choices too."""
    tasks, out = folder / "tasks", folder / f"{boundary}.json"
    tasks.mkdir(exist_ok=True)
    for benchmark in args.benchmark:
        path = (args.data_dir / f"{benchmark}.jsonl").resolve()
        name = benchmark.replace("/", "-")
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name, path=path, letters=LETTERS))
    command = [
        args.harness_python,
        __file__,
        "harness",
        "--model",
        args.model,
        "--tasks",
        tasks,
        "--out",
        out,
    ]
    command += [
        "--boundary",
        boundary,
        "--batch-size",
        str(args.batch_size),
        "--device",
        args.device,
    ]
    return time_command([str(part) for part in command]), json.loads(out.read_text())


def time_ours(args: argparse.Namespace, folder: Path) -> tuple[Seconds, dict[str, Any]]:
    """Times `python -m eval.run`; returns its choices too. A prompt that is too long has none."""
    places = [
        f"models={{model:{args.model}}}",
        f"data_dir={args.data_dir.resolve()}",
        f"results_dir={folder}",
    ]
    command = [
        sys.executable,
        "-m",
        "eval.run",
        *places,
        f"benchmarks=[{','.join(args.benchmark)}]",
    ]
    command += ["name=bench", "modes=[loglikelihood]", "max_len=null", "vllm.dtype=float32"]
    seconds = time_command(command)
    choices = {}
    for benchmark in args.benchmark:
        name = benchmark.replace("/", "-")
        lines = (
            (folder / "bench" / "samples" / f"model.{name}.loglikelihood.jsonl")
            .read_text()
            .split("\n")
        )
        choices[name] = {
            sample["id"]: sample for sample in (json.loads(line) for line in lines if line)
        }
    return seconds, choices


def time_command(command: list[str]) -> Seconds:
    """Times a command that must succeed."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def explain(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Why two choices differ."""
    if ours["error"]:
        return "prompt too long for the model: an error here, cut from the left there"
    scores = sorted(theirs["scores"], reverse=True)
    if scores[0] - scores[1] < 1e-3:
        return "a tie: the two highest log-probabilities are less than 0.001 apart"
    return "unexplained"


def compare(args: argparse.Namespace) -> None:
    """Runs both sides and prints one line for each comparison; without the other environment only ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own, ours = time_ours(args, folder)
        questions = sum(map(len, ours.values()))
        print(
            f"eval.run: {questions:,} questions in {own.wall:.1f} s ({own.processor:.1f} s of processor)",
            flush=True,
        )
        if args.harness_python is None:
            print("lm-evaluation-harness: n/a, give --harness-python (see --help)")
            return
        for boundary in ("ours", "stock"):
            seconds, theirs = time_harness(args, folder, boundary)
            print(
                f"harness, boundary {boundary}, batch {args.batch_size}: {seconds.wall:.1f} s, "
                f"{seconds.wall / own.wall:.1f} times ours ({seconds.processor:.1f} s of processor, "
                f"{seconds.processor / own.processor:.1f} times)",
                flush=True,
            )
            for task, samples in ours.items():
                same = [
                    sample["choice"] == theirs[task][key]["choice"]
                    for key, sample in samples.items()
                ]
                differing = [key for key, equal in zip(samples, same, strict=True) if not equal]
                reasons = Counter(explain(samples[key], theirs[task][key]) for key in differing)
                print(
                    f"  {task}: {sum(same):,} of {len(same):,} choices equal",
                    dict(reasons) if boundary == "ours" else "",
                )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", default="compare", choices=["compare", "harness"])
    parser.add_argument("--harness-python", help="Python of the environment with lm_eval")
    parser.add_argument("--model", default=str(ROOT / "recipes" / "laptop_model"))
    parser.add_argument(
        "--benchmark", action="append", help="data set/split, prepared; may be given again"
    )
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="of the harness; 1 is its default"
    )
    parser.add_argument("--device", default="cpu", help="of the harness")
    parser.add_argument("--boundary", choices=["stock", "ours"], default="stock")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.benchmark = args.benchmark or ["bank/test", "bank/ood"]
    if args.command == "harness":
        run_harness(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()

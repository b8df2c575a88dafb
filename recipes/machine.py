"""Find this machine's GPUs and hardware preset, and complete a command line with them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from data_prep.errors import UserError
from data_prep.files import read_mapping

PRESETS = Path(__file__).parent / "configs" / "hardware"


class Gpu(NamedTuple):
    """A CUDA device. memory_gb: GiB, None where nvidia-smi could not be asked."""

    name: str
    memory_gb: float | None


class Preset(NamedTuple):
    """A hardware preset of one machine: how many GPUs it uses, and the GiB that each must have."""

    gpus: int
    memory_gb: float
    name: str


def read_nvidia(keys: str) -> list[list[str]]:
    """Read a row of values for each GPU from nvidia-smi; none where it does not answer."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [line.rsplit(", ", keys.count(",")) for line in lines if line.strip()]


def find_gpus() -> list[Gpu]:
    """Find the CUDA devices that this process may use, by nvidia-smi and CUDA_VISIBLE_DEVICES."""
    unknown = Gpu("CUDA device", None)
    gpus = [Gpu(name, float(size) / 1024) for name, size in read_nvidia("name,memory.total")]
    gpus = gpus or [unknown for _ in Path("/dev").glob("nvidia[0-9]*")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    wanted = [device.strip() for device in visible.split(",") if device.strip()]
    if gpus and all(device.isdigit() for device in wanted):
        return [gpus[int(device)] for device in wanted if int(device) < len(gpus)]
    return [unknown] * len(wanted)  # named by UUID or MIG instance


def list_presets() -> list[Preset]:
    """Read the presets of one machine from their YAML files, those that use most first."""
    presets = []
    for path in PRESETS.glob("*.yaml"):
        preset = read_preset(path.stem)
        # the user chooses async presets, and `auto` sees one machine
        if preset["cuda"] and preset["nodes"] == 1 and not preset["async"]:
            presets.append(Preset(preset["gpus_per_node"], preset["gpu_memory_gb"], path.stem))
    return sorted(presets, reverse=True)


def read_preset(name: str) -> dict:
    """Read one preset with the settings of the preset that it builds on (`defaults`)."""
    own = read_mapping(PRESETS / f"{name}.yaml")
    base = [entry for entry in own.pop("defaults", []) if entry != "_self_"]
    return (read_preset(base[0]) if base else {}) | own


def choose_hardware(gpus: list[Gpu]) -> tuple[str, str]:
    """Choose the preset for these GPUs; returns its name and why. Raises UserError."""
    if not gpus:
        return "cpu", "hardware=auto: no CUDA GPU here, so cpu"
    if os.environ.get("RAY_ADDRESS"):
        raise UserError("hardware=auto is one machine, RAY_ADDRESS a cluster: hardware=2x8x80gb")
    smallest = min(gpu.memory_gb or 0 for gpu in gpus)
    found = f"{len(gpus)} × {gpus[0].name} ({smallest:.0f} GiB)"
    for count, memory_gb, name in list_presets():
        if len(gpus) >= count and smallest >= memory_gb:
            spare = f", {len(gpus) - count} of them idle" if len(gpus) > count else ""
            return name, f"hardware=auto: {found}, so {name}{spare}"
    raise UserError(
        f"hardware=auto knows no preset for {found}: start from the nearest and say what differs, "
        f"as in hardware=1x80gb hardware.gpu_memory_gb={smallest:.0f}; "
        "`make plan` with the same words shows what fits"
    )


def complete_experiment(value: str, sft: bool) -> str:
    """Complete the word of an experiment: SFT's are in their own folder. Raises UserError."""
    name = "paper" if value == "sft" else value.removeprefix("sft/")
    if not sft and value != name:
        raise UserError(f"experiment={value} is the SFT baseline: make sft experiment={name}")
    if sft and not (PRESETS.parent / "experiment" / "sft" / f"{name}.yaml").is_file():
        raise UserError(
            f"experiment={name} has no SFT file of its own: the head of recipes/configs/experiment/"
            f"{name}.yaml has its command, as in make sft experiment=paper model=NAME name={name}"
        )
    return f"experiment=sft/{name}" if sft else f"experiment={name}"


def complete_words(words: list[str], sft: bool = False) -> list[str]:
    """Return the words for Hydra: hardware in place of `auto`, SFT's own experiments.

    With sft, experiment=paper means experiment=sft/paper, and so does experiment=sft. Raises
    UserError, also for `data=[a,b]`, of which Hydra would make one data set.
    """
    hardware, completed = "auto", []
    for word in words:
        key, _, value = word.partition("=")
        if key == "data" and value.startswith("["):
            raise UserError(f"{word}: prepare a mixture first, `make prep {word}`, then data=mix")
        if key == "hardware":
            hardware = value
        else:
            completed.append(complete_experiment(value, sft) if key == "experiment" else word)
    if hardware == "auto":
        hardware, why = choose_hardware(find_gpus())
        if not {"-h", "--help", "--hydra-help", "--cfg", "-c"} & set(words):
            print(why)
    return [*completed, f"hardware={hardware}"]

"""What this machine has, without torch: its CUDA GPUs and host memory; and which hardware preset fits it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import psutil

# Preset, GPUs that it uses, GiB that each must have; the first that fits is taken.
PRESETS = (
    ("8x80gb", 8, 78.0),
    ("4x80gb", 4, 78.0),
    ("2x80gb", 2, 78.0),
    ("1x141gb", 1, 139.0),
    ("1x80gb", 1, 78.0),
)


class Gpu(NamedTuple):
    """One CUDA device. memory_gb: GiB, None where nvidia-smi could not be asked."""

    name: str
    memory_gb: float | None


class NoPresetError(ValueError):
    """No hardware preset fits what was found."""


def find_gpus() -> list[Gpu]:
    """The CUDA devices that this process may use, by nvidia-smi and CUDA_VISIBLE_DEVICES."""
    gpus = [Gpu("CUDA device", None) for _ in Path("/dev").glob("nvidia[0-9]*")]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True)
        if answer.returncode == 0:
            lines = [line.rsplit(",", 1) for line in answer.stdout.splitlines() if line.strip()]
            gpus = [Gpu(name.strip(), float(mebibytes) / 1024) for name, mebibytes in lines]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    wanted = [device.strip() for device in visible.split(",") if device.strip()]
    by_number = [
        gpus[int(device)] for device in wanted if device.isdigit() and int(device) < len(gpus)
    ]
    return (
        by_number
        if all(device.isdigit() for device in wanted) and gpus
        else [Gpu("CUDA device", None)] * len(wanted)
    )


def find_host_memory_gb() -> float:
    """Host memory in GiB."""
    return psutil.virtual_memory().total / 1024**3


def choose_hardware(gpus: list[Gpu]) -> tuple[str, str]:
    """The preset for these GPUs and a line that says why. Raises NoPresetError where none fits."""
    if not gpus:
        return "cpu", "hardware=auto: no CUDA GPU here, so cpu"
    if os.environ.get("RAY_ADDRESS"):
        raise NoPresetError(
            "hardware=auto looks at one machine, and RAY_ADDRESS names a cluster: say hardware=2x8x80gb or another"
        )
    smallest = min(gpu.memory_gb or 0 for gpu in gpus)
    found = f"{len(gpus)} × {gpus[0].name} ({smallest:.0f} GiB)"
    for preset, count, memory_gb in PRESETS:
        if len(gpus) >= count and smallest >= memory_gb:
            spare = f", {len(gpus) - count} of them idle" if len(gpus) > count else ""
            return preset, f"hardware=auto: {found}, so {preset}{spare}"
    raise NoPresetError(
        f"hardware=auto knows no preset for {found}: start from the nearest and say what differs, as in "
        f"hardware=1x80gb hardware.gpu_memory_gb={smallest:.0f}; `make plan` with the same words shows what fits"
    )

"""Create .venv and install the complete lock for this machine: `make setup`.

Runs with any Python 3 and the standard library alone. requirements/gpu.lock where there is a CUDA GPU (or LOCK=gpu is
set, as where an image is built), cpu.lock elsewhere; both are complete closures, installed without resolving anything.
The stamp .venv/ready is written last.
"""

import glob
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
UV = "uv==0.13.8"
TORCH = "torch==2.13.0"
FLASH_ATTN = "flash-attn==2.8.3"


def run(*command, **kwargs):
    """Run a command to its end; False where it failed."""
    return subprocess.call(list(command), cwd=ROOT, **kwargs) == 0


def check(done, message):
    """Stop with one line where a step failed."""
    if not done:
        sys.exit("setup: " + message)


def install_cpu_torch():
    """torch's CPU build: from where pip is set up to look, else from PyTorch's CPU index, which uv knows by name."""
    if run(
        PYTHON,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        TORCH + "+cpu",
        stderr=subprocess.DEVNULL,
    ):
        return True
    return run(PYTHON, "-m", "uv", "pip", "install", "--no-deps", "--torch-backend", "cpu", TORCH)


def main():
    version = sys.version_info[:2]
    check(
        (3, 10) <= version <= (3, 12),
        f"Python {version[0]}.{version[1]} found, 3.10 to 3.12 needed (3.11 is tested): make setup PYTHON=python3.11",
    )
    gpu = os.environ.get("LOCK") == "gpu" or bool(glob.glob("/dev/nvidia[0-9]*"))
    lock = os.path.join("requirements", "gpu.lock" if gpu else "cpu.lock")
    print(f"setup: Python {version[0]}.{version[1]}, {lock} into .venv", flush=True)
    if not os.path.exists(PYTHON):
        check(
            run(sys.executable, "-m", "venv", VENV),
            "no venv could be made: install Python's venv module",
        )
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"
    os.environ["VIRTUAL_ENV"] = VENV
    check(
        run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV),
        f"pip could not install {UV}: is there a network?",
    )
    if not gpu:
        check(install_cpu_torch(), f"no CPU build of {TORCH} was found for this Python")
    # Bytecode now, in parallel, rather than in each of the engine's processes at the first run.
    install = [PYTHON, "-m", "uv", "pip", "install", "--compile-bytecode", "--no-deps"]
    check(run(*install, "-r", lock), f"{lock} could not be installed, see above")
    if gpu:
        check(
            bool(shutil.which("nvcc")),
            "flash-attn is built with nvcc, which is not on PATH: install CUDA's toolkit",
        )
        check(run(*install, "--no-build-isolation", FLASH_ATTN), f"{FLASH_ATTN} could not be built")
    open(os.path.join(VENV, "ready"), "w").close()


if __name__ == "__main__":
    main()

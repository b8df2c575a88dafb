"""Create .venv and install the complete lock for this machine: `make setup`.

    make setup                  cpu.lock, or gpu.lock where there is a CUDA GPU
    LOCK=gpu make setup         gpu.lock on a login node or in an image, for nodes that have GPUs
    LOCK=cpu make setup         cpu.lock on a machine with GPUs

Runs with any Python 3 and the standard library alone. Everything that would stop the installation or the first run is
checked before the download, all at once. The stamp .venv/ready is written last and names the lock and its hash, so a
.venv for other machines, or of an older lock, is noticed.
"""

import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "ready")
PYTHON = os.path.join(VENV, "bin", "python")
UV = "uv==0.13.8"
TORCH = "torch==2.13.0"
FLASH_ATTN = "flash-attn==2.8.3"
GLIBC = (2, 31)  # llguidance has no older wheel
CUDA = 13  # major version that the lock's torch and vLLM are built for
DRIVER = 580  # the first driver for CUDA 13
DISK_GB = {"cpu": 6, "gpu": 25}
FLASH_JOB_GB = 9  # memory of one compiler job of flash-attn (its setup.py:513)
AVX2 = "avx2"  # vLLM's CPU build has no slower path


def run(*command, **kwargs):
    """Run a command to its end; return False where it failed."""
    return subprocess.call(list(command), cwd=ROOT, **kwargs) == 0


def stop_unless(done, message):
    """End with one line where a step failed."""
    if not done:
        sys.exit("setup: " + message)


def read_output(*command):
    """Read what a command prints; "" where it is missing or fails."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def has_gpu():
    """Look for CUDA devices, as device files or by nvidia-smi."""
    return bool(glob.glob("/dev/nvidia[0-9]*") or read_output("nvidia-smi", "-L").strip())


def check_machine(lock, gpu_here, environ):
    """List what would stop the installation or the first run, one line each with its fix.

    lock: cpu or gpu. gpu_here: False on a login node, where driver and GPUs cannot be looked at.
    """
    problems = []
    version = sys.version_info[:2]
    if not (3, 10) <= version <= (3, 12):
        problems.append(
            f"Python {version[0]}.{version[1]} found, 3.10 to 3.12 needed (3.11 is tested): "
            "make setup PYTHON=python3.11"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        problems.append(
            f"{sys.platform} on {platform.machine()} found, Linux on x86-64 needed: use a Linux machine or container"
        )
    libc = tuple(int(part) for part in re.findall(r"\d+", platform.libc_ver()[1])[:2])
    if libc and libc < GLIBC:
        problems.append(
            "glibc {}.{} found, {}.{} needed: use a newer system (Debian 11, Ubuntu 20.04, "
            "RHEL 9) or the Dockerfile".format(*libc, *GLIBC)
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB[lock]:
        problems.append(
            f"{free:.1f} GB free in {ROOT}, {DISK_GB[lock]} GB needed: make room, or put the "
            "project elsewhere"
        )
    if lock == "cpu":
        with open("/proc/cpuinfo") as file:
            if AVX2 not in file.read():
                problems.append(
                    "this processor has no AVX2, which vLLM's CPU build needs: use another machine"
                )
        return problems
    return problems + (check_driver() if gpu_here else []) + check_compilers(environ)


def check_driver():
    """List what is wrong with the NVIDIA driver."""
    driver = read_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    major = driver.split(".")[0].strip()
    if not major.isdigit():
        return ["nvidia-smi does not name its driver: run `nvidia-smi` and repair the driver first"]
    if int(major) < DRIVER:
        return [
            f"NVIDIA driver {major} found, {DRIVER} needed for CUDA {CUDA}: ask the administrator "
            "for a newer one"
        ]
    return []


def check_compilers(environ):
    """List what is missing to build flash-attn now, and DeepSpeed's Adam at the first step on each node."""
    problems = []
    nvcc = (
        os.path.join(environ.get("CUDA_HOME", ""), "bin", "nvcc")
        if environ.get("CUDA_HOME")
        else "nvcc"
    )
    found = re.search(r"release (\d+)\.(\d+)", read_output(nvcc, "--version"))
    if not found:
        problems.append(
            f"nvcc not found: install CUDA's toolkit {CUDA}.0 and set CUDA_HOME, as in "
            f"`module load cuda/{CUDA}.0`"
        )
    elif int(found.group(1)) != CUDA:
        problems.append(
            f"nvcc {found.group(1)}.{found.group(2)} found, torch is built for CUDA {CUDA}: "
            f"`module load cuda/{CUDA}.0`, or set CUDA_HOME"
        )
    if not shutil.which(environ.get("CXX", "g++")):
        problems.append("no C++ compiler found: install g++ (Debian: build-essential), or set CXX")
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        problems.append("Python.h not found: install Python's headers (Debian: python3-dev)")
    return problems


def read_stamp():
    """Read which lock .venv holds; {} where it is not whole, or was made by an older version."""
    try:
        with open(STAMP) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def describe_lock(lock):
    """Build the stamp of a lock: its name, the hash of its file, the Python it is installed for."""
    digest = hashlib.sha256()
    for name in (lock + ".lock", "install.py"):
        with open(os.path.join(ROOT, "requirements", name), "rb") as file:
            digest.update(file.read())
    return {"lock": lock, "sha256": digest.hexdigest(), "python": platform.python_version()}


def choose_lock(environ, stamp, gpu_here):
    """Choose the lock: $LOCK, else that of the .venv that is there, else what this machine wants.

    Ends where the .venv is for machines without GPUs and this one has some.
    """
    wanted = environ.get("LOCK", "")
    stop_unless(wanted in ("", "cpu", "gpu"), f"LOCK={wanted} is neither cpu nor gpu")
    if wanted or not stamp:
        return wanted or ("gpu" if gpu_here else "cpu")
    stop_unless(
        stamp["lock"] == "gpu" or not gpu_here,
        ".venv holds the stack without CUDA, and this machine has GPUs: `LOCK=gpu make setup` replaces it, "
        "`LOCK=cpu make …` keeps it",
    )
    return stamp["lock"]


def find_build_settings():
    """Find for which GPUs flash-attn is built, and with how many jobs; the user's own settings win."""
    caps = read_output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()
    archs = sorted({cap.replace(".", "") for cap in caps if re.fullmatch(r"\d+\.\d", cap)}) or [
        "80",
        "90",
    ]
    with open("/proc/meminfo") as file:
        available = int(re.search(r"MemAvailable:\s*(\d+)", file.read()).group(1)) / 1e6
    jobs = max(1, min(os.cpu_count() or 1, int(available / FLASH_JOB_GB)))
    # setup.py:440 looks for a cu12 wheel under CUDA 13, which does not exist: build, and only what is needed
    settings = {
        "FLASH_ATTN_CUDA_ARCHS": ";".join(archs),
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",
        "MAX_JOBS": str(jobs),
    }
    return {key: os.environ.get(key, value) for key, value in settings.items()}


def install_cpu_torch():
    """Install torch's CPU build: from where pip is set up to look, else from the index that uv knows by name."""
    wanted = ["--require-hashes", "-r", os.path.join("requirements", "torch-cpu.lock")]
    if sys.version_info < (3, 11):  # of Python 3.10's file no hash is known
        wanted = [TORCH + "+cpu"]
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-deps"]
    if run(*pip, *wanted, stderr=subprocess.DEVNULL):
        return True
    uv = [PYTHON, "-m", "uv", "pip", "install", "--no-deps", "--torch-backend", "cpu"]
    return run(*uv, *wanted)


def install(lock):
    """Install the lock into .venv; ends with one line where a step fails."""
    if not os.path.exists(PYTHON):
        made = run(sys.executable, "-m", "venv", VENV)
        stop_unless(
            made, "no venv could be made: install Python's venv module (Debian: python3-venv)"
        )
    os.environ.update(UV_PYTHON_DOWNLOADS="never", VIRTUAL_ENV=VENV)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    stop_unless(run(*pip, UV), f"pip could not install {UV}: is there a network?")
    if lock == "cpu":
        stop_unless(
            install_cpu_torch(),
            f"no CPU build of {TORCH} with the hash of torch-cpu.lock was found",
        )
    # Bytecode now, in parallel, rather than in each of the engine's processes at the first run
    uv = [PYTHON, "-m", "uv", "pip", "install", "--compile-bytecode", "--no-deps"]
    file = os.path.join("requirements", lock + ".lock")
    stop_unless(
        run(*uv, "--require-hashes", "-r", file), f"{file} could not be installed, see above"
    )
    if lock == "gpu":
        settings = find_build_settings()
        print(f"setup: building {FLASH_ATTN} with {settings}", flush=True)
        os.environ.update(settings)
        stop_unless(
            run(*uv, "--no-build-isolation", FLASH_ATTN),
            FLASH_ATTN + " could not be built, see above",
        )


def main():
    """Check the machine, install, and write the stamp last; return at once where it is all there."""
    stamp, gpu_here = read_stamp(), has_gpu()
    lock = choose_lock(os.environ, stamp, gpu_here)
    wanted = describe_lock(lock)
    if os.path.exists(PYTHON) and {key: stamp.get(key) for key in ("lock", "sha256")} == {
        key: wanted[key] for key in ("lock", "sha256")
    }:
        return
    problems = check_machine(lock, gpu_here, os.environ)
    stop_unless(
        not problems, "this machine cannot run {}.lock:\n  {}".format(lock, "\n  ".join(problems))
    )
    print(
        "setup: Python {}, requirements/{}.lock into .venv".format(wanted["python"], lock),
        flush=True,
    )
    if stamp and stamp["lock"] != lock:
        shutil.rmtree(VENV)  # the two stacks share package names and would mix
    elif os.path.exists(STAMP):
        os.remove(STAMP)
    install(lock)
    with open(STAMP + ".partial", "w") as file:
        json.dump(wanted, file)
    os.replace(STAMP + ".partial", STAMP)


if __name__ == "__main__":
    main()

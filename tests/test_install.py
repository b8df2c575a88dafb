"""Set-up that cannot be wrong silently: each fault of a machine is named before anything is downloaded."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def install(root, tmp_path, monkeypatch):
    """requirements/install.py, its stamp in a folder of the test."""
    spec = importlib.util.spec_from_file_location("install", root / "requirements" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "STAMP", str(tmp_path / ".venv" / "ready"))
    monkeypatch.setattr(module, "PYTHON", str(tmp_path / ".venv" / "python"))
    (tmp_path / ".venv").mkdir()
    return module


@pytest.fixture
def hardware(tmp_path, monkeypatch):
    """hardware(driver, nvcc): a PATH with nvidia-smi and nvcc that print what real ones do; None leaves one out."""

    def fake(driver: str | None = "580.65.06", nvcc: str | None = "13.0", caps: str = "9.0"):
        folder = tmp_path / "bin"
        folder.mkdir()
        if driver is not None:
            write(
                folder / "nvidia-smi",
                f'case "$*" in *driver_version*) echo "{driver}";; *compute_cap*) echo "{caps}";; *) echo "GPU 0";; esac',
            )
        if nvcc is not None:
            write(folder / "nvcc", f'echo "Cuda compilation tools, release {nvcc}, V{nvcc}.88"')
        write(folder / "g++", "true")
        monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
        monkeypatch.delenv("CUDA_HOME", raising=False)

    def write(path, body):
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return fake


@pytest.fixture
def sound(install, monkeypatch, tmp_path):
    """A machine whose Python has headers and whose disk has room."""
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()
    monkeypatch.setattr(install.sysconfig, "get_paths", lambda: {"include": str(include)})
    usage = type("Usage", (), {"free": 500e9})
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _: usage)
    return install


def check(install, lock="gpu", gpu_here=True):
    return install.check_machine(lock, gpu_here, os.environ)


def test_a_sound_gpu_machine_has_no_problems(sound, hardware):
    hardware()
    assert check(sound) == []


def test_an_old_driver_is_named_with_the_one_needed(sound, hardware):
    hardware(driver="535.183.01")
    (problem,) = check(sound)
    assert "driver 535 found, 580 needed" in problem


@pytest.mark.parametrize(("nvcc", "words"), [("12.4", "12.4 found"), (None, "nvcc not found")])
def test_a_toolkit_of_another_major_is_named_before_the_build(sound, hardware, nvcc, words):
    hardware(nvcc=nvcc)
    (problem,) = check(sound)
    assert words in problem and "13" in problem


def test_all_problems_are_named_at_once(sound, hardware, monkeypatch):
    hardware(driver="550.54", nvcc=None)
    monkeypatch.setattr(sound.shutil, "disk_usage", lambda _: type("U", (), {"free": 3e9}))
    monkeypatch.setattr(sound.platform, "libc_ver", lambda: ("glibc", "2.28"))
    monkeypatch.setattr(sound.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    problems = check(sound)
    assert len(problems) == 5
    for words in ("glibc 2.28", "3.0 GB free", "driver 550", "nvcc", "Python.h"):
        assert any(words in problem for problem in problems), words


def test_a_login_node_needs_no_driver(sound, hardware):
    hardware(driver=None)
    assert check(sound, gpu_here=False) == []


def test_the_lock_is_the_users_then_that_of_the_venv_then_the_machines(install):
    assert install.choose_lock({"LOCK": "gpu"}, {}, False) == "gpu"
    assert install.choose_lock({}, {"lock": "gpu"}, False) == "gpu"  # set up on a login node
    assert install.choose_lock({}, {}, True) == "gpu"
    assert install.choose_lock({}, {}, False) == "cpu"


@pytest.mark.parametrize(
    ("environ", "stamp", "words"),
    [
        ({}, {"lock": "cpu"}, "LOCK=gpu make setup"),  # a CPU stack on a GPU node
        ({"LOCK": "cuda"}, {}, "neither cpu nor gpu"),
    ],
)
def test_a_stack_for_other_machines_ends_setup(install, environ, stamp, words):
    with pytest.raises(SystemExit, match=words):
        install.choose_lock(environ, stamp, True)


def test_flash_attn_is_built_for_the_gpus_that_are_there_with_jobs_that_fit(install, hardware):
    hardware(caps="8.0")
    settings = install.find_build_settings()
    assert settings["FLASH_ATTN_CUDA_ARCHS"] == "80"
    assert 1 <= int(settings["MAX_JOBS"]) <= (os.cpu_count() or 1)


def test_a_whole_installation_is_left_alone_and_a_changed_lock_is_not(install, monkeypatch):
    (lock,) = {install.choose_lock({}, {}, install.has_gpu())}
    installed = []
    monkeypatch.setattr(install, "install", installed.append)
    monkeypatch.setattr(install, "check_machine", lambda *_: [])
    monkeypatch.delenv("LOCK", raising=False)
    install.main()
    assert installed == [lock]
    open(install.PYTHON, "w").close()
    install.main()
    assert installed == [lock]  # the stamp names this lock and its hash
    with open(install.STAMP) as file:
        stamp = json.load(file)
    with open(install.STAMP, "w") as file:
        json.dump(stamp | {"sha256": "another"}, file)
    install.main()
    assert installed == [lock, lock]


def test_nothing_is_downloaded_where_the_machine_cannot_run_it(install, monkeypatch):
    monkeypatch.setattr(install, "check_machine", lambda *_: ["first", "second"])
    monkeypatch.setattr(install, "install", lambda lock: pytest.fail("installed"))
    with pytest.raises(SystemExit, match=r"first\n  second"):
        install.main()


@pytest.mark.process
def test_setup_takes_no_time_where_all_is_there(root):
    """It runs before every make target."""
    code = "import runpy; runpy.run_path('requirements/install.py', run_name='x')"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=root, capture_output=True
    )
    assert done.returncode == 0 and b"torch" not in done.stderr


@pytest.mark.parametrize("lock", ["cpu.lock", "gpu.lock"])
def test_every_pin_of_a_lock_has_its_hashes(root, lock):
    """`--require-hashes` would refuse the whole lock, minutes into `make setup`."""
    text = (root / "requirements" / lock).read_text().replace("\\\n", " ")
    pins = [line for line in text.splitlines() if line[:1].isalnum()]
    assert len(pins) > 200
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize(
    ("version", "hashed"), [((3, 10), False), ((3, 11), True), ((3, 12), True)]
)
def test_torchs_cpu_build_is_installed_by_its_hash(install, monkeypatch, root, version, hashed):
    """From both places, and the lock is of the version that the other lock has."""
    commands = []
    monkeypatch.setattr(install, "run", lambda *command, **_: commands.append(command))
    monkeypatch.setattr(install.sys, "version_info", version)
    install.install_cpu_torch()
    assert len(commands) == 2 and all(
        ("--require-hashes" in command) == hashed for command in commands
    )
    (pin,) = [
        line
        for line in (root / "requirements/torch-cpu.lock")
        .read_text()
        .replace("\\\n", "")
        .splitlines()
        if not line.startswith("#")
    ]
    assert pin.split()[0] == install.TORCH + "+cpu" and pin.count("--hash=sha256:") == 2
    assert f"\n{install.TORCH} \\\n" in (root / "requirements/cpu.lock").read_text()


def test_the_image_runs_as_a_user_and_its_base_can_be_pinned(root):
    lines = (root / "Dockerfile").read_text().splitlines()
    assert "USER med" in lines and lines.index("ARG BASE=nvidia/cuda:13.0.1-devel-ubuntu22.04") < (
        lines.index("FROM ${BASE}")
    )

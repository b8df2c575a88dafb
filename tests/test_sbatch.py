"""The Slurm script's address of the head node: names, routes and interfaces as real nodes have them."""

import os
import re
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def find_address(root, tmp_path):
    """find_address(resolved, route, all, interface=…): the script's own snippet on a node that answers so."""
    script = (root / "recipes" / "launch" / "train.sbatch").read_text()
    (snippet,) = re.findall(r"^find_address='(.*?)'$", script, re.MULTILINE | re.DOTALL)

    def find(resolved: str, route: str, every: str, interface: str = "") -> str:
        lines = "".join(f"{address} STREAM node1\\n" for address in resolved.split())
        write(tmp_path / "getent", f'[ "$1" = ahostsv4 ] && printf "{lines}"')
        write(tmp_path / "hostname", f'[ "$1" = -I ] && echo "{every}" || echo node1')
        shown = f"192.0.2.1 via 10.9.0.1 dev eth0 src {route} uid 0" if route else ""
        inet = "3: ib0    inet 10.50.0.7/16 brd 10.50.255.255 scope global ib0"
        body = f'case "$*" in *"route get"*) echo "{shown}";; *"dev ib0"*) echo "{inet}";; *) exit 1;; esac'
        write(tmp_path / "ip", body)
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", snippet],
            env={"PATH": path} | ({"RAY_INTERFACE": interface} if interface else {}),
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    return find


def write(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("resolved", "route", "every", "expected"),
    [
        ("10.0.0.5", "10.0.0.5", "10.0.0.5", "10.0.0.5"),
        (
            "",
            "10.0.0.5",
            "fd00::5 10.0.0.5",
            "10.0.0.5",
        ),  # IPv6 first, as `hostname -I` may have it
        ("", "", "fe80::1 2001:db8::5 10.0.0.5", "10.0.0.5"),
        ("127.0.1.1", "10.0.0.5", "10.0.0.5", "10.0.0.5"),  # Debian's /etc/hosts
        ("127.0.1.1", "", "172.17.0.1 10.0.0.5", "10.0.0.5"),  # Docker's bridge first
        ("", "", "169.254.3.4 10.0.0.5", "10.0.0.5"),
        ("10.1.0.5", "192.168.7.5", "192.168.7.5 10.1.0.5 10.50.0.7", "10.1.0.5"),  # the name wins
        ("", "192.168.7.5", "10.1.0.5 192.168.7.5", "192.168.7.5"),  # then the default route
        ("127.0.0.1", "", "fd00::2 172.17.0.1", ""),  # the script then ends with a line
    ],
)
def test_the_address_that_other_nodes_reach(find_address, resolved, route, every, expected):
    assert find_address(resolved, route, every) == expected


def test_the_interface_that_the_user_names_wins(find_address):
    assert find_address("10.0.0.5", "10.0.0.5", "10.0.0.5", interface="ib0") == "10.50.0.7"
    assert find_address("10.0.0.5", "10.0.0.5", "10.0.0.5", interface="no-such") == ""


def test_the_script_asks_for_gpus_memory_and_a_warning_before_the_limit(root):
    script = (root / "recipes" / "launch" / "train.sbatch").read_text()
    asked = set(re.findall(r"^#SBATCH (\S+)$", script, re.MULTILINE))
    assert {"--gpus-per-node=8", "--mem=0", "--requeue", "--signal=B:TERM@180"} <= asked
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


@pytest.mark.parametrize("name", ["RAY_PORT", "RAY_PATIENCE", "RAY_GPUS", "RAY_CPUS"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "a[$(id>pwned)]", "1 2", "9" * 20])
def test_a_number_is_one_before_bash_computes_with_it(root, tmp_path, name, value):
    """In `$((port + 1))` a name with brackets would be run."""
    write(tmp_path / "scontrol", "echo node1")
    write(tmp_path / "srun", "exit 7")
    path = f"{tmp_path}:{os.environ['PATH']}"
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node1"}
    done = subprocess.run(
        ["bash", str(root / "recipes" / "launch" / "train.sbatch")],
        env={"PATH": path, "SLURM_JOB_NUM_NODES": "1", name: value} | slurm,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.endswith(f"are whole numbers, not {value}\n")
    assert not (tmp_path / "pwned").exists()

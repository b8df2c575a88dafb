"""Start a Hydra command so that a user's mistake is one line; every command starts here."""

import difflib
import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "recipes" / "configs"
# What a disk, a quota or a permission says; any other OSError is our fault.
USERS_ERRORS = {"ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ENOTDIR", "EISDIR"}

SEVERAL = ("-m", "--m", "hydra.mode=", "hydra.sweep")  # Hydra's ways to ask for several runs
HYDRAS = re.compile(r"[+~]*hydra[./@=](?!searchpath)")  # they would write folders and logs
# Escape, bell, carriage return, C1, line separators, marks that turn the direction of text, halves
# of emoji: a terminal would obey them, or a reader see another text.
UNSEEN = [*range(9), *range(11, 32), *range(127, 160), 0x061C, 0x200E, 0x200F, 0xFEFF]
UNSEEN += [*range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)]
VISIBLE = {code: ascii(chr(code))[1:-1] for code in UNSEEN}


def show_text(text: object) -> str:
    """Write text of others for a terminal: control characters are seen, as `\\x1b`."""
    return str(text).translate(VISIBLE)


def run_command(
    work: Callable[[DictConfig], None],
    name: str,
    complete: Callable[[list[str]], list[str]] | None = None,
) -> None:
    """Compose recipes/configs/NAME.yaml from the command line and run `work` with it.

    complete: turns the user's words into Hydra's, such as this machine's preset for `auto`.
    Exits with 2 where the user must fix something, 1 where a file cannot be written, 130 on Ctrl-C.
    """
    import hydra
    from hydra.errors import HydraException

    failed: list[Exception] = []

    def job(cfg: DictConfig) -> None:
        try:
            work(cfg)
        except Exception as error:  # kept, since Hydra would print its own message too
            failed.append(error)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal must not fail on an arrow
            stream.reconfigure(errors="replace")
    try:
        if complete:
            sys.argv[1:] = complete(sys.argv[1:])
        if several := [word for word in sys.argv[1:] if word.startswith(SEVERAL)]:
            raise UserError(f"{several[0]}: a command makes one run; start it once for each value")
        if own := [word for word in sys.argv[1:] if HYDRAS.match(word)]:
            raise UserError(f"{own[0]}: Hydra's own settings are the command's; leave it out")
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises then, instead of printing by itself
        hydra.main(config_path=str(CONFIGS), config_name=name, version_base="1.3")(job)()
        if failed:
            raise failed[0]
        return
    except UserError as error:
        problems, code = list(error.problems), 2
    except (HydraException, OmegaConfBaseException) as error:
        said = " ".join(str(error).split())[:400]
        problems, code = explain_overrides(name, sys.argv[1:]) or [said], 2
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in USERS_ERRORS:
            raise
        problems, code = [f"cannot use {error.filename or 'a file'}: {error.strerror}"], 1
    except KeyboardInterrupt:
        problems, code = ["stopped"], 130
    except Exception as error:
        # no check can know every key: a list for a number breaks what uses it, Hydra `data=null`
        if wrong := explain_overrides(name, sys.argv[1:]):
            problems, code = wrong, 2
        elif wrong := explain_overrides(name, sys.argv[1:], kinds=True):
            problems, code = [*wrong, f"with this: {type(error).__name__}: {error}"], 2
        else:
            raise
    for problem in problems:
        print(show_text(problem), file=sys.stderr)
    sys.exit(code)


def name_preparation(name: str, data_dir: str, chat: bool) -> str:
    """Name the command that prepares a data set as this run reads it."""
    from hydra.core.hydra_config import HydraConfig

    # the user's own choice of experiment is in Hydra's record, not in cfg
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    experiment = choices.get("experiment", "laptop").removeprefix("sft/")
    words = {
        f"experiment={experiment}": experiment != "laptop",  # the default one
        f"data_dir={data_dir}": str(data_dir) != "data",
        "data.chat=true": chat,
    }
    return " ".join(["make prep", f"data={name}", *(word for word in words if words[word])])


def explain_overrides(name: str, words: list[str], kinds: bool = False) -> list[str]:
    """Find what is wrong with the overrides of a command line, one line each.

    kinds: report also values of another kind than their default; most of these are right.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    problems, parsed, groups = [], [], []
    for word in [word for word in words if not word.startswith("-")]:
        if not re.match(r"~|[^=]+=", word):
            problems.append(f"{word} is no setting: KEY=VALUE")
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except (HydraException, ValueError):  # ValueError: a number of more than 4,300 digits
            override = None
        # a,b would be several runs of one command, which no recipe has
        if override is None or override.is_sweep_override():
            problems.append(show_quoting(word))
            continue
        key, chosen = override.key_or_group, str(override.value())
        # a group's values are files
        files = (CONFIGS / key).rglob("*.yaml")
        options = sorted(str(file.relative_to(CONFIGS / key))[:-5] for file in files)
        if not options:
            parsed.append(override)
        elif chosen in options:
            groups.append(word)
        else:
            near = difflib.get_close_matches(chosen, options, 1)
            hint = f" (do you mean {near[0]}?)" if near else ""
            problems.append(f"{key}={chosen} is none of {', '.join(options)}{hint}")
    defaults = read_defaults(name, groups)
    for override in parsed:
        key, value = override.key_or_group, override.value()
        if not defaults or key.startswith("hydra") or (override.is_add() and key not in defaults):
            continue
        if key not in defaults:
            # openrlhf.actor.lr: of the keys that end in lr, if there are any
            leaf = key.rpartition(".")[2]
            leaves = [other for other in defaults if other.rpartition(".")[2] == leaf]
            near = difflib.get_close_matches(key, leaves or defaults, 1, cutoff=0.5)
            hint = f", the nearest is {near[0]}" if near else ""
            problems.append(f"{key} is no key of recipes/configs/{name}.yaml{hint}")
            continue
        default = defaults[key]
        types = {float if type(known) is int else type(known) for known in (value, default)}
        # most keys without a default are texts
        is_text = default is None and isinstance(value, str)
        if kinds and len(types) > 1 and not is_text and not override.is_delete():
            shown = f"{json.dumps(default, default=str):.100}"
            problems.append(f"{override.input_line}: the default is {shown}, of another kind")
    return problems


def read_defaults(name: str, groups: list[str]) -> dict[str, Any]:
    """Read every key that a configuration has with these groups, nested ones with dots."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            tree: Any = OmegaConf.to_container(compose(name, groups))
    except HydraException:
        return {}
    found = {path.name: None for path in CONFIGS.iterdir() if path.is_dir()} | tree
    waiting = list(found.items())
    for key, value in waiting:  # grows while it is read
        if isinstance(value, dict):
            inner = {f"{key}.{name}": leaf for name, leaf in value.items()}
            found |= inner
            waiting += inner.items()
    return found


def show_quoting(word: str) -> str:
    """Say how a value is written that Hydra cannot read: `=`, `(`, `#`, `,`, quotes, é."""
    if not word.isprintable():
        return f"{word!r}: a value has no line breaks and no other control characters"
    key, _, value = word.partition("=")
    # only backslashes before a quote are read as escapes
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    quoted = shlex.quote(f'{key}="{escaped}"')
    return f"{word}: Hydra cannot read this value; quote it for Hydra too: {quoted}"


def read_commit() -> str | None:
    """Read the working tree's commit, `+` where it has changes; None outside a git checkout."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

"""Install our hooks: Python runs this file when a process starts with this folder on PYTHONPATH.

So they reach all of the engine's processes: the driver, Ray's workers, and vLLM's engine children,
which Ray's own `worker_process_setup_hook` does not reach. Nothing is patched at once: each hook
waits for its module, and a process that never imports OpenRLHF pays a few milliseconds.
"""

import faulthandler
import os
import signal

from recipes.engine import trainer

# `kill -USR1 PID` writes the stacks of all threads to engine.log: for a run that seems to hang.
faulthandler.register(signal.SIGUSR1, all_threads=True)
trainer.install_hooks()
if os.environ.get("MEDRLVR_CPU_ENGINE") == "1":
    from recipes.engine import cpu

    cpu.install_hooks()

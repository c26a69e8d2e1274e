# The worker, for GPUs by default. From the repository's root:
#   docker build -f k8s/containers/worker.Dockerfile -t stepserve-worker:0.1.0 .
# For CPUs only, without the CUDA packages:
#   docker build -f k8s/containers/worker.Dockerfile -t stepserve-worker:0.1.0-cpu \
#     --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .
ARG BASE=python:3.12-slim
FROM $BASE AS build
ARG TORCH_INDEX_URL=""
RUN python -m venv /opt/stepserve
ENV PATH=/opt/stepserve/bin:$PATH
WORKDIR /src
# torch first and alone, so that a changed source does not fetch it again.
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[worker]'

FROM $BASE
# Triton compiles a launcher for each kernel when it first meets it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/stepserve /opt/stepserve
# The demo model, which k8s/overlays/dev serves.
COPY stepserve_bench/demo/storyteller/model /opt/stepserve/models/storyteller
# The one writable directory besides /tmp; the root file system is mounted read-only.
ENV PATH=/opt/stepserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    HF_HOME=/cache/huggingface \
    NUMBA_CACHE_DIR=/cache/numba \
    TRITON_CACHE_DIR=/cache/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN install -d -o 10001 -g 10001 /cache
USER 10001:10001
ENTRYPOINT ["stepserve"]
CMD ["worker", "--help"]

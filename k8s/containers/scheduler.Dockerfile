# The scheduler: no torch, no GPU. From the repository's root:
#   docker build -f k8s/containers/scheduler.Dockerfile -t stepserve-scheduler:0.1.0 .
ARG BASE=python:3.12-slim
FROM $BASE AS build
RUN python -m venv /opt/stepserve
ENV PATH=/opt/stepserve/bin:$PATH
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[scheduler]'

FROM $BASE
COPY --from=build /opt/stepserve /opt/stepserve
# The demo model, which k8s/overlays/dev serves.
COPY stepserve_bench/demo/storyteller/model /opt/stepserve/models/storyteller
# The one writable directory besides /tmp; the root file system is mounted read-only.
ENV PATH=/opt/stepserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    HF_HOME=/cache/huggingface
RUN install -d -o 10001 -g 10001 /cache
USER 10001:10001
ENTRYPOINT ["stepserve"]
CMD ["scheduler", "--help"]

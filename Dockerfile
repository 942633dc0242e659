# The main job in a container, and what compose.yaml runs of ours: docs/operations.md.
# PyTorch as PyPI has it brings several GB of CUDA. For a machine without a GPU take the small build
# from PyTorch's own index: --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
FROM python:3.11-slim-bookworm

# git tells MLflow which commit a run is of, where a clone is mounted.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 isdh
WORKDIR /home/isdh/project

# Dependencies in a layer of their own: editing code installs nothing again.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY pyproject.toml requirements.lock ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > dependencies.txt \
    && pip install --constraint requirements.lock --requirement dependencies.txt \
    && rm dependencies.txt

# Editable, so that a clone mounted here is what runs.
COPY --chown=isdh:isdh . .
# compose.yaml lays a volume over .isdh, which takes over its owner.
RUN pip install --no-deps --editable . && mkdir .isdh && chown -R isdh:isdh .

# Names for whoever runs it with --user; libraries ask for one.
ENV USER=isdh LOGNAME=isdh PYTHONUNBUFFERED=1
USER isdh
# This copy is no git repository.
RUN dvc config --local core.no_scm true

STOPSIGNAL SIGINT
CMD ["python", "-m", "flows"]

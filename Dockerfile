# The steps of `make install` on a clean system: docker build -t atft-engine . && docker run --rm atft-engine --help
# With a GPU: docker run --rm --gpus all -v "$PWD:/work" -w /work atft-engine train --arrow cache/
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/atft-engine
COPY . .
RUN make install

ENV PATH=/opt/atft-engine/.venv/bin:$PATH
ENTRYPOINT ["atft-engine"]
CMD ["--help"]

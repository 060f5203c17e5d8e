# Where t/tools/versions runs the tests: a release of Debian with its own nginx.

ARG BASE
FROM $BASE

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gcc make libc6-dev nginx nginx-dev libhiredis-dev libpq-dev \
        libjansson-dev libssl-dev zlib1g-dev libbrotli-dev \
        perl redis-server postgresql curl prometheus openssl procps ca-certificates \
    && rm -rf /var/lib/apt/lists/*

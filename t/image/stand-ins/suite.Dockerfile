# Where t/tools/versions runs the tests: a release of Debian with its own nginx,
# which is built from its source package if SOURCE says so.  The archive may name
# a source that it does not have (yet): then the packages are taken as they are.

ARG BASE

FROM $BASE AS source

ARG SOURCE=
ARG DEBIAN_FRONTEND=noninteractive

RUN mkdir -p /source /debs \
    && [ -z "$SOURCE" ] || { \
    sed -i 's/^Types: deb$/Types: deb deb-src/' /etc/apt/sources.list.d/*.sources \
    && apt-get update && apt-get install -y --no-install-recommends dpkg-dev \
    && cd /source && { apt-get source nginx || rm -rf /source/*; }; }

RUN cd /source/nginx-*/ 2>/dev/null || exit 0; \
    apt-get install -y --no-install-recommends build-essential fakeroot \
    && apt-get build-dep -y --no-install-recommends nginx \
    && DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -b -us -uc \
    && cp ../nginx_*.deb ../nginx-common_*.deb ../nginx-dev_*.deb /debs/

FROM $BASE

ARG PACKAGES
COPY --from=source /debs/ /debs/

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        $(find /debs -name '*.deb') $PACKAGES \
    && rm -rf /var/lib/apt/lists/*

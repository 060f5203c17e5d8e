# Umami's own image with the certificates of docker/ca, for a database whose
# authority Node does not know.  From the project's root, by version and digest:
#
#   docker build -f docker/umami.Dockerfile --build-arg \
#       UMAMI=ghcr.io/umami-software/umami:3.1.0@sha256:... -t umami:3.1.0 .
#
# Tasks read them by NODE_EXTRA_CA_CERTS=/etc/umami-gateway/ca/rds.pem.

ARG UMAMI

FROM $UMAMI

COPY docker/ca /etc/umami-gateway/ca

# Debian's Prometheus, for scenarios: the program alone, unpacked without what its package does to a machine. It has no
# discovery by Kubernetes (Debian builds it without): a file tells it what to read.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS package
RUN apt-get update \
 && cd /tmp \
 && apt-get download prometheus \
 && dpkg --extract prometheus_*.deb /prometheus

FROM ${BASE}
COPY --from=package /prometheus/usr/bin/prometheus /usr/local/bin/prometheus
COPY --from=package /prometheus/usr/share/doc/prometheus /usr/share/doc/prometheus
USER 10001:10001
EXPOSE 9090
ENTRYPOINT ["prometheus"]

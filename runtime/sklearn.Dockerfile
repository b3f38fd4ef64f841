# The model server for scikit-learn, XGBoost and LightGBM, without torch: some 700 MB.
#
#   docker build -f runtime/sklearn.Dockerfile -t slipway/sklearn:TAG .
#
# ARG BASE: the Debian image below it; any with Python 3.11 or newer as its python3.
# Secrets, all optional, used while building and never kept: `ca` (trusted certificates), `pip` (pip.conf), `uv`
# (uv.toml), each as --secret id=NAME,src=FILE, for machines that reach package indexes by a road of their own.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS wheel
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY locks/build.txt /locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/hatch \
 && /opt/hatch/bin/pip install --quiet --no-cache-dir --require-hashes -r /locks/build.txt
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
RUN /opt/hatch/bin/hatchling build --target wheel --directory /wheel

FROM ${BASE}
# LightGBM brings no libgomp of its own.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libgomp1 python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /tmp/home --no-create-home --shell /usr/sbin/nologin slipway \
 && python3 -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# The installers live in /tmp while they work. The bytecode is compiled here, since the root is read-only in a pod; a file
# for a newer Python is no error.
COPY locks/uv.txt locks/sklearn.txt /opt/slipway/locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy \
 && python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r /opt/slipway/locks/uv.txt \
 && /tmp/uv/bin/uv pip install --python /opt/venv --require-hashes -r /opt/slipway/locks/sklearn.txt \
 && (python -m compileall -qq -j 0 /opt/venv/lib || true) \
 && rm -rf /tmp/uv

COPY --from=wheel /wheel /opt/slipway/wheel
RUN python3 -m venv /tmp/pip \
 && /tmp/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-index --no-deps --no-cache-dir /opt/slipway/wheel/*.whl \
 && python -m compileall -q /opt/venv/lib/python3*/site-packages/slipway_runtime \
 && rm -rf /tmp/*

# What is writable in a pod is an emptyDir at /tmp, and everything that wants to write is told so.
ENV HOME=/tmp/home TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache
USER 10001:10001
EXPOSE 8080 8001
ENTRYPOINT ["slipway-runtime"]
CMD ["serve"]

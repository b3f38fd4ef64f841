# Triton with our launcher: the server and the Python backend of PyPI's nvidia-pytriton, torch and onnxruntime for models
# whose backend that Triton lacks, the project's wheel. For TensorRT and Triton's own backends put NVIDIA's image below
# instead: docs/triton.md.
#
#   docker build -f runtime/triton.Dockerfile -t slipway/triton:TAG .
#
# Down to torch (6 GB) its layers are those of runtime/Dockerfile, word for word, so that a node has them once.
#
# ARG BASE: the Debian image below it; Python 3.11 as its python3, whose libpython the Python backend needs.
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
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates g++ gcc libc6-dev python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /tmp/home --no-create-home --shell /usr/sbin/nologin slipway \
 && python3 -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# The installers live in /tmp while they work. uv, because the build shares its cache with the development environment.
# The bytecode is compiled here, since the root is read-only in a pod; a file for a newer Python is no error.
COPY locks/uv.txt locks/torch.txt /opt/slipway/locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy \
 && python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r /opt/slipway/locks/uv.txt \
 && /tmp/uv/bin/uv pip install --python /opt/venv --require-hashes -r /opt/slipway/locks/torch.txt \
 && (python -m compileall -qq -j 0 /opt/venv/lib || true) \
 && rm -rf /tmp/uv

COPY locks/triton.txt /opt/slipway/locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,id=uv,target=/var/cache/uv \
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy \
 && python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r /opt/slipway/locks/uv.txt \
 && /tmp/uv/bin/uv pip install --python /opt/venv --require-hashes -r /opt/slipway/locks/triton.txt \
 && (python -m compileall -qq -j 0 /opt/venv/lib || true) \
 && rm -rf /tmp/uv

COPY --from=wheel /wheel /opt/slipway/wheel
RUN python3 -m venv /tmp/pip \
 && /tmp/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-index --no-deps --no-cache-dir /opt/slipway/wheel/*.whl \
 && python -m compileall -q /opt/venv/lib/python3*/site-packages/slipway_runtime \
 && python -m slipway_runtime.triton.install /opt/tritonserver \
 && rm -rf /tmp/*

# What is writable in a pod is an emptyDir at /tmp, and everything that wants to write is told so.
ENV HOME=/tmp/home TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache
USER 10001:10001
EXPOSE 8080 8001 8002
ENTRYPOINT ["python3", "-I", "-m", "slipway_runtime.triton"]

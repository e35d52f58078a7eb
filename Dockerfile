# Targets: cpu (OpenVINO, ONNX Runtime), gpu (ONNX Runtime with CUDA), train (`convserve build`).
#
# Any base with Python 3.11 or later and its venv module will do; all stages use the same one, since
# a virtual environment points at the interpreter that made it. A base may also carry what is not
# on the package index, such as TensorRT for the gpu target.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
# pip lives in an environment of its own and installs into the other, so no image carries it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/convserve
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The secret is for a package index of one's own; it is never part of a layer.
FROM builder AS cpu-dependencies
COPY requirements-serving.lock .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    ["/opt/pip/bin/pip", "--python", "/opt/convserve/bin/python", "install", "--quiet", \
     "--require-hashes", "--no-deps", "-r", "requirements-serving.lock"]
# Of OpenVINO's devices only the CPU is served from this image; the others are a tenth of its size.
RUN find /opt/convserve/lib/python3*/site-packages/openvino/libs -regextype posix-extended \
    -regex '.*/(libopenvino_intel_[gn]pu_plugin\.so|cache\.json)' -delete

FROM builder AS gpu-dependencies
COPY requirements-serving-gpu.lock .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    ["/opt/pip/bin/pip", "--python", "/opt/convserve/bin/python", "install", "--quiet", \
     "--require-hashes", "--no-deps", "-r", "requirements-serving-gpu.lock"]
# The CUDA libraries come as wheels, each in a folder of its own, where no loader looks.
RUN mkdir /opt/convserve/cuda && find /opt/convserve/lib/python3*/site-packages/nvidia \
    -name 'lib*.so*' -exec ln -s -t /opt/convserve/cuda {} +

FROM builder AS train-dependencies
COPY requirements-train.lock .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    ["/opt/pip/bin/pip", "--python", "/opt/convserve/bin/python", "install", "--quiet", \
     "--require-hashes", "--no-deps", "-r", "requirements-train.lock"]

# Our own code, a layer of its own: it changes often and is small, the dependencies are neither.
FROM builder AS application
COPY requirements-serving.lock .
# The build backend, in its locked version.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false \
    sed -n '/^setuptools==/,/[^\\]$/p' requirements-serving.lock > setuptools.lock \
    && /opt/pip/bin/pip install --quiet --require-hashes --no-deps -r setuptools.lock
COPY . .
RUN /opt/pip/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/pip/bin/pip --python /opt/convserve/bin/python install --quiet \
       --no-deps --no-index --find-links /wheels --target /opt/application convserve

FROM ${BASE_IMAGE} AS runtime
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="convserve" \
      org.opencontainers.image.description="Serves image models over gRPC." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# The user has no entry in passwd and no home. PYTHONSAFEPATH: nothing is imported from the working
# folder, which a caller may have mounted.
ENV PATH=/opt/convserve/bin:/opt/application/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/application \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    CONVSERVE_HOST=0.0.0.0 \
    CONVSERVE_MODEL_REPOSITORY=/models \
    CONVSERVE_CACHE_DIR=/tmp/convserve
ENTRYPOINT ["convserve"]

FROM runtime AS serving
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
CMD ["serve"]
# With TLS or without, and of a server that knows its callers: probes show nothing.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, ssl, sys, urllib.request\nport = os.environ.get('CONVSERVE_METRICS_PORT', '8002')\nfor scheme in ('http', 'https'):\n  try:\n    urllib.request.urlopen(f'{scheme}://127.0.0.1:{port}/readyz', timeout=2, context=ssl._create_unverified_context())\n    sys.exit(0)\n  except OSError: pass\nsys.exit(1)"]

FROM serving AS cpu
COPY --from=cpu-dependencies /opt/convserve /opt/convserve
COPY --from=application /opt/application /opt/application
RUN --mount=type=bind,source=scripts/image_sbom.py,target=/tmp/image_sbom.py \
    ["python", "/tmp/image_sbom.py", "/opt/application/sbom.cdx.json"]
USER 10001:10001

FROM serving AS gpu
# The driver, and the container runtime that mounts it, are the host's.
ENV LD_LIBRARY_PATH=/opt/convserve/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-dependencies /opt/convserve /opt/convserve
COPY --from=application /opt/application /opt/application
RUN --mount=type=bind,source=scripts/image_sbom.py,target=/tmp/image_sbom.py \
    ["python", "/tmp/image_sbom.py", "/opt/application/sbom.cdx.json"]
USER 10001:10001

FROM runtime AS train
COPY --from=train-dependencies /opt/convserve /opt/convserve
COPY --from=application /opt/application /opt/application
RUN --mount=type=bind,source=scripts/image_sbom.py,target=/tmp/image_sbom.py \
    ["python", "/tmp/image_sbom.py", "/opt/application/sbom.cdx.json"]
USER 10001:10001
CMD ["build", "--help"]

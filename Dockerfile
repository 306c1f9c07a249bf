# vaekit with all that its commands need. As it stands PyTorch comes with CUDA, which also computes on a CPU:
#   docker build -t vaekit .
#   docker run --rm --gpus all --shm-size 2g -v "$PWD:/work" vaekit train photos --size 64 --out runs/faces
# For a smaller image that has no CUDA, point pip to the CPU builds of PyTorch, as its site says:
#   docker build -t vaekit:cpu --build-arg TORCH="--index-url <where the CPU builds are> torch" .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends npm && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:${PYTHON}-slim
ARG TORCH=torch
RUN pip install --no-cache-dir ${TORCH}
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/vaekit-*.whl)[bimodality,formats,hub,onnx,parquet]"
RUN useradd --create-home vaekit && mkdir /work && chown vaekit /work
USER vaekit
WORKDIR /work
ENTRYPOINT ["vaekit"]
CMD ["--help"]

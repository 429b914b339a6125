# EX2 in a container. Results go to /work, which is to be a volume:
#   docker build -t ex2 .                                      for CPUs
#   docker build -t ex2:cuda --build-arg DEVICE=cuda .         for NVIDIA GPUs
#   docker run --rm -v "$PWD:/work" ex2 study                  the quickstart
#   docker run --rm --gpus all -v "$PWD:/work" ex2:cuda study clip_small
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# cpu: PyTorch's own build for CPUs; cuda: that of the package index, which brings its CUDA libraries along
ARG DEVICE=cpu

COPY . /src
RUN case "$DEVICE" in \
        cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
        cuda) ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir -c /src/constraints.txt /src \
    && pip install --no-cache-dir --no-deps --require-hashes -r /src/requirements-embedded.txt \
    && rm -r /src

# Models of the hub, banks of images and converted models are kept with the results.
ENV HF_HOME=/work/.cache/huggingface EX2_CACHE=/work/.cache/ex2
WORKDIR /work
ENTRYPOINT ["ex2"]
CMD ["--help"]

# Trains and predicts with nnU-Net and nnunet-xattnres, on NVIDIA GPUs or on CPUs; docs/how-to/docker.md has the commands.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm
ARG PYTHON

# Triton, torch.compile and the layers on a CPU compile with it when a training begins
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# before the package, so that the layer stays when the package changes; the wheels include CUDA
ARG TORCH="torch>=2.7"
ARG TORCH_INDEX
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" torchvision

RUN --mount=type=bind,target=/src,rw pip install --no-cache-dir /src

ENV nnUNet_raw=/data/nnUNet_raw \
    nnUNet_preprocessed=/data/nnUNet_preprocessed \
    nnUNet_results=/data/nnUNet_results \
    nnUNet_extTrainer=/usr/local/lib/python${PYTHON}/site-packages/nnunet_xattnres/trainers \
    HOME=/home/nnunet \
    USER=nnunet

# Triton and matplotlib have caches below HOME, which any user of `docker run --user` can write; PyTorch asks for USER
RUN test "$nnUNet_extTrainer" = "$(xattnres trainers)" \
    && useradd --uid 1000 --home-dir "$HOME" --create-home "$USER" \
    && chmod 1777 "$HOME" \
    && install --directory --owner "$USER" /data "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"

USER 1000
WORKDIR /data
CMD ["xattnres", "--help"]

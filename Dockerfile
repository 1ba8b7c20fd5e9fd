# The server in a container: docs/docker.md.
#
#     docker build -t photofound .
#     docker run --rm -p 127.0.0.1:8000:8000 photofound
#
# On an NVIDIA GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t photofound:cuda .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# CPU wheels: those of PyPI for Linux bring 4 GB of CUDA along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,heic,c2pa
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/photofound
ENV PATH=/opt/photofound/bin:$PATH
WORKDIR /source
# torch has a layer of its own: a change of the source does not install it again.
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url "${TORCH_INDEX}" torch
COPY . ./
RUN pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="photofound" \
      org.opencontainers.image.description="Edit photographs with one latent diffusion transformer" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/photofound /opt/photofound
# /data holds the jobs, and models of the Hub if you serve one. It is all that the server writes, beside /tmp.
RUN useradd --uid 10001 --no-create-home --home-dir /data photofound \
    && install -d -o photofound -g photofound /data
ENV PATH=/opt/photofound/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/data/hub XDG_STATE_HOME=/data/state
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["photofound"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

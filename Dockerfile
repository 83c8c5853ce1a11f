# CPU:  docker build -t tierwave .
# GPU:  docker build -t tierwave:gpu --build-arg EXTRAS=gpu .    (the host needs the NVIDIA Container Toolkit)
#
#   docker run --rm -v "$PWD/recordings:/data:ro" -v "$PWD/work:/work" tierwave \
#       train.py --id birds --data_dir /data --config_file /opt/tierwave/configs/small.config.json
#   docker run --rm -v "$PWD/work:/work" tierwave generate.py --checkpoint_path logdir/birds --output_path new.wav
#   docker run --rm tierwave -m tierwave evaluate --help
#   docker run --rm --gpus all ...                                                                      on a GPU
#
# Whoever runs it owns what is written: add  --user "$(id -u):$(id -g)".

FROM python:3.12-slim AS build

# Extras of setup.cfg, such as gpu or gpu,play.
ARG EXTRAS=""
WORKDIR /opt/tierwave
RUN python -m venv /opt/venv
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY train.py generate.py chunk_audio.py tune.py default.config.json ./
COPY tierwave tierwave
COPY samplernn samplernn
COPY conditioning conditioning
COPY melnet melnet
COPY configs configs
RUN /opt/venv/bin/pip install --no-cache-dir --editable ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --no-install-recommends --yes ffmpeg \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 tierwave \
    && install --directory --owner tierwave --group tierwave --mode 0777 /work /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/tierwave /opt/tierwave

# matplotlib and numba keep caches, and whoever --user names may have no home.
ENV PATH="/opt/venv/bin:$PATH" \
    PYTHONPATH="/opt/tierwave" \
    PYTHONUNBUFFERED="1" \
    TF_CPP_MIN_LOG_LEVEL="2" \
    MPLCONFIGDIR="/tmp/matplotlib" \
    NUMBA_CACHE_DIR="/tmp/numba"

# `train.py ...` and the other scripts by their names, `-m tierwave.X ...`, or any program of the image.
COPY docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh

USER tierwave
WORKDIR /work
VOLUME ["/data", "/work"]
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["train.py", "--help"]

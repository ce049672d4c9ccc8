# syntax=docker/dockerfile:1
# With CUDA:     docker build -t dtme-search .
# For the CPU:   docker build -t dtme-search --build-arg TORCH_WHEELS=ADDRESS .     (docs/containers.md)
ARG PYTHON=3.12

# What to install, from pyproject.toml alone, so that the large layer below is made anew only when that changes.
FROM python:${PYTHON}-slim AS requirements
ARG EXTRAS="data onnx postgres"
WORKDIR /source
COPY pyproject.toml ./
RUN python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *sum((p['optional-dependencies'][each] for each in sys.argv[1:]), []), sep='\n')" ${EXTRAS} > requirements.txt

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . ./
RUN pip install --no-cache-dir -c constraints.txt hatchling && python -m hatchling build -t wheel -d /wheels

FROM python:${PYTHON}-slim
ARG TORCH_WHEELS=""
COPY --from=requirements /source/requirements.txt /tmp/
COPY constraints.txt /tmp/
RUN PIP_EXTRA_INDEX_URL="${TORCH_WHEELS}" pip install --no-cache-dir -c /tmp/constraints.txt -r /tmp/requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
RUN useradd --create-home --uid 1000 searcher && install -d -o searcher -m 700 /srv/dtme
USER searcher
WORKDIR /srv/dtme
ENV DTME_CACHE=/srv/dtme/cache HF_HOME=/srv/dtme/cache/huggingface PYTHONUNBUFFERED=1
VOLUME /srv/dtme
ENTRYPOINT ["dtme-search"]
CMD ["--help"]

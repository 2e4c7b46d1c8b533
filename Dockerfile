# kqv as a user without rights on a read-only root; it serves the models that come with it, others live in the volume /models.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# Passed on to pip where given: a mirror, or an index that has torch for the CPU alone, which makes a far smaller image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
RUN python -m venv /opt/kqv
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/kqv/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt .
# The C part is compiled here, so that the image needs no compiler. Not from /source, whose own kqv would come first.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev \
    && cd /opt/kqv && bin/python -m kqv.native

FROM ${BASE}
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin kqv \
    && install --directory --owner kqv --group kqv /models
COPY --from=build /opt/kqv /opt/kqv
ENV PATH=/opt/kqv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KQV_STORE=/models
# A number, so that an orchestrator can see that it isn't root.
USER 10001:10001
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["kqv"]
CMD ["serve", "--host", "0.0.0.0"]

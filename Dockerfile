# The proxy as a container: see "Containers" in README.md.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/ requirements/
# What builds the wheel, and what runs it, each pinned by hash and each in its own environment.
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install --require-hashes --requirement requirements/dev.txt
RUN python -m venv /opt/wholestream \
    && /opt/wholestream/bin/pip install --require-hashes --requirement requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy/ proxy/
RUN /opt/tools/bin/python -m build --wheel --no-isolation --outdir /dist \
    && /opt/wholestream/bin/pip install --no-deps --no-index /dist/*.whl

FROM python:3.13-slim
LABEL org.opencontainers.image.title="wholestream" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/wholestream/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WHOLESTREAM_HOST=0.0.0.0 \
    WHOLESTREAM_ADMIN_HOST=0.0.0.0
# Applications in other containers call the proxy by a name. Set it when you run the image:
# WHOLESTREAM_ALLOWED_HOSTS=localhost,127.0.0.1,::1,<name of the service>
COPY --from=build /opt/wholestream /opt/wholestream
USER 65532:65532
EXPOSE 8787 8788
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["wholestream", "healthcheck"]
ENTRYPOINT ["wholestream"]

# The worker fleet, and Flower. Your application goes on top: COPY it in, and set STRATA_APP=package.module:store.
FROM python:3.13.9-trixie AS build
WORKDIR /build
COPY pyproject.toml setup.py README.md LICENSE ./
COPY strata ./strata
# With a compiler, which the image that runs does not have.
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.13.9-slim-trixie
WORKDIR /app
COPY constraints.txt ./
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint constraints.txt "$(echo /wheels/strata-*.whl)[prometheus]" \
    && useradd --system --create-home strata
USER strata
# Celery ends in order at SIGTERM: running tasks finish, nothing is lost if they do not.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "strata.worker", "worker", "--loglevel", "INFO"]

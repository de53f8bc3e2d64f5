# The worker fleet, and Flower. Your application goes on top: COPY it in, and set STRATA_APP=package.module:store.
FROM python:3.13.9-slim-trixie
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY strata ./strata
RUN pip install --no-cache-dir --constraint constraints.txt ".[prometheus]" \
    && useradd --system --create-home strata
USER strata
# Celery ends in order at SIGTERM: running tasks finish, nothing is lost if they do not.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "strata.worker", "worker", "--loglevel", "INFO"]

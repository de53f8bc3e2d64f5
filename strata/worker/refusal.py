"""What a worker says when its broker's Redis refuses what it needs: one line, in the words of `strata doctor`."""

from __future__ import annotations

import logging

from strata.writebehind.fleet.broker import Broker


class Refused(logging.Filter):
    """Puts the line in the place of Celery's traceback: a filter of the logger of `celery.worker.worker`."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record goes on; one that is about a refusal is another one then."""
        refusal = self._broker.refusal(record.exc_info[1] if record.exc_info else None)
        if refusal is not None:
            record.msg = "the broker refused: %s; %s. The worker ends: start it again once that is done"
            record.args = (refusal.found, refusal.advice)
            record.exc_info = record.exc_text = None
        return True

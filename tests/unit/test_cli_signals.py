"""Signals end a command in order, once."""

from __future__ import annotations

import os
import signal
import time

import pytest

from strata.cli.signals import Ended, ending_in_order, undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_raises_and_says_which(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Ended) as caught, ending_in_order():
        os.kill(os.getpid(), number)
        time.sleep(60)
    assert caught.value.number == number
    assert signal.getsignal(number) is before


def test_nothing_interrupts_the_clearing_up() -> None:
    with ending_in_order(), undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_in_order():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

"""Signals are handled within the block and go back to whom they belonged."""

import os
import signal

import pytest

from photofound.signals import handled


def test_signals_are_handled_within_the_block_alone():
    numbers, called, before = (signal.SIGTERM, signal.SIGUSR1), [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), handled(numbers, lambda number, _: called.append(number)):
        for number in numbers:
            os.kill(os.getpid(), number)
        raise KeyError
    assert called == list(numbers)
    assert signal.getsignal(signal.SIGTERM) == before

"""Batches that are drawn ahead, and updates for which nobody waits."""

from dataclasses import replace

import pytest
import torch
from gloo import COMMON, Toy
from torch.utils._python_dispatch import TorchDispatchMode

from photofound.train.batches import Batches
from photofound.train.distributed import shared
from photofound.train.trainer import Trainer

CPU = torch.device("cpu")


class Counting:
    """A stage that reads a stream of numbers."""

    def __init__(self, ahead):
        self.ahead, self.at = ahead, 0

    def batch(self, generator, size, progress):
        self.at += 1
        return self.at, torch.rand(size, generator=generator), torch.rand(1)

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def drawn(ahead):
    batches, made = Batches(0, Counting(ahead), CPU, range(2)), []
    for step in range(3):
        made += [batches.take(step, index, 2, step / 3) for index in range(2)]
        batches.draw_ahead(step + 1, 2, (step + 1) / 3)
        made.append(batches.position())
    return made, batches


def test_what_is_drawn_ahead_is_what_would_be_drawn_later_and_is_no_progress_in_the_data():
    (ahead, _), (later, _) = drawn(True), drawn(False)
    for a, b in zip(ahead, later, strict=True):
        assert a == b if isinstance(a, dict) else a[0] == b[0] and all(map(torch.equal, a[1:], b[1:]))


def test_a_batch_of_another_size_is_drawn_anew_from_the_same_place():
    _, batches = drawn(True)
    assert batches.stage.at == 7
    at, numbers, _ = batches.take(3, 0, 5, 1.0)
    assert at == 7 and len(numbers) == 5 and batches.position() == {"at": 7}


class Asking(TorchDispatchMode):
    """Refuses what makes the processor wait for a tensor's value."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function), "a value is asked for"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_is_launched_without_asking_for_a_value(tmp_path, optimizer):
    made = Trainer(replace(COMMON, optimizer=optimizer), Toy(), tmp_path)
    made.launch(0.0)  # moments are made
    with Asking():
        update = made.launch(0.2)
        with pytest.raises(AssertionError, match="a value is asked for"):
            update.figures._values.sum().item()
    row = made.collect(update)
    assert row["loss"] > 0 and row["norm"] > 0 and row.keys() == {"loss", "head0", "norm"}


def test_one_process_does_all_the_work():
    assert shared([1, 2, 3], lambda value: value * value) == [1, 4, 9]

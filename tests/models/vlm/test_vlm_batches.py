"""Batches under a real limit of the memory of this process."""

import logging
import threading
from collections.abc import Iterator, Sequence

import pytest
import torch

from memory import MB, at_most
from nuvlm.base.errors import InputError
from nuvlm.models.vlm.batches import FittingBatches, prepared


def doubled(batch: Sequence[int]) -> list[int]:
    """Work that reserves 1,000 MB an event, far more than earlier tests may release meanwhile."""
    torch.empty(len(batch) * 1000 * MB, dtype=torch.uint8)
    return [2 * value for value in batch]


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    batches = FittingBatches(16)
    with at_most(6500 * MB), caplog.at_level(logging.WARNING):
        done = list(batches.run(doubled, range(19)))
        assert batches.size == 4
        again = list(batches.run(doubled, range(5)))
    assert [value for _, part in done for value in part] == [2 * value for value in range(19)]
    assert [where for where, _ in done] == [slice(i, min(i + 4, 19)) for i in range(0, 19, 4)]
    assert [len(part) for _, part in again] == [4, 1], "the smaller size is kept"
    assert [record.args for record in caplog.records] == [(16, 8), (8, 4)]


def test_a_short_batch_that_does_not_fit_is_halved_itself() -> None:
    batches = FittingBatches(16)
    with at_most(2500 * MB):
        assert [len(part) for _, part in batches.run(doubled, range(5))] == [2, 2, 1]


@pytest.mark.slow
def test_an_event_that_does_not_fit_alone_is_an_error_with_a_remedy() -> None:
    with at_most(500 * MB), pytest.raises(InputError, match=r"a single event does not fit.*merge_adapter: false"):
        list(FittingBatches(4).run(doubled, range(4)))


def test_other_errors_pass() -> None:
    def wrong(batch: Sequence[int]) -> torch.Tensor:
        return torch.zeros(2) @ torch.zeros(3)

    batches = FittingBatches(4)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        list(batches.run(wrong, range(4)))
    assert batches.size == 4


@pytest.mark.parametrize("ahead", [True, False])
def test_prepared_items_come_in_order_whoever_makes_them(ahead: bool) -> None:
    makers = []

    def work(value: int) -> int:
        makers.append(threading.current_thread())
        return 2 * value

    assert list(prepared(work, range(5), ahead=ahead)) == [0, 2, 4, 6, 8]
    assert (set(makers) == {threading.main_thread()}) is not ahead
    assert list(prepared(work, [], ahead=ahead)) == []


def test_the_next_item_is_made_while_the_last_is_in_use_and_no_more() -> None:
    made, second, third = [], threading.Event(), threading.Event()

    def work(value: int) -> int:
        made.append(value)
        if value == 1:
            second.set()
        if value == 2:
            third.set()
        return value

    items = prepared(work, range(4), ahead=True)
    assert next(items) == 0
    assert second.wait(10)
    assert not third.wait(0.05)
    assert made == [0, 1]
    assert list(items) == [1, 2, 3]


def test_what_fails_while_an_item_is_made_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise InputError("a damaged store")

    ready = prepared(str, items(), ahead=True)
    assert next(ready) == "1"
    with pytest.raises(InputError, match="a damaged store"):
        next(ready)

"""Windows lie in the text, an epoch reads it once, and step alone says where: nothing else is remembered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.tasks.windows import Streams, Windows, gather

sizes = st.integers(1, 9)


@given(sizes, st.integers(1, 200), sizes, st.integers(0, 3), st.sampled_from([Windows, Streams]))
def test_every_row_lies_in_the_text(context, more, rows, seed, kind):
    tokens = context * (rows if kind is Streams else 1) + more
    order = kind(tokens, context, rows, seed)
    for step in (0, 1, 7, 1000):
        starts = order.starts(step)
        assert starts.shape == (rows,)
        assert starts.min() >= 0
        assert starts.max() + context < tokens


def test_an_epoch_of_windows_reads_the_text_once():
    order = Windows(1000, 10, 7, 0)
    items = np.concatenate([order.starts(step) for step in range(2 * order.an_epoch // 7 + 1)])
    for epoch in (items[: order.an_epoch], items[order.an_epoch : 2 * order.an_epoch]):
        places = np.sort(epoch)
        assert (np.diff(places) == 10).all()
    assert sorted(items[: order.an_epoch]) != sorted(items[order.an_epoch : 2 * order.an_epoch])


def test_streams_read_on_where_they_were_until_the_epoch_ends():
    order = Streams(1000, 10, 4, 0)
    for step in range(1, 2 * order.an_epoch):
        moved = order.starts(step) - order.starts(step - 1)
        assert order.fresh(step) == bool((moved != 10).any())
    assert order.fresh(0)
    assert [order.fresh(step) for step in (0, order.an_epoch)] == [True, True]


@pytest.mark.parametrize("kind", [Windows, Streams])
def test_order_is_a_function_of_seed_and_step(kind):
    steps = [0, 30, 3]
    same, other = kind(900, 8, 3, 1), kind(900, 8, 3, 2)
    first = [kind(900, 8, 3, 1).starts(step).tolist() for step in steps]
    assert first == [same.starts(step).tolist() for step in steps]
    assert first != [other.starts(step).tolist() for step in steps]


@pytest.mark.parametrize(("kind", "tokens"), [(Windows, 8), (Streams, 24)])
def test_too_short_a_text_names_the_option(kind, tokens):
    with pytest.raises(ValueError, match="--context 8"):
        kind(tokens, 8, 3, 0)
    kind(tokens + 1, 8, 3, 0)


def test_gather():
    rows = gather(np.arange(50, dtype=np.uint8), np.array([3, 0]), 4)
    assert rows.tolist() == [[3, 4, 5, 6, 7], [0, 1, 2, 3, 4]]

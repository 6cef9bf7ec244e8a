"""Every form of every recurrence is the fp64 step loop: values, final state, all gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recurrences import FORMS, ROWS, Case, allowed, drawn_truth, pairings, results
from tools import close


def _cases() -> list[Any]:
    """fp32 takes every pairing (of averages, whose step is long, every other), the other dtypes a third."""
    return [
        pytest.param(name, dtype, case, id=f"{name}-{str(dtype)[6:]}-{case}")
        for seed, (name, row) in enumerate(ROWS.items())
        for k, dtype in enumerate(row.dtypes)
        for i, case in enumerate(pairings(seed))
        if (k == 0 and not (row.average and i % 2)) or i % 3 == (k + seed) % 3
    ]


@pytest.mark.parametrize(("name", "dtype", "case"), _cases())
@pytest.mark.parametrize("form", FORMS)
def test_fp64_loop(form: Callable[..., Any], name: str, dtype: torch.dtype, case: Case) -> None:
    drawn, want = drawn_truth(name, case, dtype)
    got = results(form, ROWS[name], drawn, case.reverse)
    for key, x in got.items():
        assert x.dtype == (drawn.dh_n.dtype if key in ("h_n", "dh_0") else dtype), key
        close(x, want[key], allowed(key, x.dtype))

import pytest

from recurra.parts.heads import head_channels


@pytest.mark.parametrize("width", range(2, 300, 2))
@pytest.mark.parametrize("even", [False, True])
def test_heads_are_as_near_to_64_channels_as_divisors_are(width: int, even: bool) -> None:
    channels = head_channels(width, even=even)
    others = [c for c in range(1, width + 1) if width % c == 0 and not (even and c % 2)]
    assert channels in others
    assert all(max(channels / 64, 64 / channels) <= max(c / 64, 64 / c) + 1e-12 for c in others)


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (62, 62), (73, 73), (384, 64), (74, 74), (536, 67)])
def test_no_width_is_cut_to_pieces(width: int, channels: int) -> None:
    assert head_channels(width) == channels


@pytest.mark.parametrize(("heads", "even"), [(3, False), (-1, False), (4, True)])
def test_heads_that_do_not_divide_are_named(heads: int, even: bool) -> None:
    with pytest.raises(ValueError, match=f"heads must divide 20.*, got {heads}"):
        head_channels(20, heads, even=even)


def test_heads_share_the_width() -> None:
    assert head_channels(20, 2, even=True) == head_channels(20, 2) == 10

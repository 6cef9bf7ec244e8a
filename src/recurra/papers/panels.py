"""What a panel of a picture says of itself."""

from typing import Any

__all__ = ["label"]


def label(axes: Any, title: str, x: str, y: str) -> None:
    """Title, axes, and a legend where lines have names."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)

"""A driver for compiling kernels for a card that is not there."""

from triton.backends.compiler import GPUTarget


class Absent:
    """As much of a driver as compilation asks for, of an H100."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

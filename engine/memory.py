"""Out of memory, said as what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

# What allocators say in a plain RuntimeError: torch's on the CPU, C++'s own, cuBLAS's for its workspace.
SAID = ("DefaultCPUAllocator", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a GPU, ran out."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in SAID)


@contextmanager
def bounded(setting: str, tokens: int) -> Iterator[None]:
    """Work whose memory a setting bounds. If that runs out, raises ValueError naming the setting and its value."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"out of memory with {setting} {tokens} ({said}); lower it (for one run: under `overrides`) and start again: a "
            "stage goes on from its last checkpoint, with the same result up to rounding"
        ) from error

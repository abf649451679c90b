"""Out of memory, said as what to do about it; and memory kept from one update to the next."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# What allocators say in a plain RuntimeError: torch's on the CPU, C++'s own, cuBLAS's for its workspace.
SAID = ("DefaultCPUAllocator", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep(device: str) -> None:
    """Have the C library keep what an update on the CPU frees, for the next one. It would give large tensors back to the system
    and be given them again as zeroed pages: 13 % of the CPU time of an update of the miniature."""
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


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

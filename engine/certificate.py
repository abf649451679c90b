"""A stage's certificate: what was checked in the configuration it ran in, and what was found (engine/integrity.py)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine import record


class IntegrityError(RuntimeError):
    """A check failed in a run that no bug was injected into: nothing it computes may become a result."""


@dataclass(frozen=True)
class Check:
    """One line of a certificate. `status`: "passed", "failed" or "not applicable"; `limit`: what passing takes."""

    name: str
    status: str
    measured: str
    limit: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.status}: {self.measured} (needed: {self.limit}). {self.remedy}".rstrip()


def certificate(spec: dict, live: dict, checks: Sequence[Check], parents: Sequence[str]) -> dict[str, Any]:
    """A stage's certificate: no times, no paths, so that the same run has the same one."""
    body = {
        "run": spec["run"],
        "seed": spec["seed"],
        "stage": spec["stage"],
        "inject": spec["inject"],
        "passed": all(check.status != "failed" for check in checks),
        "configuration": live,
        "checks": [asdict(check) for check in checks],
        "parents": list(parents),
    }
    return {**body, "digest": record.digest(body)}

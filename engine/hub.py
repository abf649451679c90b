"""Files of the Hugging Face hub at a pinned revision: from the local cache where that has them, else over the network.

    dataset_file("corpus gsm8k", {"id": "openai/gsm8k", "revision": "e53f...", "file": "main/train-00000-of-00001.parquet"}, "")

A cached file at a pinned commit needs no network. A download is written under another name and renamed when it is whole, so an
interrupted one leaves nothing behind and the next call repeats it. Every failure is a ValueError of one line: what failed, what
to correct, and the `place` where a file from elsewhere is read instead.
"""

import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from engine import record
from engine.record import log

MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]  # weights, configuration, tokenizer, chat template


def dataset_file(name: str, hub: dict, place: str | Path) -> Path:
    """The file of a data set, `hub`: id, revision (a commit; empty is the newest), file. `name` and `place` are for errors."""
    from huggingface_hub import hf_hub_download

    what = f"{name}: {hub['file']} of {hub['id']}"

    def download() -> Path:
        return Path(hf_hub_download(hub["id"], hub["file"], repo_type="dataset", revision=hub["revision"] or None))

    path = _fetched(what, hub, place, download)
    return path if _whole(path) else _fetched(what, hub, place, download)


def dataset_files(name: str, hub: dict, place: str | Path) -> list[Path]:
    """The files of a data set whose names match `hub["file"]`, with * for any text, in the order of their names."""
    from huggingface_hub import snapshot_download

    what = f"{name}: {hub['file']} of {hub['id']}"

    def download() -> Path:
        revision = hub["revision"] or None
        return Path(snapshot_download(hub["id"], repo_type="dataset", revision=revision, allow_patterns=[hub["file"]]))

    def found(folder: Path) -> list[Path]:
        return sorted(p for p in folder.rglob("*") if p.is_file() and fnmatch(str(p.relative_to(folder)), hub["file"]))

    files = found(_fetched(what, hub, place, download))
    if [path for path in files if not _whole(path)]:  # every one is looked at, not the first damaged one alone
        files = found(_fetched(what, hub, place, download))
    if not files:
        raise _error(what, hub, place, "is not there", "correct `file`")
    if "*" in hub["file"] and (lacking := _lacking(files)):
        raise _error(what, hub, place, f"is only in part here, without {lacking}", "it needs the network once")
    return files


def _lacking(files: list[Path]) -> str:
    """The first file that names like train-00000-of-00002.parquet promise and that is not there; empty if none is."""
    for path in files:
        if numbered := re.fullmatch(r"(.*-)(\d+)-of-(\d+)(\..*)", path.name):
            start, _, count, end = numbered.groups()
            for i in range(int(count)):
                name = f"{start}{i:0{len(count)}d}-of-{count}{end}"
                if not (path.parent / name).is_file():
                    return name
    return ""


def model_folder(name: str, hub: dict, place: str | Path) -> Path:
    """The folder with a model's weights (safetensors), configuration and tokenizer. `hub`: id and revision."""
    from huggingface_hub import snapshot_download

    what = f"{name}: {hub['id']}"

    def download() -> Path:
        return Path(snapshot_download(hub["id"], revision=hub["revision"] or None, allow_patterns=MODEL_FILES))

    folder = _fetched(what, hub, place, download)
    if not list(folder.glob("*.safetensors")):
        raise _error(what, hub, place, "has no .safetensors files", "choose a revision that has them")
    return folder


def commit(path: Path) -> str:
    """The commit that a file or folder of the hub's cache belongs to; empty for one from elsewhere."""
    found = re.search(r"/snapshots/([0-9a-f]{40})(?:/|$)", path.as_posix())
    return found[1] if found else ""


def _fetched(what: str, hub: dict, place: str | Path, download: Callable[[], Path]) -> Path:
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage] (of the library the client uses)

    try:
        path = download()
    except (HTTPError, OSError) as error:
        raise _error(what, hub, place, *_reason(error)) from error
    if not hub["revision"]:
        log.warning(
            "WARNING: %s: no revision is pinned; read the newest at hand, %s",
            what,
            commit(path),
        )
    return path


def _reason(error: Exception) -> tuple[str, str]:
    """What went wrong and what may help."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):  # before the next, which it is a kind of
        return "is gated", "accept its terms on its page and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is not on the hub: moved, deleted or private", "correct `id`, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "does not exist: no such revision", "correct `revision`"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "does not exist: no such file at this revision", "correct `file`"
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if response and response.status_code in (401, 403):
        return f"was refused ({response.status_code})", "set HF_TOKEN to a token that may read it"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return "did not arrive: the hub does not answer", "it needs the network once"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"did not arrive whole: {first}", "run it again"


def _error(what: str, hub: dict, place: str | Path, wrong: str, remedy: str) -> ValueError:
    revision = hub["revision"][:12] or "its newest revision"
    return ValueError(f"{what} at {revision} {wrong}; {remedy}, or place a copy at {place}")


def _whole(path: Path) -> bool:
    """Whether a cached file is what its name says, the sha256 of its bytes for a large file; a damaged one is removed."""
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name) or record.file_sha256(blob) == blob.name:
        return True
    log.warning("WARNING: %s is damaged in the hub's cache; it is downloaded again", path.name)
    path.unlink()
    blob.unlink(missing_ok=True)
    return False

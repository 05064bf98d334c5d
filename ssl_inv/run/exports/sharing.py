"""Uploads exported networks to a model hub. Nothing is sent unless a user asks for it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_inv.atomic import DamagedFileError, require_sound
from ssl_inv.catalogue import RecipeError
from ssl_inv.nn.exported import CONFIG, require_unchanged
from ssl_inv.nn.exported_forms import require_forms
from ssl_inv.plain import read_json, require_file
from ssl_inv.run.exports.export import CARD, WEIGHTS
from ssl_inv.run.exports.model_card import UNKNOWN, addressed, front_matter
from ssl_inv.run.plain_yaml import YAMLError

_HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "requests")


def push(
    source: Path,
    repository: str,
    *,
    private: bool = False,
    token_variable: str | None = None,
    licence: str | None = None,
    dry_run: bool = False,
) -> None:
    """Upload the files of an export in one commit. The card then says how to load them from the hub.

    Args:
        source: folder of a run, or exported folder.
        repository: OWNER/NAME; made if there is none.
        private: whether a new repository is private.
        token_variable: environment variable with the access token; None leaves it to `huggingface_hub`.
        licence: of the weights; None leaves what the card says.
        dry_run: whether to print the files only.

    Raises:
        RecipeError: if there is no export with a card, the name is not valid, or the hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = _exported(source)
    _require_valid(repository)
    files = _contents(folder, repository, licence)
    if dry_run:
        kind = "private " if private else ""
        sys.stdout.write(f"would send to the {kind}repository {repository}:\n")
        sys.stdout.write("".join(f"  {name}  {_size(content):,} bytes\n" for name, content in files.items()))
        _warn_of_licence(files)
        return
    api = HfApi(token=_token(token_variable), library_name="ssl-inv")
    with _one_line(repository):
        # None leaves the choice to the owner's organisation.
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(url.repo_id, operations, commit_message="Upload an encoder trained with ssl-inv")
    _warn_of_licence(files)
    sys.stdout.write(f"{url}\n")


def _exported(source: Path) -> Path:
    """The exported folder that a user means, which must be complete."""
    folder = source / "export" if (source / "recipe.yaml").is_file() else source
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise RecipeError(f"{str(source)!r} is neither a run with an export nor an exported folder: no {name}")
    if not (folder / CARD).is_file():
        raise RecipeError(f"{str(folder)!r} has no model card {CARD}; ssl-inv export RUN writes one")
    readers: dict[str, Callable[[Path], Any]] = {CONFIG: read_json, CARD: _front_matter_of}
    for name, read in readers.items():
        try:
            read(folder / name)
        except (ValueError, YAMLError) as error:
            raise RecipeError(f"{folder / name} cannot be read: {' '.join(str(error).split())}") from None
    config = read_json(folder / CONFIG)
    try:
        require_unchanged(config, folder / CONFIG)
        require_sound(folder / WEIGHTS)
        require_forms(config, folder / CONFIG)
    except DamagedFileError as error:
        raise RecipeError(f"{error}; export the run again") from None
    except ValueError as error:
        raise RecipeError(str(error)) from None
    if "num_classes" in (config.get("model_args") or {}):
        raise RecipeError(
            f"{str(folder)!r} is of an earlier version; export the run again, so that transformers loads it"
        )
    return folder


def _front_matter_of(card: Path) -> Any:
    require_file(card)
    return front_matter(card.read_text(encoding="utf-8"))


def _require_valid(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RecipeError(f"repository {repository!r} is not OWNER/NAME: {error}") from None


def _contents(folder: Path, repository: str, licence: str | None) -> dict[str, Path | bytes]:
    """The files by their names on the hub. Hidden files and folders stay here."""
    paths = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    card = addressed((folder / CARD).read_text(encoding="utf-8"), repository, licence)
    return {path.name: card.encode(errors="backslashreplace") if path.name == CARD else path for path in paths}


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _warn_of_licence(files: dict[str, Path | bytes]) -> None:
    card = files[CARD]
    assert isinstance(card, bytes)
    if front_matter(card.decode()).get("license", UNKNOWN) == UNKNOWN:
        sys.stdout.write("the card names no licence, so nobody knows how the weights may be used; see --license\n")


def _token(variable: str | None) -> str | None:
    if variable is not None:
        if not (token := os.environ.get(variable)):
            raise RecipeError(f"--token-env {variable}: this environment variable is not set")
        return token
    from huggingface_hub import get_token

    if (token := get_token()) is None:
        raise RecipeError("there is no access token: set HF_TOKEN, name a variable by --token-env, or hf auth login")
    return token


@contextmanager
def _one_line(repository: str) -> Iterator[None]:
    """What the hub's client raises, as one line. The token is never part of it."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise RecipeError("the hub's client is in offline mode: HF_HUB_OFFLINE is set") from None
    except HfHubHTTPError as error:
        status: Any = getattr(error.response, "status_code", None)
        reason = {401: "the access token is not valid", 403: "the access token may not write there"}.get(status)
        told = error.server_message or str(error).splitlines()[0]
        raise RecipeError(f"the hub refuses {repository}: {reason or told} (HTTP {status})") from None
    except Exception as error:
        # Its versions use different clients for HTTP, whose errors have no common class.
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _HTTP_CLIENTS:
            raise
        told = next(iter(str(error).splitlines()), "")
        raise RecipeError(f"nothing reached {repository}: {type(error).__name__}: {told}; are you offline?") from error

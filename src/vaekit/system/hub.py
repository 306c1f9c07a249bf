"""The Hugging Face Hub: files of a repository fetched into its cache, and a folder uploaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from vaekit.system.files import in_one_line

PREFIX = "hf:/"  # and another slash, which paths lose
NAME = re.compile(r"(hf:/{1,2})?(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
NEEDED = 'run: pip install "vaekit[hub]"'


def text_of(place: str | PurePath) -> str:
    """A place as it was typed: Windows' paths turn slashes round."""
    return place.as_posix() if isinstance(place, PurePath) else place


def names_repository(place: str | Path) -> bool:
    """Whether a place is a name on the Hub: hf://user/name, or from Python the text user/name.

    A `Path`, which the command line gives, is one of this machine, and so is a folder that is here or would be in one.
    """
    text = text_of(place)
    if NAME.fullmatch(text) is None or Path(text).exists():
        return False
    return text.startswith(PREFIX) or (isinstance(place, str) and not Path(text).parent.exists())


def fetched(place: str | Path, needed: str, others: Sequence[str]) -> Path:
    """The folder in the Hub's cache that holds the file `needed` of a repository, and those of `others` that it has.

    Without a connection, what was fetched before is used. Raises `ValueError` if the repository or the file is not
    there, or cannot be reached.
    """
    found = NAME.fullmatch(text_of(place))
    assert found is not None, place
    name, revision = found["name"], found["revision"]
    with one_line(f"cannot fetch {name} from the Hub", name) as hub:
        first = Path(hub.hf_hub_download(name, needed, revision=revision, **place_of_hub()))
        commit = first.parent.name  # of all files the same
        for other in others:
            try:
                hub.hf_hub_download(name, other, revision=commit, **place_of_hub())
            except hub.errors.LocalEntryNotFoundError:  # the connection is lost: what is missing is not known
                raise
            except hub.errors.EntryNotFoundError:
                continue
    return first.parent


def place_of_hub() -> dict[str, str | None]:
    """Its address and its cache as the environment says now; the package reads it when it is loaded, and no more."""
    return {"endpoint": os.environ.get("HF_ENDPOINT"), "cache_dir": os.environ.get("HF_HUB_CACHE")}


def uploaded(folder: Path, name: str, private: bool, replaced: Sequence[str] = ()) -> str:
    """Upload the files of a folder to a repository of models, which is made if it is not there; its address.

    Tensors, and files called as in `replaced`, that an earlier upload has left there, and this one does not have, are
    removed.

    Raises `ValueError` for a name that is none, without a token, and if the Hub cannot be reached.
    """
    found = check_name(name)
    with one_line(f"cannot upload to {found['name']}", found["name"]) as hub:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        if api.repo_exists(found["name"]):
            check_private(api, found["name"], private)
        url = api.create_repo(found["name"], private=private, exist_ok=True)
        api.upload_folder(
            repo_id=found["name"],
            folder_path=folder,
            commit_message="A model of vaekit",
            delete_patterns=["*.safetensors", *replaced],
        )
    return str(url)


def check_name(name: str) -> re.Match[str]:
    """The parts of the name of a repository. Raises `ValueError` for what is none."""
    found = NAME.fullmatch(name)
    if found is None or found["revision"]:
        raise ValueError(f"{name!r} is no name on the Hub; give user/name")
    return found


def check_private(api: Any, name: str, private: bool) -> None:
    """Raise `ValueError` for a repository that all can see, where that was not asked for."""
    if private and not api.repo_info(name).private:
        raise ValueError(f"{name} is there and public; add --public, or give another name")


@contextmanager
def one_line(what: str, name: str) -> Iterator[Any]:
    """The package huggingface_hub; its errors, and those of the network, become one line."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # it would count its uses over the network
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ValueError(f"{what}: it needs the package huggingface-hub; {NEEDED}") from error
    try:
        yield hub
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{what}: there is no {name}, or it is private and `hf auth login` is needed") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"{what}: the Hub cannot be reached, and it was not fetched before") from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"{what}: it holds no model of vaekit") from error
    except Exception as error:  # of many kinds: of the network, of tokens, of the Hub
        raise ValueError(f"{what}: {in_one_line(error)[:300]}") from error

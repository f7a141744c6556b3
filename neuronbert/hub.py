"""The only door to huggingface_hub: a name to a local folder, and files to one commit.

Owns: what goes over the network, and the wording of what goes wrong there. Knows nothing of what the files are.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final, TypeVar

from neuronbert.errors import HubAccessError, HubError, InvalidOptionError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from huggingface_hub import CommitInfo, HfApi

T = TypeVar("T")
logger = logging.getLogger("neuronbert")

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKEN: Final = re.compile(r"[!-~]+")
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
_WAITS: Final = (1.0, 2.0, 4.0)
"""Seconds before a request is made again."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a model lies on this machine.

    Attributes:
        path: A folder.
        revision: The commit it is, if it came from the Hub.
    """

    path: Path
    revision: str | None


def resolve(
    model: str,
    *,
    files: tuple[str, ...] | None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Resolved:
    """The folder of a model: the local one of that name, or a download of the Hub's.

    Args:
        model: A folder, or "name" or "organisation/name" on the Hub.
        files: Which files are fetched, by name or pattern; None for all.
        revision: Branch, tag or commit on the Hub.
        token: For the Hub; None takes the one that is logged in.

    Raises:
        ModelNotFoundError: it is neither.
        InvalidOptionError: a revision is given for a local folder.
    """
    local = _find_folder(model, revision)
    if local is not None:
        return Resolved(local, None)
    if not _REPOSITORY.fullmatch(model):
        raise ModelNotFoundError(model, "there is no such folder")
    from huggingface_hub import errors, snapshot_download

    token = _sound(token)
    try:
        with _quiet():
            path = snapshot_download(
                model,
                revision=revision,
                token=token,
                allow_patterns=None if files is None else list(files),
            )
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(model, f"the Hub has no revision {revision!r} of it") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(model, "the Hub has no such model, or not for this token") from error
    except (errors.HTTPError, OSError, ValueError) as error:
        raise ModelNotFoundError(model, _reason(error)) from error
    return Resolved(Path(path), Path(path).name)


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether the Hub can be reached.

    Attributes:
        endpoint: Its address.
        problem: Why it can't be; empty if it can.
        offline: HF_HUB_OFFLINE is set, so it wasn't tried.
        token: A token is known here; None if that couldn't be told in time.
    """

    endpoint: str
    problem: str = ""
    offline: bool = False
    token: bool | None = None


def reach(timeout: float) -> Reach:
    """Ask whether the Hub answers, and whether a token is known; the token goes nowhere.

    Args:
        timeout: Seconds after which nothing is waited for, the look-up of a name included.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return Reach(constants.ENDPOINT, offline=True)
    answers: list[Reach] = [Reach(constants.ENDPOINT, f"no answer within {timeout:g} s")]
    # A look-up has no timeout of its own; what is still waiting at the end of the process ends with it.
    asking = Thread(target=lambda: answers.extend(_asked(constants.ENDPOINT, timeout)), daemon=True)
    asking.start()
    asking.join(timeout)
    return answers[-1]


def _asked(endpoint: str, timeout: float) -> Iterator[Reach]:
    from huggingface_hub import errors, get_token
    from huggingface_hub.utils import get_session

    problem = ""
    try:
        status = get_session().head(endpoint, timeout=timeout).status_code
        problem = f"it answers HTTP {status}" if status >= 500 else ""
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        problem = _reason(error)
    yield Reach(endpoint, problem)
    with suppress(errors.HTTPError, OSError, RuntimeError, ValueError):
        yield Reach(endpoint, problem, token=get_token() is not None)


def _find_folder(model: str, revision: str | None) -> Path | None:
    try:
        folder = Path(model).expanduser()
        there, found = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a user who isn't there, a NUL
        raise ModelNotFoundError(model, _reason(error)) from error
    if there and revision is not None:
        raise InvalidOptionError("revision", revision, f"left out: {model} is a local folder, which has no revisions")
    if found and not there:
        raise ModelNotFoundError(model, "it is a file, not a folder")
    return folder if there else None


def commit(
    repository_id: str,
    files: Callable[[str], Mapping[str, Path | bytes | None]],
    *,
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Put files into a repository in one commit; either all of it is there afterwards, or nothing.

    A server error or a broken connection is tried again, a few times. The commit names the state it follows, so one
    that was made although its answer was lost isn't made twice.

    Args:
        repository_id: "name" or "organisation/name"; made if it isn't there.
        files: From the repository's full name: path in it to the file or its content, or None for one that must not
            be there any more.
        message: The commit's title.
        private: Make it private, if it is made.
        revision: The branch; made if it isn't there.
        token: For the Hub; None takes the one that is logged in.

    Returns:
        The address of the commit.

    Raises:
        InvalidOptionError: the repository's name can't be one, or the token; or it is to be private and isn't.
        HubAccessError: the Hub refused the token.
        HubError: anything else went wrong.
    """
    from huggingface_hub import HfApi

    _check_name(repository_id)
    api = HfApi(token=_sound(token), library_name="neuronbert")
    with _translated(repository_id), _quiet(), _plain_uploads():
        repository = _again(lambda: api.create_repo(repository_id, private=private, exist_ok=True)).repo_id
        if revision is not None:
            _again(lambda: api.create_branch(repository, branch=revision, exist_ok=True))
        info = _again(lambda: api.model_info(repository, revision=revision))
        if private and not info.private:
            raise InvalidOptionError("private", private, f"left out: {repository} is there already, and public")
        content = files(repository)
        made = _again(
            lambda: _commit_once(api, repository, content, message, revision, info.sha),
            stale_is_ours=True,
        )
    return str(made.commit_url)


def _check_name(repository_id: str) -> None:
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository_id)
    except errors.HFValidationError as error:
        expected = "a name, or organisation/name, as the Hub allows them"
        raise InvalidOptionError("repository_id", repository_id, expected) from error


def _sound(token: str | bool | None) -> str | bool | None:
    """The token without the white space around it: HF_TOKEN often ends with a line break.

    Raises:
        InvalidOptionError: no request can carry it. The client would repeat it in its error.
    """
    if not isinstance(token, str):
        return token
    if not _TOKEN.fullmatch(token.strip()):
        raise InvalidOptionError("token", "***", "one word of ASCII characters")
    return token.strip()


def _commit_once(
    api: HfApi,
    repository: str,
    files: Mapping[str, Path | bytes | None],
    message: str,
    revision: str | None,
    parent: str,
) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # New operations each time: the client asks again which files the branch has, and makes no second commit of the
    # same. The parent stays: a commit that arrives late makes the next one fail instead of landing twice.
    there = set(api.list_repo_files(repository, revision=revision))
    operations = [
        CommitOperationDelete(name)
        if content is None
        else CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
        if content is not None or name in there
    ]
    return api.create_commit(repository, operations, commit_message=message, revision=revision, parent_commit=parent)


def _again(request: Callable[[], T], *, stale_is_ours: bool = False) -> T:
    """Make a request, and make it again after a server error or a broken connection.

    Args:
        request: The request.
        stale_is_ours: After such a failure, take "the branch has moved on" (412) for one more of them.
    """
    from huggingface_hub import errors

    failed = False
    for wait in (*_WAITS, None):
        try:
            return request()
        except (errors.HTTPError, RuntimeError, ConnectionError) as error:
            status = _status(error)
            passing = status is None or status in _TRANSIENT or (status == 412 and failed and stale_is_ours)
            if isinstance(error, errors.OfflineModeIsEnabled) or not passing or wait is None:
                raise
            failed = True
            logger.info("the Hub did not answer (%s); trying again in %g s", _reason(error), wait)
            time.sleep(wait)
    raise AssertionError  # the last wait is None, which raises above


@contextmanager
def _translated(repository_id: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, RuntimeError, OSError, ValueError) as error:
        status = _status(error)
        if status in (401, 403):
            raise HubAccessError(repository_id, status) from error
        raise HubError("Pushing to " + repository_id, _reason(error)) from error


@contextmanager
def _plain_uploads() -> Iterator[None]:
    """Upload over HTTP.

    hf_xet is left out: it retries a refused upload for minutes and words every failure the same way.
    """
    from huggingface_hub import constants

    held = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the client's own HTTP library
            yield
    finally:
        constants.HF_HUB_DISABLE_XET = held


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client from stderr: its warnings, of what it tries again; its bars, but on a terminal.

    What the user has asked of it stays (HF_HUB_VERBOSITY, HF_HUB_DISABLE_PROGRESS_BARS).
    """
    from huggingface_hub import constants, utils

    held = utils.logging.get_verbosity()
    said = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or utils.are_progress_bars_disabled()
    drawn = said or sys.stderr.isatty()
    if held == logging.WARNING:
        utils.logging.set_verbosity(logging.ERROR)
    if not drawn:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(held)
        if not drawn:
            utils.enable_progress_bars()


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client, or None if there was no answer."""
    # A failed LFS upload is a bare RuntimeError with the real one as its cause.
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    return getattr(getattr(cause, "response", None), "status_code", None)


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    said = getattr(cause, "server_message", None) or str(cause)
    return next(iter(said.splitlines()), "").rstrip(".") or type(cause).__name__

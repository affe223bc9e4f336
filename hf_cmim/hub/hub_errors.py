"""Errors of the Hub and its client, in words that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import errors, get_session, get_token

from hf_cmim.errors import HfCmimError
from hf_cmim.names import safe_text

# The base class of all errors of the HTTP client, failed connections included. huggingface_hub before 2 uses httpx,
# later releases httpx2, so it is taken from a class that both have.
HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
PATIENCE = 60.0
"""Seconds without a byte after which the Hub counts as down; without this limit its client waits forever."""
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token from the settings of your account."
ATOMIC = "A push is published completely or not at all, so you can try again."


@contextmanager
def patient_client() -> Iterator[None]:
    """Limit the Hub's client to 60 seconds without a byte, unless the user set a limit of their own."""
    client = get_session()
    before = client.timeout
    limits = {name: value if value is not None else PATIENCE for name, value in before.as_dict().items()}
    client.timeout = type(before)(**limits)
    try:
        yield
    finally:
        client.timeout = before


@contextmanager
def explained(repo_id: str, action: str) -> Iterator[None]:
    """Turn an error of the Hub's client into an `HfCmimError` that says what to do.

    Args:
        repo_id: repository as user/name.
        action: verb for the error, which reads "Could not ACTION user/name", for instance "upload to".
    """
    # The order matters: many of these classes derive from a later one, and most from OSError or ValueError.
    try:
        yield
    except HfCmimError:
        raise
    except errors.HFValidationError as error:
        raise HfCmimError(
            f"Expected a repository as user/name (letters, digits, - _ .), got {repo_id!r}: {_first_line(error)}"
            " Choose another name."
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise HfCmimError(f"Could not {action} {repo_id}: you are not logged in. {LOGIN}") from error
    except errors.OfflineModeIsEnabled as error:
        raise HfCmimError(f"Could not {action} {repo_id}: HF_HUB_OFFLINE=1 forbids it. Unset the variable.") from error
    except errors.GatedRepoError as error:
        raise HfCmimError(
            f"Could not {action} {repo_id}: it is gated, and your account has no access. Ask for access on its page."
        ) from error
    # The client raises this for any failure before a download; the real one is its cause.
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            raise HfCmimError(_explain_status(repo_id, action, cause)) from error
        raise HfCmimError(_explain_unreachable(repo_id, action, error)) from error
    except errors.EntryNotFoundError as error:
        raise HfCmimError(
            f"{repo_id} holds no certified model: a file is missing ({_first_line(error)}). Nothing was checked. Its"
            " owner can publish it again with hf-cmim push."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HfCmimError(
            f"{repo_id} has no such branch, tag or commit ({_first_line(error)}). Look for its name on the page of the"
            " repository."
        ) from error
    except errors.HfHubHTTPError as error:
        raise HfCmimError(_explain_status(repo_id, action, error)) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise HfCmimError(_explain_unreachable(repo_id, action, error)) from error
    except RuntimeError as error:
        # The client wraps a failed upload of one file in a bare RuntimeError.
        if "while uploading" not in str(error):
            raise
        raise HfCmimError(
            f"The upload to {repo_id} was cut: {_first_line(error)} Nothing was published. Try again; files that"
            " arrived completely are not sent twice."
        ) from error
    except OSError as error:
        raise HfCmimError(_explain_disk(repo_id, action, error)) from error
    # Raised by the client while it reads an answer that no Hub gives.
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise HfCmimError(_explain_strange(repo_id, action, error)) from error


def _explain_strange(repo_id: str, action: str, error: Exception) -> str:
    # The client was handling an error status when it failed: that status is the real reason.
    if isinstance(error.__context__, errors.HfHubHTTPError):
        return _explain_status(repo_id, action, error.__context__)
    return (
        f"Could not {action} {repo_id}: the answer is not one that a Hub gives ({_first_line(error)}). A proxy may"
        f" have answered, or the answer was cut. {ATOMIC}"
    )


def _explain_unreachable(repo_id: str, action: str, error: Exception) -> str:
    return (
        f"Could not {action} {repo_id}: the Hub does not answer ({_first_line(error) or type(error).__name__}). It is"
        f" down, or this machine cannot reach it. {ATOMIC}"
    )


def _explain_disk(repo_id: str, action: str, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"Could not {action} {repo_id}: the disk is full. The incomplete files there are not used. Free some"
            " space, or set HF_HOME to a folder on a larger disk."
        )
    return (
        f"Could not {action} {repo_id}: {_first_line(error) or type(error).__name__} Incomplete files are not used."
        " Check the access rights of the cache folder (HF_HOME), then try again."
    )


def _explain_status(repo_id: str, action: str, error: errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    match status:
        case 401:
            return f"Could not {action} {repo_id}: the Hub does not know your token, or you sent none (401). {LOGIN}"
        case 403:
            return (
                f"Could not {action} {repo_id}: your token may not do that (403). It may only read, or the repository"
                " belongs to someone else. Use a token with write access, or a repository of your own."
            )
        # The Hub gives the same answer for a private repository, so that nobody can find out its name.
        case 404:
            return (
                f"Could not {action} {repo_id}: there is no such repository, or it is private and your token may not"
                " see it (404). Check the name and the token."
            )
        case 412:
            return (
                f"Could not {action} {repo_id}: somebody else committed to it meanwhile (412), and this push would"
                " overwrite their changes unseen. Nothing was published. Look at the new commits, then try again."
            )
        case 413:
            return (
                f"Could not {action} {repo_id}: the files are too large for it (413). Nothing was published. Save the"
                " model in smaller shards (max_shard_size of save_pretrained)."
            )
        case 429:
            return (
                f"Could not {action} {repo_id}: this account or address sent too many requests (429). Wait some"
                f" minutes. {ATOMIC}"
            )
        case _:
            return (
                f"Could not {action} {repo_id}: the Hub answered with status {status}: {_first_line(error)} {ATOMIC}"
            )


def _first_line(error: Exception) -> str:
    """Return the first line of a message without tokens, which a server may send back in its answer."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    token = get_token()
    return safe_text(line.replace(token, "***") if token else line)[:500]

"""What went wrong with the Hub, in words that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import errors

from hf_cmim.errors import HfCmimError

# HTTPError of the client in use, above failed connections too: httpx before huggingface_hub 2, httpx2 since.
HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token from the settings of your account."


@contextmanager
def explained(repo_id: str, action: str) -> Iterator[None]:
    """Turn an error of the Hub's client into an `HfCmimError` that says what to do.

    Args:
        repo_id: user/name.
        action: what was tried, for instance "upload to".
    """
    try:
        yield
    except errors.HFValidationError as error:
        raise HfCmimError(
            f"Expected a repository as user/name (letters, digits, - _ .), got {repo_id!r}: {_first_line(error)}"
            " Choose another name."
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise HfCmimError(f"Expected a token to {action} {repo_id}, got none. {LOGIN}") from error
    except errors.OfflineModeIsEnabled as error:
        raise HfCmimError(
            f"Expected the Hub to {action} {repo_id}, got HF_HUB_OFFLINE=1: nothing leaves or reaches this machine."
            " Unset it."
        ) from error
    except errors.GatedRepoError as error:
        raise HfCmimError(
            f"Expected the right to {action} {repo_id}, got a gated repository: ask for access on its page."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HfCmimError(
            f"Expected a certified model in {repo_id}, got a repository without it ({_first_line(error)}): nothing"
            " could be checked."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HfCmimError(
            f"Expected a branch, tag or commit of {repo_id} that exists, got none ({_first_line(error)})."
        ) from error
    except errors.HfHubHTTPError as error:
        raise HfCmimError(_explain_status(repo_id, action, error)) from error
    except (HTTPError, ConnectionError, errors.LocalEntryNotFoundError) as error:
        raise HfCmimError(
            f"Expected the Hub to answer, got {_first_line(error) or type(error).__name__}: it is down, or this"
            f" machine does not reach it. Nothing was published half; do it again later to {action} {repo_id}."
        ) from error
    except RuntimeError as error:
        if "while uploading" not in str(error):  # the client's own wrapping of a failed upload
            raise
        raise HfCmimError(
            f"Expected the Hub to take the whole upload, got: {_first_line(error)} Nothing was published"
            " half. Do it again; what arrived whole is not sent twice."
        ) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise HfCmimError(
            f"Expected room on the disk to {action} {repo_id}, got none: what is there is not whole and is not used."
            " Free some, or set HF_HOME to a larger disk."
        ) from error


def _explain_status(repo_id: str, action: str, error: errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    match status:
        case 401:
            return (
                f"Expected a token that may {action} {repo_id}, got one that the Hub does not know, or none (401)."
                f" {LOGIN}"
            )
        case 403:
            return (
                f"Expected the right to {action} {repo_id}, got a token without it (403): it only reads, or the"
                " repository belongs to someone else. Use a token with write access, or your own user/name."
            )
        case 404:
            return (
                f"Expected a repository {repo_id}, got none (404), or a private one that this token may not see. Check"
                " the name and the token."
            )
        case 412:
            return (
                f"Expected {repo_id} as it was when this began, got commits since then (412): theirs would be"
                " overwritten unseen. Look at them, then do it again."
            )
        case _:
            return (
                f"Expected the Hub to {action} {repo_id}, got an answer with status {status}:"
                f" {_first_line(error)} Nothing was published half; do it again."
            )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")

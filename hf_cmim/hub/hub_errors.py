"""What went wrong with the Hub, in words that say what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import errors, get_session, get_token

from hf_cmim.errors import HfCmimError
from hf_cmim.names import safe_text

# HTTPError of the client in use, above failed connections too: httpx before huggingface_hub 2, httpx2 since.
HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
PATIENCE = 60.0
"""Seconds without a byte after which the Hub counts as down; its own client would wait for ever."""
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token from the settings of your account."


@contextmanager
def patient_client() -> Iterator[None]:
    """Give the Hub's client a limit of 60 seconds without a byte, wherever its user set none."""
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
        repo_id: user/name.
        action: what was tried, for instance "upload to".
    """
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
    except errors.LocalEntryNotFoundError as error:  # the client's name for any failure before a download
        cause = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else None
        raise HfCmimError(
            _explain_unreachable(repo_id, action, error) if cause is None else _explain_status(repo_id, action, cause)
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
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise HfCmimError(_explain_unreachable(repo_id, action, error)) from error
    except RuntimeError as error:
        if "while uploading" not in str(error):  # the client's own wrapping of a failed upload
            raise
        raise HfCmimError(
            f"Expected the Hub to take the whole upload, got: {_first_line(error)} Nothing was published"
            " half. Do it again; what arrived whole is not sent twice."
        ) from error
    except OSError as error:
        raise HfCmimError(_explain_disk(repo_id, action, error)) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # the client read what is no answer of a Hub
        raise HfCmimError(_explain_strange(repo_id, action, error)) from error


def _explain_strange(repo_id: str, action: str, error: Exception) -> str:
    if isinstance(error.__context__, errors.HfHubHTTPError):  # while the client tried to make the best of it
        return _explain_status(repo_id, action, error.__context__)
    return (
        f"Expected an answer that a Hub gives to {action} {repo_id}, got another ({_first_line(error)}): a proxy"
        " may have answered, or the answer was cut. Nothing was published half; do it again."
    )


def _explain_unreachable(repo_id: str, action: str, error: Exception) -> str:
    return (
        f"Expected the Hub to answer, got {_first_line(error) or type(error).__name__}: it is down, or this"
        f" machine does not reach it. Nothing was published half; do it again later to {action} {repo_id}."
    )


def _explain_disk(repo_id: str, action: str, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"Expected room on the disk to {action} {repo_id}, got none: what is there is not whole and is not used."
            " Free some, or set HF_HOME to a larger disk."
        )
    return (
        f"Could not {action} {repo_id}: {_first_line(error) or type(error).__name__} What is there is not whole and is"
        " not used. Look at the rights of the cache (HF_HOME), then do it again."
    )


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
        case 413:
            return (
                f"Expected {repo_id} to take these files, got the answer that they are too large (413): nothing was"
                " published. Save the model in smaller shards (max_shard_size of save_pretrained)."
            )
        case 429:
            return (
                f"Expected the Hub to {action} {repo_id}, got the answer that this account or address asks too often"
                " (429). Nothing was published half; wait some minutes, then do it again."
            )
        case _:
            return (
                f"Expected the Hub to {action} {repo_id}, got an answer with status {status}:"
                f" {_first_line(error)} Nothing was published half; do it again."
            )


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without tokens: a server may repeat what it was sent."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    token = get_token()
    return safe_text(line.replace(token, "***") if token else line)[:500]

"""How commands begin and fail: TensorFlow's noise is hidden, an error is a sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator

import click

TOLD = (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError)  # with a message made for people


@contextlib.contextmanager
def polite() -> Iterator[None]:
    """What went wrong as a sentence and exit code 2; warnings as sentences, too.

    >>> with contextlib.suppress(SystemExit), polite():
    ...     raise ValueError("it cannot be")
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: click.echo(f"vtx: {message}", err=True)
        try:
            yield
        except BrokenPipeError:  # whoever read has enough; click ends quietly then
            raise
        except Exception as error:
            if not known(error):
                raise
            click.echo(f"vtx: {told(error)}", err=True)
            raise SystemExit(2) from error


def known(error: Exception) -> bool:
    """Whether an error tells a user what to do, and no one else need see where it came from.

    >>> known(ValueError()), known(ZeroDivisionError())
    (True, False)
    """
    return isinstance(error, TOLD) or type(error).__module__.startswith("tensorflow")  # a damaged file of data


def told(error: Exception) -> str:
    """An error's message, which a KeyError would put in quotes.

    >>> told(KeyError("no such thing")), told(ValueError())
    ('no such thing', 'ValueError')
    """
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return str(said).strip() or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what TensorFlow logs while it starts, before it can be told not to; shows it if the start fails."""
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)

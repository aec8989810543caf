"""Exit codes of `dm2` and the errors that carry them; each error's text is one line for the user."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Callable

EXIT_USAGE = 2  # wrong configuration or command line
EXIT_DATA = 65  # damaged or refused input
EXIT_SERVICE = 69  # something outside is missing
EXIT_NUMERIC = 70  # a number that is not finite
EXIT_WRITE = 73  # cannot write
EXIT_AGAIN = 75  # interrupted or locked: run the same command again


# What numpy raises where a file is no npz, or a damaged one (an npy has no names: TypeError, AttributeError).
NO_NPZ = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class Dm2Error(Exception):
    """Ends the program with its exit code and one line."""

    exit_code = 1


class DataError(Dm2Error):
    exit_code = EXIT_DATA


class ServiceError(Dm2Error):
    exit_code = EXIT_SERVICE


class NumericError(Dm2Error):
    exit_code = EXIT_NUMERIC


class WriteError(Dm2Error):
    exit_code = EXIT_WRITE


class TryAgain(Dm2Error):
    exit_code = EXIT_AGAIN


def guarded(main: Callable[[], int]) -> int:
    """A script's exit code; what ended it is one line."""
    try:
        return main()
    except Dm2Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_WRITE

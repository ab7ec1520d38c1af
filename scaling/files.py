"""Files that are written whole or not at all.

The content goes to a hidden neighbor first, reaches the disk, and then takes the place of the old
file in one step. A failure on the way leaves the old file as it was and nothing beside it.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import BinaryIO

Path = str | os.PathLike


def write(path: Path, fill: Callable[[BinaryIO], object]) -> pathlib.Path:
    """Writes a file by calling ``fill`` with an open binary file.

    Args:
        path: where the file is to be; its folder must exist.
        fill: writes the content; whatever it raises is raised on, and nothing is left behind.

    Returns:
        The path.

    Raises:
        ValueError: the folder does not exist or cannot be written to.
    """
    path = check(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror}.") from None
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def write_text(path: Path, text: str) -> pathlib.Path:
    """Writes ``text`` as UTF-8; see ``write``."""
    return write(path, lambda file: file.write(text.encode()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check(path: Path) -> pathlib.Path:
    """Returns the path, or says before the work that its result could not be written.

    Raises:
        ValueError: the path is a folder, or its folder does not exist or is not writable.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"Cannot write {path}: it is a folder; name a file.")
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write {path}: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"Cannot write {path}: {path.parent} is not writable.")
    return path

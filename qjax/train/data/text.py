"""Bytes of text files, split by file into train and held-out, and cut into windows.

NumPy only: the batch of a step is a function of the seed and the step, so a resumed run sees
what an uninterrupted one would. Tokenizers and downloads are not here.
"""

import dataclasses
import hashlib
import os
import pathlib
import sysconfig
from collections.abc import Sequence

import numpy as np

HELD_OUT_SHARE = 0.1
SMALLEST = 4096


@dataclasses.dataclass(frozen=True)
class Text:
    """Text of two sets of files.

    Attributes:
      train, held_out: [n] uint8; no file has bytes in both.
      files: Number of files in each.
    """

    train: np.ndarray
    held_out: np.ndarray
    files: tuple[int, int]


def standard_library() -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Returns the folder of the interpreter's standard library and its Python files, sorted.

    Raises:
      FileNotFoundError: If this Python comes without the source of its library.
    """
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    outside = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    found = sorted(folder.rglob("*.py"))
    paths = [path for path in found if not outside & set(path.relative_to(folder).parts)]
    if not paths:
        raise FileNotFoundError(
            f"The default text is the Python standard library, but {folder} holds no .py file. "
            "Give your own files with `--text PATH...`."
        )
    return folder, paths


def read_text(paths: Sequence[str | os.PathLike[str]] | None = None) -> Text:
    """Reads files (folders stand for every file below them) and splits them by file.

    A file is held out by a hash of its path below the folder given (or of its name), about one
    in ten, so the split is the same everywhere. A single file is split by position: its last
    tenth is held out.

    Args:
      paths: Files and folders; None: the Python standard library's own source.

    Raises:
      FileNotFoundError: If a path does not exist.
      ValueError: If a file cannot be read, or one of the two parts is shorter than 4,096 bytes.
    """
    contents = [(path.relative_to(base).as_posix(), _read(path)) for path, base in _files(paths)]
    contents = [(name, data) for name, data in contents if data]
    if len(contents) == 1:
        data = contents[0][1]
        cut = int(len(data) * (1 - HELD_OUT_SHARE))
        parts, files = ([data[:cut]], [data[cut:]]), (1, 1)
    else:
        kept = [data for name, data in contents if not _held_out(name)]
        held = [data for name, data in contents if _held_out(name)]
        if contents and not held:
            held = [kept.pop()]
        parts, files = (kept, held), (len(kept), len(held))
    train, held_out = (np.frombuffer(b"\n".join(p), np.uint8) for p in parts)
    for name, part in (("training", train), ("held-out", held_out)):
        if len(part) < SMALLEST:
            raise ValueError(
                f"The text is too short: its {name} part has {len(part)} bytes, and at least "
                f"{SMALLEST} are needed. Give more or longer files."
            )
    return Text(train, held_out, files)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Random windows of a text, as batches of next-byte predictions.

    `windows[t]` is the batch of step `t`: `inputs` and `targets`, [batch, length] int32, the
    targets one byte ahead.

    Attributes:
      text: [n] uint8.
      batch: Windows per batch.
      length: Predicted bytes per window.
      seed: Chooses the windows.
    """

    text: np.ndarray
    batch: int
    length: int
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.text) < self.length + 1:
            raise ValueError(
                f"A window needs {self.length + 1} bytes of text, but there are {len(self.text)}. "
                "Give more text or a smaller `length`."
            )

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng((self.seed, step))
        starts = draw.integers(0, len(self.text) - self.length, self.batch)
        return _windows(self.text, starts, self.length)

    def in_order(self, batches: int) -> list[dict[str, np.ndarray]]:
        """Returns batches of windows spread evenly over the text, the same for every seed.

        At most `batches`, and only as many as do not overlap; at least one.
        """
        fit = max((len(self.text) - 1) // (self.batch * self.length), 1)
        count = min(batches, fit)
        starts = np.linspace(0, len(self.text) - self.length - 1, count * self.batch).astype(int)
        return [_windows(self.text, part, self.length) for part in np.split(starts, count)]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A text cut into windows that do not overlap: a record source for `batches_of`.

    Attributes:
      text: [n] uint8.
      length: Predicted bytes per window.
    """

    text: np.ndarray
    length: int

    def __len__(self) -> int:
        return max(len(self.text) - 1, 0) // self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        whole = _windows(self.text, np.asarray([index * self.length]), self.length)
        return {name: rows[0] for name, rows in whole.items()}


def _windows(text: np.ndarray, starts: np.ndarray, length: int) -> dict[str, np.ndarray]:
    rows = text[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return {"inputs": rows[:, :-1], "targets": rows[:, 1:]}


def _files(
    paths: Sequence[str | os.PathLike[str]] | None,
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Files to read, each with the folder that its name in the split is relative to."""
    if paths is None:
        folder, library = standard_library()
        return [(path, folder) for path in library]
    found = []
    for path in map(pathlib.Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"`--text` names {path}, which does not exist. Check the path.")
        if path.is_dir():
            found += [(p, path) for p in sorted(path.rglob("*")) if p.is_file()]
        else:
            found.append((path, path.parent))
    return found


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"The text file {path} cannot be read ({error.strerror}). Make it readable or leave "
            "it out."
        ) from None


def _held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < 256 * HELD_OUT_SHARE

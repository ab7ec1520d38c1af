"""Grain pipelines: shuffled, endless, cut per host, resumable batches of any record source.

A source is anything with `len` and `[i] -> dict of arrays`: `Cut` text, `digits`, an
`ImageFolder`, a Hugging Face dataset (`datasets.load_dataset(...).with_format("numpy")`) or a
TensorFlow one (`tfds.data_source(...)`). What the records mean is the source's business.
"""

from typing import Any, Protocol, cast

import numpy as np

from qjax._typing import PyTree


class Source(Protocol):
    """Records by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def batches_of(
    source: Source,
    *,
    batch: int,
    seed: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Any:
    """Returns an endless `grain.MapDataset` of batches; `[t]` is the batch of step `t`.

    Every epoch is shuffled anew. The position in the data is the step, so a resumed run needs
    nothing else. The hosts' batches of one step are, together, the batch that one host alone
    would see.

    Args:
      source: Records, all of one structure.
      batch: Records per step, over all hosts.
      seed: Of the shuffling.
      host: Which of the hosts this is.
      hosts: Number of hosts, which divides `batch`.

    Raises:
      ValueError: If the source has fewer records than a batch, or the hosts do not divide it.
    """
    import grain

    if batch < 1 or batch % hosts or not 0 <= host < hosts:
        raise ValueError(
            f"`batch` is {batch} for host {host} of {hosts}. Give a batch that is a multiple of "
            "the hosts, and a host from 0 on."
        )
    if len(source) < batch:
        raise ValueError(
            f"A batch needs {batch} records, but the source has {len(source)}. Give more data or a "
            "smaller `batch`."
        )
    # Grain spells the same protocol with a named argument; any sequence serves.
    records = grain.MapDataset.source(cast(Any, source)).shuffle(seed=seed).repeat()
    return records.slice(slice(host, None, hosts)).batch(batch // hosts)


class Stream:
    """Batches that can only be read in order, such as a Grain iterator with many transforms.

    A checkpoint stores `position()`; `restore` goes back to it.

    Args:
      iterator: A Grain dataset iterator: `next`, `get_state` and `set_state`.
    """

    def __init__(self, iterator: Any):
        self._iterator, self._next = iterator, 0

    def __getitem__(self, step: int) -> PyTree:
        if step != self._next:
            raise ValueError(
                f"A stream is read in order: step {self._next} is next, but step {step} was asked "
                "for. Call `restore` with the position of the checkpoint first."
            )
        self._next += 1
        return next(self._iterator)

    def position(self) -> Any:
        """Returns a JSON value that `restore` takes."""
        return {"step": self._next, "state": self._iterator.get_state()}

    def restore(self, position: Any) -> None:
        """Goes on from a position that `position` gave."""
        self._iterator.set_state(position["state"])
        self._next = position["step"]


def in_order(source: Source, *, batch: int) -> list[PyTree]:
    """Returns all whole batches of a source in its own order, for evaluation."""
    records = [source[i] for i in range(len(source) - len(source) % batch)]
    return [
        {name: np.stack([r[name] for r in records[i : i + batch]]) for name in records[0]}
        for i in range(0, len(records), batch)
    ]

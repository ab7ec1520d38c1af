"""A bootstrap worker: reads one pickled problem from stdin, writes refits to stdout as they finish.

A plain child process rather than ``multiprocessing``: it neither forks a process that runs JAX's
threads nor imports the caller's script again, so scripts need no ``__main__`` guard.
"""

import pickle
import sys

from scaling import laws
from scaling.fitting.coordinates import Coordinates
from scaling.uncertainty.bootstrap import refits


def main() -> None:
    """Serves one problem and ends."""
    problem = pickle.load(sys.stdin.buffer)
    name, options = problem["law"]
    coords = Coordinates(
        law=laws.get(name, **options),
        x=problem["x"],
        y=problem["y"],
        fixed=problem["fixed"],
        ties=problem["ties"],
        bounds=problem["bounds"],
        centered_terms=problem["centered_terms"],
    )
    for end in refits(coords, problem["objective"], problem["start"], problem["weights"]):
        pickle.dump(end, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

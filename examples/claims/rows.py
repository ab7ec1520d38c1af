"""Keeps the figures of claims between runs: one JSON file per claim, whole or absent."""

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from examples.claims.claim import Claim
from qjax import train


def done(claim: Claim, seeds: Sequence[int], folder: pathlib.Path) -> dict[str, Any] | None:
    """The stored row of a claim, or None where it must be run.

    A row counts only for the same seeds, the same claim's file and the same code of its method.
    """
    row = read(claim, folder)
    if row is None or row["seeds"] != list(seeds) or row["source"] != source(claim):
        return None
    return row


def read(claim: Claim, folder: pathlib.Path) -> dict[str, Any] | None:
    """The stored row of a claim, whatever its seeds; None where there is none."""
    path = folder / f"{claim.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def run(claim: Claim, seeds: Sequence[int], folder: pathlib.Path) -> dict[str, Any]:
    """Runs a claim and stores its row, with the processor time that it took.

    Processor time, unlike the clock's, does not depend on what else a machine does.
    """
    began = time.process_time()
    figures = claim.run(seeds)
    row = {
        "claim": claim.name,
        "seeds": list(seeds),
        "figures": {arm: [float(v) for v in values] for arm, values in figures.items()},
        "cpu_seconds": round(time.process_time() - began, 1),
        "source": source(claim),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **train.versions()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{claim.name}.json.partial"
    partial.write_text(json.dumps(row, indent=1))
    partial.replace(folder / f"{claim.name}.json")
    return row


def source(claim: Claim) -> str:
    """A hash of the file that states the claim and of its method's; what they rest on is left out.

    Comments and docstrings do not count: what is computed does not depend on them.
    """
    run = claim.run.func if isinstance(claim.run, functools.partial) else claim.run
    modules = [inspect.getmodule(run)]
    name = f"qjax.recipes.{claim.method}"
    if importlib.util.find_spec(name) is not None:
        modules.append(importlib.import_module(name))
    text = "".join(_bare(inspect.getsource(module)) for module in modules if module is not None)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bare(text: str) -> str:
    """A program without its comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def machine() -> str:
    """What the figures were computed on."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{', '.join(kinds)}, {os.cpu_count()} CPU cores, {platform.machine()} {sys.platform}"

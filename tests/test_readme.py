"""The README shows only what runs: its Python blocks are executed, in order, in one namespace,
and what it shows of their output is what they print."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_blocks_run_and_print_what_the_readme_shows(capsys):
    namespace: dict = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    for block in blocks("text"):
        for line in block.splitlines():
            assert line in printed


def test_every_make_target_that_the_readme_names_exists():
    makefile = (pathlib.Path(__file__).parent.parent / "Makefile").read_text()
    named = {name for block in blocks("sh") for name in re.findall(r"\bmake ([\w-]+)", block)}
    assert named >= {"train", "test"}
    for name in named:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name

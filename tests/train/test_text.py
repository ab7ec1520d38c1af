"""Text is split by file, deterministically, and cut into windows by seed and step alone."""

import numpy as np
import pytest

from qjax.train import data


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        (tmp_path / f"part_{i}.txt").write_text(f"<{i}>" * 600)
    return tmp_path


def test_no_file_is_on_both_sides(folder):
    text = data.read_text([folder])
    sides = [
        {int(w) for w in part.tobytes().decode().replace("<", " ").replace(">", " ").split()}
        for part in (text.train, text.held_out)
    ]
    assert sum(text.files) == 40
    assert min(text.files) > 0
    assert sides[0] & sides[1] == set()
    assert sides[0] | sides[1] == set(range(40))


def test_the_split_does_not_depend_on_where_the_folder_is_or_what_else_it_holds(folder, tmp_path):
    before = data.read_text([folder])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in list(folder.glob("*.txt")):
        path.rename(moved / path.name)
    assert np.array_equal(before.held_out, data.read_text([moved]).held_out)
    (moved / "part_3.txt").unlink()
    after = set(data.read_text([moved]).held_out.tobytes().decode().split("\n"))
    assert after <= set(before.held_out.tobytes().decode().split("\n"))


def test_the_standard_library_is_long_enough_to_train_on():
    text = data.read_text()
    assert len(text.train) > 5_000_000
    assert len(text.held_out) > 200_000
    assert b"import" in text.held_out.tobytes()


def test_a_single_file_is_split_by_position(tmp_path):
    path = tmp_path / "one.txt"
    path.write_bytes(bytes(range(256)) * 400)
    text = data.read_text([path])
    assert text.train.tobytes() + text.held_out.tobytes() == path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"short"])
def test_an_empty_or_short_text_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"too short: .* at least 4096 are needed"):
        data.read_text([tmp_path])


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere, which does not exist"):
        data.read_text([tmp_path / "nowhere"])


def test_an_unreadable_file_is_named(tmp_path):
    # A link to itself cannot be opened, by root either.
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with pytest.raises((ValueError, FileNotFoundError), match=r"loop\.txt"):
        data.read_text([tmp_path / "loop.txt"])


def test_windows_are_a_function_of_seed_and_step(folder):
    text = data.read_text([folder]).train
    windows = data.Windows(text, batch=4, length=16, seed=3)
    batch = windows[7]
    again = data.Windows(text, batch=4, length=16, seed=3)[7]
    assert np.array_equal(batch["inputs"], again["inputs"])
    assert not np.array_equal(batch["inputs"], windows[8]["inputs"])
    assert not np.array_equal(
        batch["inputs"], data.Windows(text, batch=4, length=16, seed=4)[7]["inputs"]
    )
    assert batch["inputs"].shape == batch["targets"].shape == (4, 16)
    assert np.array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])


def test_windows_in_order_do_not_overlap_and_do_not_exceed_the_text():
    text = np.arange(200, dtype=np.uint8)
    batches = data.Windows(text, batch=2, length=16).in_order(100)
    starts = sorted(int(s) for batch in batches for s in batch["inputs"][:, 0])
    assert len(starts) == 12
    assert min(np.diff(starts)) >= 16
    assert max(int(b["targets"].max()) for b in batches) == 199


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="needs 65 bytes of text, but there are 64"):
        data.Windows(np.zeros(64, np.uint8), batch=1, length=64)

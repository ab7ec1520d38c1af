"""Pipelines are endless, shuffled anew, the same for any number of hosts, and resumable."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from tiny import Symbols, TinyLM, same

from qjax import train
from qjax.train import data

grain = pytest.importorskip("grain")
TEXT = np.random.default_rng(0).integers(0, 32, 1000).astype(np.uint8)


def rows(batch):
    return sorted(tuple(row) for row in batch["inputs"].tolist())


def test_an_epoch_holds_every_record_once_and_the_next_is_shuffled_anew():
    batches = data.batches_of(data.Cut(TEXT, 9), batch=3, seed=1)
    epochs = [
        [tuple(r) for t in range(e * 37, e * 37 + 37) for r in batches[t]["inputs"].tolist()]
        for e in range(2)
    ]
    assert len(data.Cut(TEXT, 9)) == 111
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == 111
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_one(hosts):
    source = data.Cut(TEXT, 9)
    alone = data.batches_of(source, batch=8, seed=1)
    parts = [data.batches_of(source, batch=8, seed=1, host=h, hosts=hosts) for h in range(hosts)]
    for t in (0, 5, 40):
        together = [row for part in parts for row in rows(part[t])]
        assert sorted(together) == rows(alone[t])
        assert {len(part[t]["inputs"]) for part in parts} == {8 // hosts}


def test_windows_that_are_cut_join_to_the_text():
    cut = data.Cut(TEXT, 9)
    joined = np.concatenate([cut[i]["targets"] for i in range(len(cut))])
    assert np.array_equal(joined, TEXT[1 : len(joined) + 1])


def test_a_stream_resumes_where_its_checkpoint_says(tmp_path):
    def stream():
        batches = data.batches_of(data.Cut(TEXT, 9), batch=4, seed=1)
        return data.Stream(iter(batches.to_iter_dataset()))

    pytest.importorskip("orbax.checkpoint")
    step = train.Step(task=train.LinenTask(model=TinyLM()), optimizer=optax.adam(1e-2))

    def fresh():
        return step.init(jax.random.key(0), Symbols()[0])

    whole = train.run(step, fresh(), stream(), steps=9, chunk=3)
    with train.Checkpoints(tmp_path, every=100) as checkpoints:
        train.run(step, fresh(), stream(), steps=5, chunk=3, checkpoints=checkpoints)
        checkpoints.wait()
        state, position = checkpoints.resume(fresh())
    again = stream()
    again.restore(position)
    rest = train.run(step, state, again, steps=9, chunk=3)
    assert same(rest.state, whole.state)


def test_a_stream_read_out_of_order_is_refused():
    stream = data.Stream(iter(data.batches_of(data.Cut(TEXT, 9), batch=4).to_iter_dataset()))
    stream[0]
    with pytest.raises(ValueError, match="step 1 is next, but step 3 was asked for"):
        stream[3]


def test_a_small_network_learns_the_digits():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
            return nn.Dense(10, name="head")(x)

    pytest.importorskip("sklearn")
    train_set, held_out = data.digits()
    assert (len(train_set), len(held_out)) == (1437, 360)
    assert (train_set.images.min(), train_set.images.max()) == (-1, 1)
    batches = data.batches_of(train_set, batch=32)
    step = train.Step(task=train.LinenTask(model=Network()), optimizer=optax.adam(3e-3))
    evaluate = train.make_evaluator(step, data.in_order(held_out, batch=60))
    state = step.init(jax.random.key(0), batches[0])
    result = train.run(step, state, batches, steps=150, chunk=50, evaluate=evaluate)
    assert result.evaluations[-1].loss < 0.3


def test_a_folder_of_images_is_read(tmp_path):
    from matplotlib import image

    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            np.save(tmp_path / name / f"{i}.npy", np.full((4, 4, 3), label, np.float32))
    image.imsave(tmp_path / "dog" / "x.png", np.ones((4, 4, 3)))
    folder = data.ImageFolder(tmp_path)
    assert folder.classes == ["cat", "dog"]
    assert len(folder) == 7
    for i in range(6):
        assert folder[i]["inputs"].shape == (4, 4, 3)
        assert folder[i]["inputs"][0, 0, 0] == folder[i]["targets"]
    assert folder[6]["inputs"].shape[:2] == (4, 4)


def test_a_hugging_face_dataset_on_disk_is_a_source(tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets are not installed")
    rows = np.arange(160, dtype=np.float32).reshape(40, 4)
    table = {"inputs": rows.tolist(), "targets": list(range(40))}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path)
    source = datasets.load_from_disk(tmp_path).with_format("numpy")
    batches = data.batches_of(source, batch=8)
    seen = [batches[t] for t in range(5)]
    assert sorted(np.concatenate([b["targets"] for b in seen])) == list(range(40))
    assert all(np.array_equal(b["inputs"], rows[b["targets"]]) for b in seen)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"folder of \.png or \.npy files for each class"):
        data.ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 200}, "needs 200 records, but the source has 111"),
        ({"batch": 6, "hosts": 4}, "`batch` is 6 for host 0 of 4"),
    ],
)
def test_batches_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.batches_of(data.Cut(TEXT, 9), **options)

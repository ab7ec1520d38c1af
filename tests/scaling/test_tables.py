"""Results tables: files, names, units, and bad rows named by line and reason."""

import json

import numpy as np
import pytest

from scaling import Dataset, fit
from scaling.capacity import gmse_uniform
from scaling.simulate import simulate

pd = pytest.importorskip("pandas")
ROWS = {"N": [1e8, 2e8, 4e8], "D": [2e9, 4e9, 8e9], "loss": [3.5, 3.25, 3.125]}


def test_every_kind_of_file_reads_to_the_same_table(tmp_path):
    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "t.json", orient="records")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    kinds = ["csv", "tsv", "json", "jsonl"]
    if pytest.importorskip("pyarrow"):
        frame.to_parquet(tmp_path / "t.parquet")
        kinds.append("parquet")
    expected = Dataset(frame)
    for kind in kinds:
        found = Dataset.read(tmp_path / f"t.{kind}")
        assert found.hash == expected.hash, kind
        assert found.source.endswith(kind)
    assert Dataset(ROWS).hash == expected.hash
    assert Dataset(ROWS).take([2, 1, 0]).hash != expected.hash


def test_columns_are_mapped_with_units():
    raw = {"params_m": [100, 200], "tok": [2, 4], "val": ["3.5", "3.25"]}
    ds = Dataset(raw, map={"N": "params_m:1e6", "D": "tok:B", "loss": "val"})
    np.testing.assert_array_equal(ds["N"], [1e8, 2e8])
    np.testing.assert_array_equal(ds["D"], [2e9, 4e9])
    np.testing.assert_array_equal(ds["loss"], [3.5, 3.25])
    assert "params_m" not in ds
    with pytest.raises(ValueError, match="unit"):
        Dataset(raw, map={"N": "params_m:mega"})
    with pytest.raises(ValueError, match="line 2: N is 'many', which is not a number"):
        Dataset({"n": ["1", "many"], "loss": [3.0, 3.1]}, map={"N": "n:1e6"})


def test_tokens_are_derived_only_when_asked():
    raw = {"N": [1e8, 2e8], "C": [1.2e18, 4.8e18], "loss": [3.5, 3.25]}
    with pytest.raises(ValueError, match="no column 'D'"):
        Dataset(raw)["D"]
    np.testing.assert_allclose(Dataset(raw, derive="D")["D"], [2e9, 4e9])
    with pytest.raises(ValueError, match="derive"):
        Dataset(raw, derive="E")


def test_formats_give_bits_and_blocks():
    ds = Dataset({"fmt": ["BF16", "INT4-g128", "NVFP4"], "loss": [3.0, 3.1, 3.2]})
    np.testing.assert_array_equal(ds["P"], [16, 4, 4])
    np.testing.assert_array_equal(ds["E"], [8, 0, 2])
    np.testing.assert_array_equal(ds["M"], [7, 3, 1])
    np.testing.assert_array_equal(ds["B"], [np.nan, 128, 16])
    assert ds["GMSE"][1] == gmse_uniform(4)


def test_unknown_columns_list_near_names():
    with pytest.raises(ValueError, match=r"no column 'loss'.*Near: val_loss"):
        Dataset({"N": [1e8], "val_loss": [3.0]})["loss"]
    with pytest.raises(ValueError, match=r"Near: params"):
        Dataset({"params": [1e8], "loss": [3.0]}, map={"N": "param"})


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("nan", "loss is nan"),
        ("inf", "loss is inf"),
        ("0", "must be positive"),
        ("-1.5", "must be positive"),
        ("", "loss is nan"),
        ("diverged", "'diverged', which is not a number"),
    ],
)
def test_a_bad_row_is_named_by_line_and_reason(tmp_path, cell, reason):
    path = tmp_path / "t.csv"
    path.write_text(f"N,D,loss\n1e8,2e9,3.5\n\n2e8,4e9,{cell}\n4e8,8e9,3.1\n")
    with pytest.raises(ValueError, match=rf"line 4: .*{reason}"):
        Dataset.read_csv(path)
    kept = Dataset.read_csv(path, on_bad="drop")
    assert len(kept) == 2
    assert kept.dropped[0][0] == 4
    assert kept.lines.tolist() == [2, 5]


def test_rows_without_a_predictor_are_named_when_the_law_is_known():
    ds = Dataset(ROWS | {"P": [4.0, np.nan, 16.0]})
    with pytest.raises(ValueError, match=r"line 2: P has no value, and law 'kumar_equal' reads it"):
        ds.complete("kumar_equal")
    assert len(ds.complete("chinchilla")) == 3
    assert ds.complete("kumar_equal", on_bad="drop").dropped[0][0] == 2


def test_dropped_rows_are_in_the_result():
    ds = simulate("chinchilla", noise=0.002)
    loss = ds["loss"].copy()
    loss[3] = np.nan
    result = fit(Dataset(ds.columns | {"loss": loss}, on_bad="drop"), "chinchilla")
    assert result.n == 35
    assert result.dropped == ((4, "loss is nan"),)
    assert "dropped_rows" in {w.code for w in result.warnings}


def test_empty_and_unreadable_tables_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("N,D,loss\n")
    (tmp_path / "broken.json").write_text("{")
    for name in ("empty.csv", "header.csv"):
        with pytest.raises(ValueError, match="is empty"):
            Dataset.read(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read as json"):
        Dataset.read(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="There is no file"):
        Dataset.read(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="pass kind"):
        Dataset.read(tmp_path / "t.xlsx")
    with pytest.raises(ValueError, match="different lengths"):
        Dataset({"N": [1.0], "D": [1.0, 2.0]})


def test_json_columns_and_lines_are_numbered(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"N": 1e8, "D": 2e9, "loss": 3.5}, {"N": 2e8, "D": 4e9, "loss": None}]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    with pytest.raises(ValueError, match="line 2: loss is nan"):
        Dataset.read(path)


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    (tmp_path / "t.csv").write_text("N,D,loss\n1,1,1\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"qjax\[tables\]"):
        Dataset.read_csv(tmp_path / "t.csv")
    assert len(Dataset(ROWS)) == 3


def test_columns_are_found_by_what_people_call_them():
    ds = Dataset({"n_params": [1e8, 2e8], "train_tokens": [1e9, 2e9], "loss": [3.0, 2.9]})
    for name, column in (("N", "n_params"), ("D", "train_tokens")):
        with pytest.raises(ValueError, match=f"--map {name}={column}, in Python map="):
            ds[name]
    with pytest.raises(ValueError, match="--map M=your_column"):
        ds["M"]


def test_bits_and_error_follow_from_exponent_and_mantissa_bits():
    """Sun's tables name no formats; laws of bits or of error read them all the same."""
    ds = Dataset({"E": [4, 2, 0], "M": [3, 1, 7], "loss": [3.0, 3.1, 3.0]})
    named = Dataset({"fmt": ["FP8-E4M3", "E2M1", "INT8"], "loss": [3.0, 3.1, 3.0]})
    np.testing.assert_array_equal(ds["P"], [8, 4, 8])
    for column in ("P", "GMSE"):
        np.testing.assert_array_equal(ds[column], named[column])
    with pytest.raises(ValueError, match="no column 'P'"):
        Dataset({"E": [4], "loss": [3.0]})["P"]
    gaps = Dataset({"E": [4, 2.5], "M": [np.nan, 1], "loss": [3.0, 3.1]})
    assert np.isnan(gaps["GMSE"]).all()


def test_all_missing_columns_are_named_at_once():
    ds = Dataset({"size": [1e8], "val": [3.0]})
    with pytest.raises(ValueError, match="no columns 'N', 'D', 'loss'"):
        ds.complete("chinchilla")

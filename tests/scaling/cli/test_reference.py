"""The commands that need no runs: laws, published constants, simulated tables."""

import pytest


def test_laws_are_listed_and_explained(run):
    code, out, _ = run("laws")
    assert code == 0
    assert "sun_fp" in out
    code, out, _ = run("laws", "show", "sun_fp")
    assert code == 0
    for word in ("log2(B)", "D_crit(N, E, M, B)", "sun2025", "arXiv:2501.02423"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("sun2025 --quantity D_crit --N 1e9 --fmt E4M3 --B 128", 27.33e12),
        ("sun2025 --quantity D_crit --N 1e9 --fmt E2M1@128", 0.3928e12),
        ("sun2025 --quantity P_opt --C 1e24 --B 128", 5.005),
        ("sun2025 --quantity loss --N 40894464 --D 1.048576e10 --fmt E1M1@32", 3.5463),
        ("kumar2024 --quantity P_opt", 7.002),
        ("hoffmann2022 --quantity a", 0.45653),
        ("quest2025 --quantity loss --N 1e8 --D 1e10 --fmt FP4", 2.9722),
    ],
)
def test_published_quantities_are_computed(words, answer, run):
    code, out, _ = run("published", *words.split())
    assert code == 0
    assert float(out) == pytest.approx(answer, rel=2e-4)


def test_published_constants_are_shown_with_source_and_units(run):
    assert "sun2025" in run("published")[1]
    _, out, _ = run("published", "sun2025")
    for word in ("11334.5197", "arXiv:2501.02423", "N without embeddings", "D_crit"):
        assert word in out
    assert run("published", "sun2025", "--quantity", "best_layout", "--P", "8")[1] == "4 3\n"


def test_simulation_is_fixed_by_its_seed_and_reads_a_design(place, run):
    words = ("simulate", "--law", "chinchilla", "--noise", ".01", "--seed")
    one, two, other = (run(*words, seed)[1] for seed in (1, 1, 2))
    assert one == two != other
    design = place / "design.csv"
    design.write_text("N,D\n1e9,2e10\n7e9,1.4e11\n")
    _, out, _ = run(
        "simulate", "--law", "chinchilla", "--constants", "hoffmann2022", "--design", design
    )
    assert len(out.splitlines()) == 3
    assert float(out.splitlines()[2].split(",")[2]) == pytest.approx(2.1669, abs=2e-2)


def test_a_design_may_scale_by_channel_and_leave_rows_out(place, run):
    design = place / "blocks.csv"
    design.write_text("N,D,E,M,B\n4e7,1e10,4,3,channel\n4e7,1e10,4,3,tensor\n4e7,1e10,1,1,32\n")
    words = ("simulate", "--law", "sun_fp", "--constants", "sun2025", "--design", design)
    code, _, err = run(*words)
    assert code == 1
    assert "line 3: B is 'tensor'" in err
    code, out, _ = run(*words, "--drop-bad")
    assert code == 0
    by_channel, by_block = (float(line.split(",")[-1]) for line in out.splitlines()[1:])
    N = {"--N": 4e7, "--D": 1e10}
    given = [str(word) for pair in N.items() for word in pair]
    for value, fmt in ((by_channel, "E4M3@channel"), (by_block, "E1M1@32")):
        asked = ("published", "sun2025", "--quantity", "loss", *given, "--fmt", fmt)
        assert float(run(*asked)[1]) == pytest.approx(value, rel=1e-5)


def test_the_published_design_is_simulated_whole(data, run):
    path = data("published/sun2025_design.csv")
    code, out, _ = run("simulate", "--law", "fp", "--design", path, "--drop-bad")
    assert code == 0
    wanted = [row for row in path.read_text().splitlines() if ",tensor," not in row]
    assert len(out.splitlines()) == len(wanted) == 356

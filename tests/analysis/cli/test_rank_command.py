"""`circuits rank` prints each number beside its controls, keeps a table, reports errors."""

import json

import pandas as pd
import pytest

from analysis.cli.main import main
from analysis.lowrank.curve import RankCurve
from circuits.corpus import built_in
from circuits.model import ModelPlan, ModelShape, load_model, train_model
from circuits.storage.manifest import read_manifest
from tests.support.small_dictionaries import small_dictionary

OPTIONS = ("--documents", "40", "--min-active", "20", "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    plan = ModelPlan(shape, n_steps=5, n_rows=8)
    train_model(plan, built_in(1, 400), folder / "model", device="cpu")
    model = load_model(folder / "model", device="cpu")
    for hook in ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_mid"):
        (site,) = model.check_sites(hook)
        small_dictionary(site=site).save(folder / "saes" / hook)
    return str(folder)


def test_a_curve_is_printed_and_kept(run, capsys):
    assert main(["rank", run, *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mlp_out@0, features read by encoder: 48, of which ")
    kept = RankCurve.load(f"{run}/rank/layer-0")
    main_figure, table = (part.splitlines() for part in printed.split("\n\n")[1:3])
    said = f"Main figure: {kept.needed_sentence} {kept.needed_conclusion}"
    assert " ".join(main_figure) == said.strip()
    assert max(map(len, main_figure)) <= 100
    assert table[0].split()[:3] == ["rank", "median", "mean"]
    assert [line.split()[0] for line in table[1:]] == ["1", "2", "4", "8", "all"]
    assert all(name in table[0] for name in ("rotated", "shuffled", "untrained", "costs"))
    assert f"{run}/rank/layer-0.parquet" in printed.splitlines()[-1]
    shown = float(table[2].split()[1])
    assert shown == pytest.approx(kept.summary()["median"], abs=0.006)
    loss = kept.loss.set_index("replaced_by")
    wanted = loss.loc["rank 2", ["loss", "chosen", "rotated"]] - loss.loc["sae", "loss"]
    assert [float(cell) for cell in table[2].split()[-3:]] == pytest.approx(list(wanted), rel=0.006)
    assert read_manifest(run)[-1]["step"] == "rank of layer 0"


def test_scripts_get_json(run, capsys):
    assert main(["rank", run, *OPTIONS, "--reader", "encoder", "--layer", "0", "--json"]) == 0
    (layer,) = json.loads(capsys.readouterr().out)["layers"]
    assert (layer["reader"], layer["min_active"], layer["n_documents"]) == ("encoder", 20, 40)
    assert layer["by_rank"][-1]["mean"] == pytest.approx(1, abs=1e-4)
    kept = pd.read_parquet(layer["file"])
    assert {row["rank"] for row in layer["by_rank"]} == set(kept["rank"])
    assert layer["thresholds"][75]["share"] == pytest.approx(layer["share_above"])


def test_missing_things_are_one_line_and_exit_2(run, tmp_path, capsys):
    def refused(*arguments):
        assert main(["rank", *arguments, "--device", "cpu"]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("circuits rank: ")
        assert printed.count("\n") == 1
        return printed

    assert (
        "has no circuit 'and' (it has none). Name one that it has, or find one: circuits find"
        in refused(run, "--circuit", "and")
    )
    assert "no dictionaries of mlp_out for layer 1 (there are for [0])" in refused(
        run, "--layer", "1"
    )
    assert "has no folder 'model'" in refused(str(tmp_path))
    assert "active on 9999 of the" in refused(run, "--min-active", "9999", "--documents", "40")

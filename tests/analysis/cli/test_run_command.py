"""`circuits run`: from a model's folder and a text to a report, and again without doing a thing."""

import json
import re

import pytest

from analysis import open_run
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from analysis.cli import whole
from analysis.cli.main import main
from analysis.dictionary_quality import quality
from analysis.runs.folder import RunFolder
from analysis.runs.training import run_brought, run_twin
from circuits.corpus import open_corpus
from circuits.corpus.documents import split_corpus
from circuits.errors import RunError
from circuits.model import load_model
from circuits.storage.manifest import read_manifest
from circuits.twin.plan import TwinPlan
from tests.support.small_models import gated_folder, small_corpus, small_folder

TWIN = {"n_steps": 3, "n_rows": 2, "window": 16, "fit": 2}
PLAN = {"n_tokens": 2000, "n_batch": 64, "n_buffer": 512, "k": 4}


def cases(name: str, word: str = "w5", **how) -> Behaviour:
    answers = ("w7",), ("w8",)
    return Behaviour(name, tuple(
        Case(f"{word} w{10 + which} w{12 + n}", str(which), *answers[:: -1 if which else 1])
        for which in range(2) for n in range(26)
    ), **how)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    gated_folder(folder / "gated")
    small_folder(folder / "linear")
    small_corpus(folder, 1500)
    (folder / "twin.json").write_text(json.dumps(TWIN))
    (folder / "plan.json").write_text(json.dumps(PLAN))
    cases("which").save(folder / "which.jsonl")
    return folder


def asked(place, model: str, run: str, *more: str) -> list[str]:
    plans = ("--twin-plan", str(place / "twin.json"), "--plan", str(place / "plan.json"))
    text = ("--text", str(place / "texts.txt"))
    return ["run", str(place / model), str(place / run), *text, *plans, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def made(place):
    assert main([*asked(place, "gated", "mine"), "--json"]) == 0
    return place / "mine"


def test_the_price_of_the_twin_and_of_each_dictionary_is_said(place, capsys):
    assert main(asked(place, "gated", "priced")) == 0
    printed, run = capsys.readouterr(), open_run(place / "priced")
    assert f"The model is the {run.model.label.in_words}." in printed.out
    measured = quality(run.dictionaries.values(), run.model, held_out(place), seed=0)
    for row in measured.to_dict("records"):
        said = f"{row['site']}: {row['recovered']:.1%} ± {row['recovered_error']:.1%} of the loss"
        assert said in printed.err
    assert "says little" not in printed.err  # of a model that does nothing, nothing is lost
    assert main([*asked(place, "gated", "priced"), "--json"]) == 0
    again = capsys.readouterr()
    assert "of the loss" not in again.err  # it was measured, and the report has it
    assert json.loads(again.out)["twin"]["kl"] == run.model.label.kl


def held_out(place):
    return split_corpus(open_corpus(place / "texts.txt"))[1]


def test_a_gated_model_and_a_text_end_in_a_report(made, capsys):
    run = open_run(made)
    assert run.model.label is not None
    assert run.model.label.original == "gated"
    points = {(site.point, site.layer) for site in run.dictionaries}
    layers = range(run.model.n_layer)
    assert points == {(point, layer) for point in ("mlp_in", "mlp_out") for layer in layers}
    for layer in layers:
        assert len(run.strongest(layer))
        assert len(run.rank(layer).table)
    assert (made / "report" / "index.html").exists()
    assert main(["verify", str(made)]) == 0


def test_run_again_it_does_nothing(made, place, capsys):
    files = {file: file.stat().st_mtime_ns for file in made.rglob("*.*") if file.is_file()}
    assert main([*asked(place, "gated", "mine"), "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert set(answer["proposed"]) == {str(n) for n in range(open_run(made).model.n_layer)}
    assert answer["page"] == str(made / "report" / "index.html")
    assert "interactions" not in printed.err
    now = {file: file.stat().st_mtime_ns for file in made.rglob("*.*") if file.is_file()}
    assert now == files


def test_a_behaviour_is_looked_for_through_all_layers(place, capsys, monkeypatch):
    """A model that learned nothing does not show it, and the answer says so; a dictionary that
    stands for little of it is named."""
    monkeypatch.setattr(whole, "quality", lambda *given, **how: quality(*given, **how).assign(
        recovered=lambda table: [-0.3, *table["recovered"][1:]]))  # fmt: skip
    command = asked(place, "linear", "bilinear", "--behaviour", str(place / "which.jsonl"))
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["circuits"]["which"].startswith("not found")
    assert answer["proofs"] == answer["proposed"] == {}
    assert "model: a bilinear one, copied" in printed.err
    right = re.search(
        r"which: the model as it came answers (\d+)% of '0', (\d+)% of '1' right", printed.err
    )
    cases_of = in_model(Behaviour.load(place / "which.jsonl"), load_model(place / "linear"))
    shares = cases_of.class_means((cases_of.margins() > 0).double())
    assert [int(share) for share in right.groups()] == [round(100 * float(s)) for s in shares]
    assert "minutes in all, at a guess" in printed.err
    assert main(command) == 0
    assert "which: not found" in capsys.readouterr().out


def test_a_behaviour_without_a_circuit_is_listed_with_the_reason_and_is_not_missing(place, capsys):
    run = place / "bilinear"
    if not run.exists():
        main(asked(place, "linear", "bilinear", "--behaviour", str(place / "which.jsonl")))
    page = (run / "report" / "index.html").read_text("utf-8")
    assert "<strong>which</strong>, across layers: not found: the model does not show" in page
    opened = open_run(run)
    assert "which, across layers" in repr(opened)
    assert "circuits of a behaviour" not in opened.missing
    (step,) = [each for each in read_manifest(run) if "search for" in each["step"]]
    assert step["step"] == "layered search for which"
    assert step["made"] == {}
    assert main(["verify", str(run)]) == 0


@pytest.mark.parametrize(
    ("behaviours", "said"),
    [
        ([cases("which"), cases("which", "w6")], "two behaviours are called 'which'"),
        ([cases("which", "zebra")], "words that the model does not know"),
    ],
)
def test_cases_that_no_circuit_can_be_found_for_are_refused_before_training(
    behaviours, said, place, tmp_path, capsys
):
    command = asked(place, "gated", "refused")
    for number, behaviour in enumerate(behaviours):
        folder = tmp_path / str(number)
        folder.mkdir()
        command += ["--behaviour", str(behaviour.save(folder / "which.jsonl"))]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (place / "refused" / "model").exists()


def test_a_behaviour_in_probabilities_is_refused_before_training(place, tmp_path):
    behaviour, text = cases("which", metric="probability"), open_corpus(place / "texts.txt")
    with pytest.raises(RunError, match="'which' is measured in probabilities, and across layers"):
        whole.run_whole(tmp_path / "run", place / "gated", text, [behaviour], device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("model", "more"), [("gated", " --twin-plan FILE"), ("linear", "")])
def test_a_damaged_model_is_made_again_by_the_command_that_made_it(
    model, more, place, tmp_path, capsys
):
    run = RunFolder(tmp_path / "run")
    if model == "gated":
        plan = TwinPlan.from_dict(TWIN)
        text = open_corpus(place / "texts.txt")
        run_twin(run.path, place / model, text, plan, command="run", device="cpu")
    else:
        run_brought(run.path, place / model, device="cpu")
    with (run.model / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert main(["verify", str(run.path)]) == 1
    assert f"circuits run MODEL {run} --text PATH{more}\n" in capsys.readouterr().out
    with pytest.raises(RunError, match=f"circuits run MODEL {run} --text PATH{more}$"):
        _ = open_run(run.path).model


@pytest.mark.parametrize("model", ["gated", "linear"])
def test_a_text_that_the_tokenizer_cannot_spell_is_refused_before_training(
    model, place, tmp_path, capsys
):
    (tmp_path / "texts.txt").write_text(
        "\n\n".join(["从前 有 一个 小女孩"] * 900), encoding="utf-8"
    )
    words = ("run", str(place / model), str(tmp_path / "run"), "--text")
    assert main([*words, str(tmp_path / "texts.txt"), "--device", "cpu"]) == 2
    assert "of the tokens are unknown to its tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


def test_another_model_in_the_run_is_refused(place, capsys):
    small_folder(place / "other", num_hidden_layers=1)
    assert main(asked(place, "linear", "taken")) == 0
    capsys.readouterr()
    assert main(asked(place, "other", "taken")) == 2
    assert "the model there is not" in capsys.readouterr().err


def test_without_a_text_nothing_is_begun(place, capsys):
    command = [word for word in asked(place, "gated", "none") if word not in
               ("--text", str(place / "texts.txt"))]  # fmt: skip
    assert main(command) == 2
    assert "circuits run: no text: name some like the model's own" in capsys.readouterr().err
    assert not (place / "none").exists()


def test_of_too_little_text_to_hold_any_out_the_answer_is_marked(place, tmp_path, capsys):
    """Nineteen long documents."""
    words = " ".join(f"w{4 + n % 48}" for n in range(600))
    (tmp_path / "few.txt").write_text("\n<|endoftext|>\n".join([words] * 19))
    command = asked(place, "linear", "few", "--json")
    command[command.index("--text") + 1] = str(tmp_path / "few.txt")
    assert main(command) == 0
    (mark,) = json.loads(capsys.readouterr().out)["marks"]
    assert "too few documents to hold any out" in mark


def test_plans_keep_their_seeds_unless_one_is_asked_for(place, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN, "seed": 5}))
    command = asked(place, "linear", "seeded")
    command[command.index("--plan") + 1] = str(tmp_path / "plan.json")
    assert main(command) == 0
    (plan, *_) = sorted((place / "seeded" / "saes").rglob("plan.json"))
    assert json.loads(plan.read_text())["plan"]["seed"] == 5


@pytest.mark.parametrize("model", ["gated", "linear"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [({"n_features": 15}, "narrower than the model, whose width is 16"),
     ({"k": 20}, "k is 20, more than the 16 features")],
)  # fmt: skip
def test_dictionaries_that_no_later_step_takes_are_refused_before_any_training(
    fields, said, model, place, capsys, monkeypatch
):
    for step in ("run_brought", "run_twin", "run_saes"):
        monkeypatch.setattr(whole, step, None)
    plan = place / "other-plan.json"
    plan.write_text(json.dumps(PLAN | fields))
    assert main([*asked(place, model, "narrow"), "--plan", str(plan)]) == 2
    assert said in (error := capsys.readouterr().err)
    assert len(error.splitlines()) == 1
    assert not (place / "narrow" / "model").exists()

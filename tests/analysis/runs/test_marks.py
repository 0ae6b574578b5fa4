"""No file of a run is shown as it was made when it is not: each is refused, or marked."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.report import report_of
from analysis.runs import verification
from analysis.runs.run import Run
from analysis.runs.verification import verify
from circuits.errors import CircuitsError, MarkWarning
from circuits.model import load_model
from circuits.storage.manifest import read_manifest, record
from sae import TrainingPlan, load_dictionaries, load_dictionary
from tests.support.commands import command


@pytest.fixture
def folder(hostile_run, tmp_path) -> Path:
    ignored = shutil.ignore_patterns("report")
    return Path(shutil.copytree(hostile_run[0], tmp_path / "run", ignore=ignored))


def files_of(folder: Path) -> list[Path]:
    """Those that a step made."""
    return [folder / name for entry in read_manifest(folder) for name in entry["made"]]


def seen(folder: Path) -> tuple[str, dict[str, str]]:
    """Why a run is refused as it is read in full, or the marks of its files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkWarning)
        run = Run(folder, device="cpu")
        try:
            run.checked()
        except CircuitsError as refused:
            return str(refused), {}
    return "", run.marks


def turned(path: Path) -> None:
    """A bit in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


EDITS: dict[str, Callable[[Path], None]] = {
    "a turned bit": turned,
    "cut short": cut,
    "longer": longer,
    "empty": lambda path: path.write_bytes(b""),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_any_file_is_refused_or_marked(hostile_run, tmp_path, edit):
    silent = []
    for number, path in enumerate(files_of(hostile_run[0])):
        folder = tmp_path / str(number)
        shutil.copytree(hostile_run[0], folder, ignore=shutil.ignore_patterns("report"))
        name = path.relative_to(hostile_run[0])
        edit(folder / name)
        refused, marks = seen(folder)
        if not refused and str(name) not in marks:
            silent.append(str(name))
        shutil.rmtree(folder)
    assert number > 20
    assert silent == []


def changed(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def table_of_nothing(path: Path) -> None:
    table = pd.read_parquet(path)
    table.assign(**{name: float("nan") for name in table.select_dtypes("float")}).to_parquet(path)


def other_features(path: Path) -> None:
    pd.read_parquet(path).assign(first=9999).to_parquet(path)


def exchanged(one: str, other: str) -> Callable[[Path], None]:
    def exchange(folder: Path) -> None:
        (folder / one).rename(folder / "aside")
        (folder / other).rename(folder / one)
        (folder / "aside").rename(folder / other)

    return exchange


def answers_exchanged(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["right"], row["wrong"] = row["wrong"], row["right"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def halves_exchanged(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["pair"] ^= 1
    rows.sort(key=lambda row: row["pair"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


CIRCUIT, CASES = "circuits/hostile.json", "circuits/hostile.behaviour.jsonl"
PROOF, SAES = "circuits/hostile.validation.json", "saes/blocks.0.{}/stats.safetensors"
HOOKS = ("ln2.hook_normalized", "hook_mlp_out")
SWAPS: dict[str, Callable[[Path], None]] = {
    "a contrast": lambda f: changed(
        f / CIRCUIT, lambda c: c["interactions"][0].update(contrast=9.0)
    ),
    "a z": lambda f: changed(f / CIRCUIT, lambda c: c["interactions"][0].update(z=9.0)),
    "every criterion met": lambda f: changed(
        f / PROOF, lambda v: [each.update(value=each["wanted"]) for each in v["criteria"]]
    ),
    "right and wrong answers": lambda f: answers_exchanged(f / CASES),
    "the halves of the cases": lambda f: halves_exchanged(f / CASES),
    "features that are not there": lambda f: other_features(f / "interactions/layer-0.parquet"),
    "a table of nothing": lambda f: table_of_nothing(f / "rank/layer-0.parquet"),
    "a table for another": exchanged("rank/layer-0.parquet", "interactions/layer-0.parquet"),
    "a norm's epsilon": lambda f: changed(
        f / "model/config.json", lambda c: c.update(rms_norm_eps=0.1)
    ),
    "a manifest without steps": lambda f: (f / "manifest.json").write_text("[]"),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_what_was_exchanged_is_refused_or_marked(folder, swap):
    swap(folder)
    refused, marks = seen(folder)
    assert refused or marks


def test_statistics_of_another_site_are_refused(folder):
    one, other = (f.name for f in sorted((folder / "saes").iterdir()))
    exchanged(f"saes/{one}/stats.safetensors", f"saes/{other}/stats.safetensors")(folder)
    assert "stats.safetensors is damaged or another file" in seen(folder)[0]


def test_commands_that_describe_a_part_of_a_run_know_its_files(folder):
    (site, *_) = sorted((folder / "saes").iterdir())
    turned(site / "stats.safetensors")
    done = command("sae", "info", str(folder))
    assert done.returncode == 2
    assert "stats.safetensors is damaged or another file" in done.stderr
    turned(folder / "model" / "model.safetensors")
    for words in (["info", str(folder)], ["generate", str(folder), "<b>good", "--tokens", "1"]):
        done = command("model", *words)
        assert done.returncode == 2
        assert "model.safetensors is damaged or another file" in done.stderr


def test_python_s_loaders_know_the_files_of_a_run(folder):
    (site, *_) = sorted((folder / "saes").iterdir())
    load_model(folder / "model", device="cpu")
    load_dictionary(site, device="cpu")
    config = (folder / "model" / "config.json").read_text()
    (folder / "model" / "config.json").write_text(f"{config}\n")
    with pytest.warns(MarkWarning, match=r"config\.json: edited after the step 'model' made it"):
        load_model(folder / "model", device="cpu")
    (folder / "model" / "config.json").write_text(config)
    turned(folder / "model" / "model.safetensors")
    turned(site / "stats.safetensors")
    with pytest.raises(CircuitsError, match=r"model\.safetensors is damaged or another file"):
        load_model(folder / "model", device="cpu")
    for load in (load_dictionary, load_dictionaries):
        with pytest.raises(CircuitsError, match=r"stats\.safetensors is damaged or another file"):
            load(site if load is load_dictionary else folder, device="cpu")
    shutil.copytree(folder / "model", folder.parent / "elsewhere")
    load_model(folder.parent / "elsewhere", device="cpu")


@pytest.mark.parametrize("load", [load_model, load_dictionary, load_dictionaries, Run])
def test_a_name_that_nothing_can_have_is_refused(load):
    with pytest.raises(CircuitsError, match=r"aaa…: cannot be a path here \(File name too long\)"):
        load("a" * 5000)


def test_an_edit_that_says_nothing_of_dictionaries_is_read_over(folder):
    entries = json.loads((folder / "manifest.json").read_text())
    entry = next(each for each in entries if each["step"].startswith("interactions"))
    entry["made_of"]["of"] = 5
    (folder / "manifest.json").write_text(json.dumps(entries))
    assert seen(folder)[0] == ""


def edited(folder: Path) -> Path:
    path = folder / PROOF
    changed(path, lambda v: v.update(seed=v["seed"] + 1))
    return path


def test_a_mark_is_on_the_pages_in_python_and_in_the_commands(hostile_run, folder):
    path = edited(folder)
    with pytest.warns(MarkWarning, match=r"hostile\.validation\.json: edited after the step 'val"):
        run = Run(folder, hostile_run[1], device="cpu").checked()
    assert run.marks == {PROOF: run.marks[PROOF]}
    assert f"{PROOF}: edited after the step" in repr(run)
    pages = {page.name: page for page in report_of(run).pages}
    assert pages["index"].context["marks"] == [(PROOF, run.marks[PROOF])]
    assert pages["index"].context["headlines"][0]["marked"] is True
    assert pages["circuit-hostile"].context["marks"][0].startswith(PROOF)
    done = command("verify", str(folder))
    assert done.returncode == 1
    assert f"{PROOF}  validation of" in done.stdout
    answer = json.loads(command("verify", str(folder), "--json").stdout)
    assert not answer["same"]
    path.unlink()
    text = str(folder / "text.jsonl")
    done = command("rank", str(folder), "--circuit", "hostile", "--text", text, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "note:" not in done.stdout
    circuit = folder / CIRCUIT
    circuit.write_text(circuit.read_text() + " ")
    arguments = ["rank", str(folder), "--circuit", "hostile", "--text", text, "--device", "cpu"]
    done = command(*arguments)
    assert f"note: {circuit}: edited after the step" in done.stdout
    (mark,) = json.loads(command(*arguments, "--json").stdout)["marks"]
    assert mark.startswith(str(circuit))


def test_an_exported_circuit_has_the_mark_of_its_file(folder, tmp_path, monkeypatch):
    circuit, out = folder / CIRCUIT, str(tmp_path / "out")
    said = f"{circuit}: edited after the step 'circuit hostile' made it"
    assert "note:" not in command("export", str(circuit), "--out", out).stdout
    circuit.write_text(circuit.read_text() + " ")
    for form in ("graphml", "gexf", "tables", "attribution"):
        assert f"note: {said}" in command("export", str(circuit), "--out", out, "--force",
                                          "--format", form).stdout  # fmt: skip
    monkeypatch.chdir(circuit.parent)
    answer = json.loads(command("export", circuit.name, "--out", out, "--force", "--json").stdout)
    assert answer["marks"][0].startswith(said)
    copy = shutil.copy(circuit, tmp_path)
    assert "note:" not in command("export", copy, "--out", out, "--force").stdout


def test_what_is_said_of_dictionaries_has_the_marks_of_their_files(folder):
    site = next((folder / "saes").iterdir())
    edited = site / "cfg.json"
    edited.write_text(edited.read_text() + " ")
    done = command("sae", "info", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert any("cfg.json: edited after" in mark for mark in json.loads(done.stdout)["marks"])


def test_verify_lists_every_file_and_the_command_that_makes_it_again(folder):
    table = verify(folder).set_index("file")
    assert set(table["state"]) == {"as it was made"}
    assert set(table["command"]) == {""}
    cut(folder / "rank" / "layer-0.parquet")
    (folder / CASES).unlink()
    (folder / "circuits" / "by-hand.json").write_text("{}")
    other = verify(folder).set_index("file").query("state != 'as it was made'")
    assert other.to_dict("index") == {
        "circuits/by-hand.json": {"step": "", "state": "not of this run", "command": ""},
        CASES: {
            "step": "circuit hostile", "state": "missing",
            "command": f"circuits find {folder} --behaviour hostile",
        },
        "rank/layer-0.parquet": {
            "step": "rank of layer 0", "state": "damaged",
            "command": f"circuits rank {folder} --layer 0",
        },
    }  # fmt: skip


def made_by(folder: Path, step: str, plan: object) -> str:
    """The command that verify gives for a dictionary of this step and plan that was removed."""
    path = folder / step / "cfg.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    record(folder, step, {"plan": plan}, [path])
    path.unlink()
    table = verify(folder).set_index("file")
    return table.loc[f"{step}/cfg.json", "command"]


@pytest.mark.parametrize(
    ("kind", "plan", "options"),
    [
        ("saes", TrainingPlan(), ""),
        ("saes", TrainingPlan(("mlp_in@1", "mlp_out@1")), " --sites mlp_in@1 mlp_out@1"),
        ("saes", TrainingPlan(n_features=40, k=4, n_tokens=6000, seed=3),
         " --features 40 --k 4 --tokens 6000 --seed 3"),
        ("saes", TrainingPlan(n_batch=512), " --plan FILE"),
        ("transcoders", TrainingPlan(("mlp_in@0",), "mlp_out"), " --target mlp_out"),
        ("transcoders", TrainingPlan(("mlp_in@1",), "resid_post", k=3),
         " --sites mlp_in@1 --target resid_post --k 3"),
        ("saes", "a plan", ""),
        ("transcoders", {"sites": ["\x1b[2J"]}, " --target mlp_out"),
    ],
)  # fmt: skip
def test_verify_gives_the_command_that_trained_a_dictionary(folder, kind, plan, options):
    noted = plan.as_dict() if isinstance(plan, TrainingPlan) else plan
    said = made_by(folder, f"{kind}/blocks.1.hook_resid_pre", noted)
    assert said == f"circuits sae train {folder}{options}"


def test_a_run_names_the_target_of_transcoders_that_are_not_finished(folder):
    step = "transcoders/blocks.0.ln2.hook_normalized"
    made_by(folder, step, TrainingPlan(("mlp_in@0",), "resid_post").as_dict())
    for name in ("cfg.json", "plan.json"):  # begun, but not finished
        (folder / step / name).write_text("{}")
    with pytest.raises(CircuitsError, match="circuits sae train --target resid_post"):
        _ = Run(folder, device="cpu").transcoders


def test_verify_says_what_to_do_with_a_file_that_no_step_made(folder):
    assert "manifest.json" not in command("verify", str(folder)).stdout
    (folder / "circuits" / "by-hand.json").write_text("{}")
    done = command("verify", str(folder))
    assert done.returncode == 1
    assert "not of this run: manifest.json does not list it. If it was copied" in done.stdout


def test_verify_lists_files_of_ones_own_in_one_line_and_does_not_fail(folder):
    (folder / "text.jsonl").unlink()
    assert "not made here" not in command("verify", str(folder)).stdout
    for name in ("notes.md", "circuits/picture.png", "circuits/x.gexf", ".hidden",
                 "report/index.html", "saes/blocks.0.hook_mlp_out/plan.json"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    done = command("verify", str(folder))
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == (
        "not made here, and not checked: circuits/picture.png, circuits/x.gexf, notes.md"
    )
    answer = json.loads(command("verify", str(folder), "--json").stdout)
    assert answer["same"]
    assert answer["not_made_here"] == ["circuits/picture.png", "circuits/x.gexf", "notes.md"]


def test_a_run_without_its_manifest_says_how_to_get_one(folder):
    (folder / "manifest.json").unlink()
    said = command("verify", str(folder)).stderr
    assert "Copy it from where the run was made, or make the run again in a new folder." in said
    _, marks = seen(folder)
    assert marks[CIRCUIT].endswith("or make it again: circuits find RUN")


def test_verify_looks_again_where_files_are_put_in_place_meanwhile(folder, monkeypatch):
    kept, manifest = (folder / CIRCUIT).read_bytes(), (folder / "manifest.json").read_bytes()
    (folder / CIRCUIT).write_bytes(kept + b" ")
    (folder / "manifest.json").write_bytes(manifest + b" ")  # of the moment before
    found = verification.states(folder)

    def states(run: Path) -> object:
        monkeypatch.undo()
        (folder / CIRCUIT).write_bytes(kept)
        (folder / "manifest.json").write_bytes(manifest)
        return found

    monkeypatch.setattr(verification, "states", states)
    assert set(verify(folder)["state"]) == {"as it was made"}


def test_an_exported_circuit_is_no_file_of_the_run(folder):
    for kind in ("gexf", "tables"):
        done = command("export", str(folder / CIRCUIT), "--format", kind)
        assert done.returncode == 0, done.stderr
    assert set(verify(folder)["state"]) == {"as it was made"}


def test_verify_refuses_what_is_no_run(tmp_path):
    for folder, said in ((tmp_path / "none", "no such run"), (tmp_path, r"has no manifest\.json")):
        with pytest.raises(CircuitsError, match=said):
            verify(folder)

"""`circuits completion` in the shells themselves: what the help names is offered."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.cli.main import main
from analysis.cli.options import parser, with_all_below
from tests.support import ROOT


@pytest.fixture
def place(tmp_path) -> Path:
    """Where a shell stands: folders and files that begin alike."""
    for folder in ("runs", "rest", "a b"):
        (tmp_path / folder).mkdir()
    for file in ("rows.json", "readme.txt"):
        (tmp_path / file).touch()
    return tmp_path


def script(shell: str, capsys) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def bash_offers(place: Path, capsys, *words: str) -> set[str]:
    """What bash completes the last word to, by the function that the script registers."""
    program = (
        'eval "$(cat)"\n'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n'
        "eval \"$(complete -p circuits | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\"\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program, "bash", "circuits", *words],
        input=script("bash", capsys), capture_output=True, text=True, check=True, cwd=place,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@needs_bash
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sa"], {"sae"}),
        (["--quiet", "sa"], {"sae"}),
        (["sae", ""], {"train", "info", "quality"}),
        (["sae", "--quiet", "q"], {"quality"}),
        (["sae", "train", "--s"], {"--sites", "--seed"}),
        (["sae", "train", "--log", ""], {"tensorboard", "wandb"}),
        (["interactions", "runs", "--reader", ""], {"pinv", "encoder"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["sae", "train", "r"], {"runs", "rest"}),  # RUN: folders
        (["model", "generate", "ru"], {"runs"}),  # MODEL
        (["report", "runs", "--out", "re"], {"rest"}),  # FOLDER
        (["report", "a"], {"a b"}),
        (["export", "r"], {"runs", "rest", "rows.json", "readme.txt"}),  # CIRCUIT: files
        (["sae", "train", "--plan", "ro"], {"rows.json"}),  # FILE
        (["digits", "--data", "rea"], {"readme.txt"}),  # PATH
    ],
    ids=lambda words: " ".join(sorted(words)),
)
def test_bash_completes(place, capsys, words, offered):
    assert bash_offers(place, capsys, *words) == offered


@needs_bash
def test_bash_completes_every_command_that_the_help_names(place, capsys):
    (whole, *_) = with_all_below(parser())
    (commands,) = (a.choices for a in whole._actions if a.dest == "command")
    assert bash_offers(place, capsys, "") == set(commands)
    assert len(commands) > 10


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_script(place, capsys):
    program = 'autoload -U compinit; compinit -D -u; eval "$(cat)"; print -r -- $_comps[circuits]'
    done = subprocess.run(
        ["zsh", "-f", "-c", program],
        input=script("zsh", capsys), capture_output=True, text=True, check=True, cwd=place,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("_shtab_circuits", "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(place, capsys):
    def offers(line: str) -> set[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source (cat | psub); complete -C '{line}'"],
            input=script("fish", capsys), capture_output=True, text=True, check=True, cwd=place,
            env={**os.environ, "HOME": str(place)},
        )  # fmt: skip
        return {offer.split("\t")[0] for offer in done.stdout.splitlines()}

    assert offers("circuits sae ") == {"train", "info", "quality"}
    assert offers("circuits interactions runs --reader ") == {"pinv", "encoder"}
    assert offers("circuits sae train ru") == {"runs/"}


def test_a_script_is_printed_without_loading_anything_heavy():
    code = (
        "import sys\nfrom analysis.cli import main\nassert main(['completion', 'bash']) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert not set(done.stderr.split()) & {"torch", "numpy", "pandas"}

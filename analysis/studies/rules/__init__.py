"""Rules of token pairs in a polynomial transformer, read from its weights and then removed."""

from analysis.studies.rules.effects import (
    Effects,
    explaining_paths,
    pair_effects,
    path_neurons,
    single_effects,
)
from analysis.studies.rules.example import write_example
from analysis.studies.rules.induction import Induction, find_induction, induction_removal
from analysis.studies.rules.known import KnownRules, load_known_rules
from analysis.studies.rules.page import write_page
from analysis.studies.rules.removal import logits_without, skip_removal
from analysis.studies.rules.study import RuleStudy, study_rules

__all__ = [
    "Effects",
    "Induction",
    "KnownRules",
    "RuleStudy",
    "explaining_paths",
    "find_induction",
    "induction_removal",
    "load_known_rules",
    "logits_without",
    "pair_effects",
    "path_neurons",
    "single_effects",
    "skip_removal",
    "study_rules",
    "write_example",
    "write_page",
]

"""Proximal operators and the accelerated incremental solver: arrays and callables in, arrays out."""

from aetlab.solve.atoms_prior import AtomsPrior, AtomsSchedule
from aetlab.solve.fista import Solution, State, minimize
from aetlab.solve.prox import Prox, make_prox
from aetlab.solve.weight_rule import rule_weight

__all__ = ["AtomsPrior", "AtomsSchedule", "Prox", "Solution", "State", "make_prox", "minimize", "rule_weight"]

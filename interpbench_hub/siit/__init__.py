"""Edge-SIIT: training transformers along a circuit, and certifying that they compute along it."""

from interpbench_hub.siit.jobs import Outcome as Outcome
from interpbench_hub.siit.jobs import train_all as train_all
from interpbench_hub.siit.recipe import RECIPES as RECIPES
from interpbench_hub.siit.recipe import Recipe as Recipe
from interpbench_hub.siit.runs import certify as certify
from interpbench_hub.siit.runs import train as train

"""Recipes: their bounds, their schedules, and when they have reached their goal."""

import itertools
import json
import math
import re
from dataclasses import fields

import pytest

from interpbench_hub.certificate import Entry
from interpbench_hub.errors import SettingError, UnknownNameError
from interpbench_hub.siit import RECIPES
from interpbench_hub.siit.quick_check import QuickCheck
from interpbench_hub.siit.recipe import get_recipe, settings

EDGE_SIIT, SIIT, BEHAVIOUR = (RECIPES[name] for name in ("edge-siit", "siit", "behaviour"))
TO_EDGE = EDGE_SIIT.changed(goal="edge")

SHARES = ("node_share", "related_share", "replayed_share", "suspect_share", "averaged_share", "good_enough")
NAN = float("nan")


def quick_check_with(**shares: float) -> QuickCheck:
    """A quick check in which all is right but for some shares."""
    names = [field.name for field in fields(QuickCheck) if field.name != "weak"]
    return QuickCheck(**(dict.fromkeys(names, 1.0) | shares))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in ("n_pairs", "steady_steps", "max_steps", "check_every")),
        *((name, -1) for name in ("circuit_groups", "outside_groups", "probe_weight", "warm_up", "cool_down")),
        *((name, value) for name in ("language_weight", "isolated_steps") for value in (-1, NAN)),
        *((name, NAN) for name in ("learning_rate", "gradient_norm", "cool_down", "probe_weight")),
        *((name, 0.0) for name in ("learning_rate", "gradient_norm")),
        *((name, share) for name in SHARES for share in (-0.1, 1.01, NAN)),
        ("goal", "glory"),
        ("outside_level", "head"),
    ],
)
def test_a_recipe_that_cannot_be_names_field_and_value(field, value):
    with pytest.raises(SettingError, match=f"recipe edge-siit: {field} is {value!r}"):
        EDGE_SIIT.changed(**{field: value})


@pytest.mark.parametrize("name", SHARES)
def test_a_share_may_be_none_or_all(name):
    for share in (0, 1):
        assert EDGE_SIIT.changed(**{name: share}).to_dict()[name] == share


@pytest.mark.parametrize("ablations", [(), ("noise",), ("zero", "median")])
def test_a_recipe_replaces_by_known_ablations_only(ablations):
    with pytest.raises(SettingError, match="ablations are"):
        EDGE_SIIT.changed(ablations=ablations)


def test_a_recipe_is_found_by_its_name():
    assert get_recipe("siit") is SIIT and get_recipe(EDGE_SIIT) is EDGE_SIIT
    for name in ("adam", None, 3):
        with pytest.raises(UnknownNameError, match="unknown recipe"):
            get_recipe(name)  # pyright: ignore[reportArgumentType]


def test_a_change_leaves_the_other_fields_and_what_is_none():
    changed = EDGE_SIIT.changed(n_pairs=3, max_steps=None)
    assert changed.to_dict() == {**EDGE_SIIT.to_dict(), "n_pairs": 3}
    assert EDGE_SIIT.n_pairs == 16


def test_a_field_that_recipes_do_not_have_is_refused():
    with pytest.raises(UnknownNameError, match="unknown recipe field 'max_step'; nearest: max_steps"):
        EDGE_SIIT.changed(max_step=3)


@pytest.mark.parametrize("field", [field for field in fields(EDGE_SIIT) if field.name != "name"], ids=lambda f: f.name)
def test_every_field_can_be_set_by_what_json_and_text_write_it_as(field):
    assert settings([f"{field.name}={json.dumps(field.default)}"]) == {field.name: field.default}
    assert settings(
        [
            f" {field.name} = {field.default} ".replace("'", '"')
            .replace("(", "[")
            .replace(")", "]")
            .replace("True", "true")
            .replace("False", "false")
        ]
    ) == {field.name: field.default}


def test_several_fields_are_set_and_a_float_takes_a_whole_number():
    found = settings(["crossed_rows=4", "learning_rate=1", "goal=edge", 'ablations=["zero"]', "goal=path"])
    assert found == {"crossed_rows": 4, "learning_rate": 1.0, "goal": "path", "ablations": ("zero",)}
    assert type(found["learning_rate"]) is float
    EDGE_SIIT.changed(**found)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("n_pairs", SettingError, "setting 'n_pairs' has no value; write field=value"),
        ("n_pair=3", UnknownNameError, "n_pairs"),
        ("name=mine", UnknownNameError, "name"),
        ("n_pairs=many", SettingError, "n_pairs is a whole number, not many"),
        ("n_pairs=1.5", SettingError, "n_pairs is a whole number, not 1.5"),
        ("n_pairs=true", SettingError, "n_pairs is a whole number, not true"),
        ("lasting_attention=1", SettingError, "lasting_attention is true or false, not 1"),
        ("learning_rate=", SettingError, "learning_rate is a number, not"),
        ("ablations=zero", SettingError, "ablations is a list in brackets, not zero"),
        ("goal=3", SettingError, "goal is a text, not 3"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(text, error, says):
    with pytest.raises(error, match=re.escape(says)):
        settings([text])


def test_the_rate_rises_stays_and_falls_with_the_root_of_the_step():
    recipe = EDGE_SIIT.changed(warm_up=20, steady_steps=100, learning_rate=0.01)
    assert [recipe.rate(step) for step in range(20)] == pytest.approx([0.0005 * step for step in range(1, 21)])
    assert {recipe.rate(step) for step in range(20, 100)} == {0.01}
    assert [recipe.rate(step - 1) for step in (400, 900, 10_000)] == pytest.approx([0.005, 0.01 / 3, 0.001])
    assert EDGE_SIIT.changed(warm_up=0).rate(0) == EDGE_SIIT.learning_rate
    # From the weights of another run it rises once more.
    rates = [recipe.rate(step, None, 400) for step in (400, 409, 419, 899)]
    assert rates == pytest.approx(
        [0.005 / 20, 0.005 * math.sqrt(400 / 410) / 2, recipe.rate(419), recipe.rate(899)], rel=0.01
    )
    assert recipe.rate(460, 450, 400) == recipe.rate(460, 450)
    # A run that begins with its cool-down warms up in it.
    rates = [recipe.rate(step, 400, 400) for step in (400, 409, 419, 450)]
    cooled = [recipe.rate(step, 400) for step in (400, 409, 419, 450)]
    assert rates == pytest.approx([cooled[0] / 20, cooled[1] / 2, *cooled[2:]])


def test_probes_fall_with_the_rate_and_to_a_tenth_by_the_middle_of_a_cool_down():
    recipe = EDGE_SIIT.changed(warm_up=20, steady_steps=100, probe_weight=0.5)
    assert {recipe.probe_weight_at(step) for step in range(100)} == {0.5}
    assert [recipe.probe_weight_at(step - 1) for step in (400, 900, 10_000)] == pytest.approx([0.25, 0.5 / 3, 0.05])
    for step in range(20, 5000, 333):
        assert recipe.probe_weight_at(step) / 0.5 == pytest.approx(recipe.rate(step) / recipe.learning_rate)
    recipe = recipe.changed(cool_down=0.2)
    weights = [recipe.probe_weight_at(step, 400) for step in range(400, 480)]
    assert weights == pytest.approx([0.5 * math.sqrt(100 / 401) * max(0.1, 1 - at / 40) for at in range(80)])
    assert EDGE_SIIT.changed(probe_weight=0.0).probe_weight_at(3) == 0


def test_attention_fades_with_the_probes_or_keeps_its_weight_in_a_cool_down():
    recipe = EDGE_SIIT.changed(attention_weight=0.7, cool_down=0.2)
    assert {recipe.attention_weight_at(step, start) for step, start in ((3, None), (700, None), (700, 600))} == {0.7}
    recipe = recipe.changed(lasting_attention=True)
    assert {recipe.attention_weight_at(step) for step in (3, 700)} == {0.7}
    whole = 0.7 * recipe.probe_weight_at(600)
    for step in range(600, 720, 7):
        assert recipe.attention_weight_at(step, 600) * recipe.probe_weight_at(step, 600) == pytest.approx(whole)


def test_checks_grow_apart_by_an_eighth_of_the_steps_so_far():
    recipe = EDGE_SIIT.changed(check_every=100)
    assert [recipe.check_after(step) for step in (0, 1, 100, 799, 800, 808, 4000)] == [
        100,
        101,
        200,
        899,
        900,
        909,
        4500,
    ]


def test_a_cool_down_takes_the_rate_down_to_nearly_nothing():
    recipe = EDGE_SIIT.changed(cool_down=0.25, max_steps=1000)
    assert [recipe.cooling_steps(step) for step in (1, 100, 250, 400)] == [1, 25, 62, 100]
    rates = [recipe.rate(step, 400) for step in range(400, 501)]
    assert rates[0] == recipe.rate(400) and 0 < rates[-1] <= 0.01 * rates[0]
    drops = [before - after for before, after in itertools.pairwise(rates[:-1])]
    assert drops == pytest.approx([rates[0] / 100] * len(drops))


@pytest.mark.parametrize(("max_steps", "cool_down"), [(1000, 0.25), (12_000, 0.25), (77, 0.5), (40, 0.0), (1, 0.25)])
def test_a_cool_down_ends_with_the_run_at_the_latest(max_steps, cool_down):
    recipe = EDGE_SIIT.changed(max_steps=max_steps, cool_down=cool_down)
    for start in range(1, max_steps):
        assert start + recipe.cooling_steps(start) <= max_steps
    # The last one that need not be cut short.
    last = recipe.last_cooling
    assert last <= max_steps <= (1 + cool_down) * last < max_steps + 1 + cool_down


@pytest.mark.parametrize(
    ("recipe", "demands"),
    [
        (BEHAVIOUR, {"behaviour"}),
        (SIIT, {"behaviour", "node_interchange", "node_strict_resample"}),
        (TO_EDGE, {"behaviour", "node_interchange", "node_strict", "edge_strict", "complement"}),
        (EDGE_SIIT, {"behaviour", "node_interchange", "edge_interchange", "node_strict", "edge_strict", "complement"}),
    ],
    ids=["behaviour", "siit", "edge-siit to grade edge", "edge-siit"],
)
def test_a_goal_says_what_a_check_must_show(recipe, demands):
    assert recipe.reaches_goal(quick_check_with(), 1.0)
    # What falls short under resampling falls short in the worst of all ablations, too.
    for share in (field.name for field in fields(QuickCheck) if field.name not in ("weak", "node_strict_resample")):
        assert recipe.reaches_goal(quick_check_with(**{share: 0.99}), 1.0) == (share not in demands), share
        assert recipe.reaches_goal(quick_check_with(**{share: 0.99}), 0.98), share
    by_resampling = quick_check_with(node_strict=0.99, node_strict_resample=0.99)
    assert recipe.reaches_goal(by_resampling, 1.0) == (recipe is BEHAVIOUR)


def test_a_goal_says_what_a_certificate_must_show(make_certificate):
    fails = Entry("m0", "resample", 1000, 900)
    perfect, edge = make_certificate(), make_certificate(edge_interchange=(fails,))
    node, nothing = make_certificate(edge_strict=(fails,)), make_certificate(node_interchange=(fails,))
    wrong = make_certificate(behaviour=(Entry("all", None, 1000, 900),))
    assert [c.grade for c in (perfect, edge, node, nothing, wrong)] == ["path", "edge", "node", "none", "none"]
    assert [EDGE_SIIT.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True] + 4 * [False]
    assert [TO_EDGE.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True, True, False, False, False]
    assert [SIIT.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True, True, True, False, False]
    assert [BEHAVIOUR.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True, True, True, True, False]

"""Drawings of circuits: well-formed, whole, deterministic, and safe whatever the names are."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpbench_hub.circuit import EMBED, KINDS, POS_EMBED, Circuit, Edge, Granularity, Kind, Node, Role, all_edges
from interpbench_hub.drawing import circuit_svg

kinds: st.SearchStrategy[Kind | None] = st.none() | st.sampled_from(KINDS)
granularities: st.SearchStrategy[Granularity] = st.sampled_from(("qkv-edge", "edge"))
SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    n_layers, n_heads = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    granularity = draw(granularities)
    universe = all_edges(n_layers, n_heads, granularity=granularity)
    chosen = draw(st.lists(st.sampled_from(universe), unique=True, max_size=20))
    edges = [
        Edge(edge.source, edge.target, edge.slot, draw(kinds), draw(st.none() | st.floats(0, 1))) for edge in chosen
    ]
    names = st.lists(st.text(max_size=30), max_size=3).map(tuple)
    roles = {
        node: Role(draw(names), draw(st.text(max_size=30)))
        for node in Circuit(n_layers, n_heads, edges, granularity=granularity).nodes
    }
    return Circuit(
        n_layers, n_heads, edges, roles, case=draw(st.none() | st.text(max_size=10)), granularity=granularity
    )


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@given(circuits())
def test_every_node_and_every_edge_is_drawn_once_in_well_formed_xml(circuit):
    svg = circuit_svg(circuit)
    svg.encode()
    root = parse(svg)
    nodes = [str(group.get("data-node")) for group in root.iter(f"{SVG}g") if group.get("data-node")]
    edges = [group for group in root.iter(f"{SVG}g") if group.get("data-edge")]
    assert sorted(nodes) == sorted(str(node) for node in circuit.node_universe)
    assert sorted(str(group.get("data-edge")) for group in edges) == sorted(map(str, circuit))
    for group in edges:
        title = group.findtext(f"{SVG}title") or ""
        assert title.startswith(str(group.get("data-edge")))
        assert group.find(f"{SVG}path") is not None


@given(circuits())
def test_the_drawing_stays_inside_its_frame(circuit):
    root = parse(circuit_svg(circuit))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for rect in root.iter(f"{SVG}rect"):
        x, y, wide, tall = (float(rect.get(name) or "nan") for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + tall <= height
    for path in root.iter(f"{SVG}path"):
        assert all(-1 <= float(number) <= max(width, height) for number in re.findall(r"[-\d.]+", path.get("d") or ""))


@given(circuits())
def test_the_same_circuit_gives_the_same_drawing(circuit):
    again = Circuit.from_dict(circuit.to_dict())
    assert circuit_svg(circuit) == circuit_svg(again) == circuit.to_svg() == circuit._repr_svg_()


@given(circuits())
def test_lanes_keep_clear_of_the_circuits_nodes(circuit):
    root = parse(circuit_svg(circuit))
    boxes = [
        tuple(float(rect.get(name) or "nan") for name in ("x", "y", "width", "height"))
        for group in root.iter(f"{SVG}g")
        if group.get("data-node") and Node(str(group.get("data-node"))) in circuit.nodes
        for rect in group.iter(f"{SVG}rect")
    ]
    for group in root.iter(f"{SVG}g"):
        path = group.find(f"{SVG}path")
        lane = (
            re.search(r"([\d.]+) ([\d.]+) V([\d.]+)", path.get("d") or "")
            if group.get("data-edge") and path is not None
            else None
        )
        if lane is None:
            continue
        x, low, high = map(float, lane.groups())
        for left, top, wide, tall in boxes:
            assert not (left < x < left + wide and top < low and high < top + tall), group.get("data-edge")


def test_no_script_no_style_sheet_no_identifier_no_link_gets_in():
    nasty = '</text><script>alert("1")</script>&amp;<a href="x">'
    roles = {Node("m0"): Role((nasty, "]]>"), nasty), EMBED: Role(("tokens\x00\x1b\ud800",))}
    svg = circuit_svg(Circuit(1, 1, ["embed->m0", "m0->logits"], roles, case=nasty))
    root = parse(svg)
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "g", "rect", "path", "circle", "text", "title")
    }
    assert not any(
        name in ("id", "class", "style", "href", "onload") for element in root.iter() for name in element.attrib
    )
    assert nasty in texts(root)
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert any(title.endswith(nasty) for title in titles)
    assert any("tokens\ufffd\ufffd\ufffd" in title for title in titles)


def test_a_circuits_nodes_carry_their_variables_and_the_others_only_their_names():
    roles = {Node("m0"): Role(("is_x",), "whether the token is x"), EMBED: Role(("tokens",))}
    root = parse(circuit_svg(Circuit(2, 2, ["embed->m0", "m0->logits"], roles, case="case_3")))
    assert {"case_3", "is_x", "tokens", "m1", "a1.h1", "layer 0", "layer 1"} <= set(texts(root))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "m0: is_x\nwhether the token is x" in titles
    assert "a0.h0: not in the circuit" in titles


def test_long_and_many_variables_are_shortened_and_told_in_full_on_hovering():
    roles = {Node("m0"): Role(("a_very_long_variable_name", "b", "c"))}
    svg = circuit_svg(Circuit(1, 1, ["embed->m0"], roles))
    assert "a_very_long_v… +2" in texts(parse(svg))
    assert "m0: a_very_long_variable_name, b, c" in svg


@pytest.mark.parametrize(
    ("kind", "stroke"), [("varying", None), ("constant", "0.1 4.6"), ("inert", "7 5"), (None, None)]
)
def test_the_line_tells_the_kind_and_the_legend_explains_it(kind, stroke):
    root = parse(circuit_svg(Circuit(1, 1, [Edge(EMBED, Node("m0"), kind=kind, effect=0.125)])))
    group = next(group for group in root.iter(f"{SVG}g") if group.get("data-edge"))
    path = group.find(f"{SVG}path")
    assert path is not None
    assert path.get("stroke-dasharray") == stroke
    assert "effect: 12.5% of outputs change" in (group.findtext(f"{SVG}title") or "")
    assert any(text.startswith(kind or "kind not known") for text in texts(root))


def test_the_colour_tells_the_slot():
    edges = [Edge(EMBED, Node("a0.h0"), slot, "varying") for slot in ("q", "k", "v")]
    edges += [Edge(EMBED, Node("m0"), kind="varying"), Edge(POS_EMBED, Node("a0.h0"), "q", "constant")]
    root = parse(circuit_svg(Circuit(1, 1, edges)))
    colours = {
        str(group.get("data-edge")): path.get("stroke")
        for group in root.iter(f"{SVG}g")
        if group.get("data-edge") and (path := group.find(f"{SVG}path")) is not None
    }
    assert len(set(colours.values())) == 5
    assert {"q", "k", "v"} <= set(texts(root))
    assert {"query input", "key input", "value input"} <= set(texts(root))

// From the report's nodes to boxes and edges with places: nodes folded into layers, then laid out by dagre.
"use strict";
const BOX = { width: 168, height: 40, between: 34 }, LANE_GAP = 56, MARGIN = 24, ROOT = "\u0002root";

// Boxes: one for each node, or, folded, one for each node with what alone follows it and has neither params nor choices.
function boxesOf(every) {
  const maker = new Map();
  for (const node of report.nodes) for (const out of node.outputs) maker.set(out, node);
  const readers = d3.rollup(report.nodes.flatMap((n) => n.inputs.map((v) => [v, n])), (r) => r.length, ([v]) => v);
  const ends = new Set(report.outputs.map((p) => p.name));
  const boxes = [], home = new Map();
  for (const node of report.nodes) {
    const source = node.inputs.length === 1 ? maker.get(node.inputs[0]) : undefined;
    const folds = !every && source && node.params === 0 && node.macs === 0 && node.outputs.length === 1 && !node.refused
      && source.outputs.length === 1 && readers.get(node.inputs[0]) === 1 && !ends.has(node.inputs[0]);
    if (folds) {
      home.get(source).nodes.push(node);
      home.set(node, home.get(source));
    } else {
      const box = { id: node.name, nodes: [node] };
      boxes.push(box);
      home.set(node, box);
    }
  }
  return { boxes, edges: edgesOf(maker, home, ends, boxes) };
}

function edgesOf(maker, home, ends, boxes) {
  const found = new Map();
  const ports = new Map(report.inputs.map((p) => [p.name, port(p, "input", boxes)]));
  const join = (from, to, value, channels) => {
    const key = `${from.id}\u0000${to.id}`;
    if (!found.has(key)) found.set(key, { from, to, channels: 0, values: [] });
    found.get(key).channels += channels;
    found.get(key).values.push(value);
  };
  for (const node of report.nodes) {
    for (const value of node.inputs) {
      const source = maker.get(value);
      const from = source ? home.get(source) : ports.get(value);
      if (from && from !== home.get(node)) join(from, home.get(node), value, source ? source.channels : from.channels);
    }
  }
  for (const out of report.outputs) {
    const source = maker.get(out.name);
    if (source) join(home.get(source), port(out, "output", boxes, source.owners), out.name, out.channels);
  }
  return [...found.values()];
}

function port(entry, kind, boxes, owners = tasks) {
  const box = { id: `\u0001${kind}:${entry.name}`, port: kind, name: entry.name, shape: entry.shape, channels: entry.channels, owners, nodes: [] };
  boxes.push(box);
  return box;
}

function ownersOf(box) {
  return box.port ? box.owners : box.nodes[0].owners;
}

// Gives every box x, y (its middle) and every edge its points; returns the size of the whole.
//
// Every set of owners has a lane of its own, the trunk between its heads. All lanes have the same ranks; within a lane dagre
// finds the places.
function layOut(boxes, edges) {
  const rank = ranksOf(boxes, edges);
  const lanes = d3.sort(d3.groups(boxes, (b) => String(ownersOf(b) ?? "")), ([, some]) => laneOf(ownersOf(some[0]) ?? []));
  let left = MARGIN;
  for (const [, some] of lanes) {
    const inside = new Set(some), own = edges.filter((e) => inside.has(e.from) && inside.has(e.to));
    const width = layOutLane(some, own, rank);
    for (const box of some) box.x += left;
    for (const edge of own) edge.points = edge.points.map((p) => ({ x: p.x + left, y: p.y }));
    left += width + LANE_GAP;
  }
  for (const edge of edges) if (!edge.points) edge.points = crossing(edge);
  return { width: left - LANE_GAP + MARGIN, height: d3.max(boxes, (b) => b.y) + BOX.height / 2 + MARGIN };
}

// Boxes that play the same role in several lanes stand side by side: ranks are those of roles.
function ranksOf(boxes, edges) {
  const key = (box) => (box.port ? box.id : box.nodes[0].role ?? box.id);
  const steps = edges.map((e) => [key(e.from), key(e.to)]).filter(([from, to]) => from !== to);
  const after = d3.group(steps, ([from]) => from), waiting = d3.rollup(steps, (s) => s.length, ([, to]) => to);
  const rank = new Map(boxes.map((b) => [key(b), 0]));
  const ready = [...rank.keys()].filter((k) => !waiting.has(k));
  for (const from of ready) {
    for (const [, to] of after.get(from) ?? []) {
      rank.set(to, Math.max(rank.get(to), rank.get(from) + 1));
      waiting.set(to, waiting.get(to) - 1);
      if (waiting.get(to) === 0) ready.push(to);
    }
  }
  return new Map(boxes.map((b) => [b, rank.get(key(b))]));
}

// Places within a lane: dagre finds them across; down, a box stands where its rank is. Edges as long as the ranks say, and a
// root above all, make dagre's tight tree those very ranks.
function layOutLane(boxes, edges, rank) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 22, ranksep: BOX.between, edgesep: 14, ranker: "tight-tree" });
  graph.setNode(ROOT, { width: 1, height: BOX.height });
  const reached = new Set(edges.map((e) => e.to));
  for (const box of boxes) {
    graph.setNode(box.id, { width: BOX.width, height: BOX.height });
    if (!reached.has(box)) graph.setEdge(ROOT, box.id, { weight: 0, minlen: rank.get(box) + 1 });
  }
  for (const { from, to } of edges) graph.setEdge(from.id, to.id, { weight: 2, minlen: Math.max(1, rank.get(to) - rank.get(from)) });
  dagre.layout(graph);
  const least = d3.min(boxes, (b) => graph.node(b.id).x) - BOX.width / 2;
  const most = d3.max(boxes, (b) => graph.node(b.id).x) + BOX.width / 2;
  const down = (r) => MARGIN + BOX.height / 2 + r * (BOX.height + BOX.between);
  const known = new Map(d3.sort(boxes, (b) => rank.get(b)).map((b) => [graph.node(b.id).y, down(rank.get(b))]));
  const y = known.size > 1 ? d3.scaleLinear([...known.keys()], [...known.values()]) : (v) => v;
  for (const box of boxes) Object.assign(box, sizeOf(box), { x: graph.node(box.id).x - least, y: down(rank.get(box)) });
  for (const edge of edges) {
    edge.points = graph.edge(edge.from.id, edge.to.id).points.map((p) => ({ x: p.x - least, y: y(p.y) }));
    edge.points[0].y = edge.from.y + edge.from.height / 2;
    edge.points.at(-1).y = edge.to.y - edge.to.height / 2;
  }
  return most - least;
}

function sizeOf(box) {
  return box.port ? { width: 120, height: 28 } : { width: BOX.width, height: BOX.height };
}

// An edge from lane to lane: straight down, across right above its end, straight down.
function crossing({ from, to }) {
  const top = from.y + from.height / 2, end = to.y - to.height / 2, bend = Math.min(BOX.between, end - top) * 0.55;
  return [{ x: from.x, y: top }, { x: from.x, y: top + bend }, { x: from.x, y: top + bend }, { x: to.x, y: end - bend }, { x: to.x, y: end - bend }, { x: to.x, y: end }];
}

// Where a set of owners would like to stand: the shared trunk between its heads, wider sets before narrower ones.
function laneOf(owners) {
  if (!merged || owners.length === 0) return 0;
  return d3.mean(owners, (t) => tasks.indexOf(t)) + owners.length * 1e-3;
}

// Charts and tables below the graph.
"use strict";
const MOST_TICKS = 400; // of one space among the pair costs

function plot(options) {
  const chart = Plot.plot({ style: { background: "transparent", color: "inherit", fontSize: "12px", overflow: "visible" }, ...options });
  chart.classList.add("chart");
  return make("figure", {}, chart);
}

function block(id, title, note, ...children) {
  return make("section", { class: "block", id }, make("h2", {}, title), note ? make("p", { class: "note" }, note) : null, ...children);
}

// Room for names at the left of a chart.
function margin(names) {
  return Math.min(230, 18 + 7 * (d3.max(names, (n) => Math.min(n.length, 30)) ?? 10));
}

function spacesBlock() {
  const order = report.spaces.map((s) => s.name);
  const bars = merged
    ? report.spaces.flatMap((s) => s.rows.map((r) => ({ space: s.name, owners: ownersName(r.tasks), tasks: r.tasks, channels: r.channels })))
    : report.spaces.map((s) => ({ space: s.name, owners: s.pinned ?? "free", channels: s.channels, tasks: [] }));
  const fill = merged ? (d) => colourOf(d.tasks) : (d) => (d.owners === "free" ? PLAIN : "#8b93a1");
  const chart = plot({
    width: 900, height: 60 + 22 * order.length, marginLeft: margin(order),
    marginBottom: 40, x: { label: "channels", labelAnchor: "center", labelArrow: "none", grid: true }, y: { label: null, domain: order, tickFormat: (n) => tail(n, 30), tickSize: 0 },
    marks: [
      Plot.barX(bars, Plot.stackX({ x: "channels", y: "space", fill, title: (d) => `${d.space}\n${d.owners}: ${whole(d.channels)}`, insetTop: 3, insetBottom: 3 })),
      Plot.ruleX([0], { strokeOpacity: 0.4 }),
    ],
  });
  const table = merged
    ? tableOf([["space", false], ...tasks.map((t) => [t, true]), ["shared", true], ["fused", true], ["error", true], ["damping", true]],
        report.spaces.map((s) => [s.name, ...tasks.map((t) => count(s.channels[t] ?? 0)), count(s.shared), count(s.groups), short(s.error), short(s.damping)]))
    : tableOf([["space", false], ["channels", true], ["nodes", true], ["stays as it is, since", false]],
        report.spaces.map((s) => [s.name, count(s.channels), count(s.nodes.length), s.pinned]));
  const note = merged ? "Channels that change together, by who owns them. Error: what the shared rows leave of their targets, on held-out samples."
    : "Channels that must change together: each space could be shared as one.";
  return block("spaces", merged ? "Shared and own channels" : "Channel spaces", note, make("div", { class: "beside" }, chart, make("div", { class: "scroll" }, table)));
}

function pairsBlock() {
  if (!merged) return null;
  const spaces = report.spaces.filter((s) => s.pairs.some((p) => p.cost !== null));
  if (spaces.length === 0) return null;
  const least = (s) => d3.min(s.pairs.filter((p) => p.cost > 0), (p) => p.cost) ?? 1e-9;
  const floor = d3.min(spaces, least);
  const name = (p) => Object.entries(p.channels).map(([t, c]) => `${t} ${c}`).join(" + ");
  const ticks = spaces.flatMap((s) => {
    const known = d3.sort(s.pairs.filter((p) => p.cost !== null), (p) => p.cost), step = Math.max(1, known.length / MOST_TICKS);
    return d3.range(0, known.length, step).map((k) => known[Math.floor(k)]).map((p) => ({ space: s.name, cost: Math.max(p.cost, floor), pair: name(p) }));
  });
  const chart = plot({
    width: 900, height: 60 + 22 * spaces.length, marginLeft: margin(spaces.map((s) => s.name)),
    marginBottom: 40, x: { type: "log", label: "cost of a pair", labelAnchor: "center", labelArrow: "none", grid: true, ticks: 6, tickFormat: "~g" },
    y: { label: null, domain: spaces.map((s) => s.name), tickFormat: (n) => tail(n, 30), tickSize: 0 },
    marks: [Plot.tickX(ticks, { x: "cost", y: "space", stroke: SHARED, strokeOpacity: 0.55, strokeWidth: 1.5, insetTop: 3, insetBottom: 3,
      title: (d) => `${d.space}\n${d.pair}: ${short(d.cost)}` })],
  });
  const dearest = d3.sort(spaces.flatMap((s) => s.pairs.filter((p) => p.cost !== null).map((p) => ({ s, p }))), ({ p }) => -p.cost).slice(0, 12);
  const table = tableOf([["dearest pairs: space", false], ["channels", false], ["cost", true]], dearest.map(({ s, p }) => [s.name, name(p), short(p.cost)]));
  return block("pairs", "Matched pairs",
    "What sharing one channel adds to the squared error of its layer, weighted by how strongly the nets read it: one tick a pair. Costs compare within a space.",
    make("div", { class: "beside" }, chart, make("div", { class: "scroll" }, table)));
}

// Before and after, one row a net.
function costRows() {
  if (!merged) return [];
  const known = tasks.every((t) => report.tasks[t].original);
  const sum = (key) => d3.sum(tasks, (t) => report.tasks[t].original[key]);
  const row = (label, size) => [label, count(size.params), bytes(size.bytes), count(size.macs)];
  const rows = tasks.filter(() => known).map((t) => row(`${t}, original`, report.tasks[t].original));
  if (known) rows.push(row("originals together", { params: sum("params"), bytes: sum("bytes"), macs: sum("macs") }));
  rows.push(row("this file", report.file));
  if (known) rows.push(["of the sum", ...["params", "bytes", "macs"].map((k) => percent(report.file[k] / sum(k)))]);
  for (const t of tasks) rows.push(row(`${t}, taken out alone`, report.tasks[t].alone));
  return rows;
}

function barChart(rows, format) {
  return plot({
    width: 560, height: 45 + 26 * rows.length, marginLeft: margin(rows.map((r) => r.name)), marginRight: 70,
    x: { label: null, grid: true, nice: true, ticks: 4, tickFormat: (v) => format(v) }, y: { label: null, domain: rows.map((r) => r.name), tickSize: 0 },
    marks: [
      Plot.barX(rows, { x: "value", y: "name", fill: "colour", insetTop: 3, insetBottom: 3 }),
      Plot.text(rows, { x: "value", y: "name", text: (d) => format(d.value), textAnchor: "start", dx: 5 }),
      Plot.ruleX([0], { strokeOpacity: 0.4 }),
    ],
  });
}

function costBlock() {
  const grey = "#8b93a1";
  const sizes = [];
  if (merged && tasks.every((t) => report.tasks[t].original)) {
    for (const t of tasks) sizes.push({ name: `${t}, original`, value: report.tasks[t].original.bytes, colour: grey });
  }
  sizes.push({ name: "this file", value: report.file.bytes, colour: merged ? SHARED : PLAIN });
  for (const t of tasks) sizes.push({ name: `${t} alone`, value: report.tasks[t].alone.bytes, colour: taskColour.get(t) });
  const times = report.latency.runs.map((r) => ({ name: r.name, value: r.milliseconds, colour: r.original ? grey : r.task ? taskColour.get(r.task) : merged ? SHARED : PLAIN }));
  const columns = [["net", false], ["params", true], ["file", true], ["multiply-adds", true]];
  const charts = make("div", { class: "pair" },
    make("div", {}, make("h3", {}, "File size"), barChart(sizes, bytes)),
    make("div", {}, make("h3", {}, "Latency of one sample"), barChart(times, millis), make("p", { class: "note" }, report.latency.how)));
  const parts = [charts];
  if (merged) {
    parts.unshift(tableOf(columns, costRows(), (r) => costRows()[r][0] === "this file" || costRows()[r][0] === "of the sum"));
    if (report.switches.length) {
      parts.push(make("h3", { style: "margin-top:1rem" }, "Switching tasks"),
        tableOf([["from", false], ["to", false], ["bytes to load", true], ["of the task's", true], ["", true]],
          report.switches.map((s) => [s.from, s.to, bytes(s.bytes), bytes(s.of), s.of ? percent(s.bytes / s.of) : "–"])));
    }
  }
  return block("costs", merged ? "Before and after" : "Size and latency", null, ...parts);
}

function fidelityBlock() {
  if (!report.fidelity) return null;
  const labelled = Object.values(report.fidelity).some((f) => f.before !== null);
  const columns = [["task", false], ["relative error", true], ["top-1 agreement", true], ...(labelled ? [["accuracy before", true], ["after", true]] : [])];
  const rows = Object.entries(report.fidelity).map(([task, f]) =>
    [task, short(f.relative_error), percent(f.top1_agreement), ...(labelled ? [percent(f.before), percent(f.after)] : [])]);
  return block("fidelity", "Fidelity", "From the report of the merge, on held-out samples.", tableOf(columns, rows));
}

function refusalsBlock() {
  const places = new Map();
  for (const r of report.refusals) places.set(r.why, [...(places.get(r.why) ?? []), r.where]);
  const rows = [...places].map(([why, where]) => [where.join(", "), why]);
  if (rows.length === 0) return null;
  return block("refusals", merged ? "Left unmerged" : "Not coupled", null, tableOf([["where", false], ["why", false]], rows));
}

function nodesBlock() {
  const columns = [["node", "name"], ["operator", "op"], ...(merged ? [["needed by", "owners"]] : []), ["channels", "channels"],
    ["params", "params"], ["bytes", "bytes"], ["multiply-adds", "macs"], ...(merged ? [["error", "error"]] : [])];
  const texts = ["name", "op", "owners"];
  const holder = make("div", { class: "scroll" });
  const show = (key, down) => {
    const value = (n) => (key === "owners" ? ownersName(n.owners) : n[key] ?? -1);
    const sorted = key ? d3.sort(report.nodes, (a, b) => (down ? -1 : 1) * d3.ascending(value(a), value(b))) : report.nodes;
    const cell = (n, k) => (k === "name" ? make("a", { href: "#graph", onclick: (e) => { e.preventDefault(); chooseNamed(n.name); } }, n.name)
      : k === "owners" ? ownerTag(n.owners) : k === "bytes" ? bytes(n.bytes) : k === "error" ? short(n.error) : k === "op" ? n.op : count(n[k]));
    const table = tableOf(columns.map(([t, k]) => [t, !texts.includes(k)]), sorted.map((n) => columns.map(([, k]) => cell(n, k))));
    table.querySelectorAll("th").forEach((th, k) => {
      th.dataset.sort = columns[k][1];
      th.addEventListener("click", () => show(columns[k][1], !(key === columns[k][1] && down)));
    });
    holder.replaceChildren(table);
  };
  const details = make("details", {}, make("summary", {}, `All ${whole(report.nodes.length)} nodes`), holder);
  details.addEventListener("toggle", () => { if (details.open && !holder.firstChild) show(null, false); });
  return block("nodes", "Nodes", null, details);
}

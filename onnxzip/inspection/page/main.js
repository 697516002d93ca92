// Puts the page together.
"use strict";

function theme(name) {
  document.documentElement.dataset.theme = name;
}

const prefers = window.matchMedia("(prefers-color-scheme: dark)");
theme(prefers.matches ? "dark" : "light");
let chosen = false;
prefers.addEventListener("change", () => { if (!chosen) theme(prefers.matches ? "dark" : "light"); });
document.getElementById("theme").addEventListener("click", () => {
  chosen = true;
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
});

function card(name, value, more) {
  return make("div", { class: "card" }, make("div", { class: "name" }, name), make("div", { class: "value" }, value), make("div", { class: "more" }, more ?? ""));
}

function summaryCards() {
  const file = report.file, cards = [];
  const known = merged && tasks.every((t) => report.tasks[t].original);
  const sum = (key) => d3.sum(tasks, (t) => report.tasks[t].original[key]);
  const ratio = (key) => (known ? `${percent(file[key] / sum(key))} of the originals` : "");
  if (merged) {
    const channels = d3.sum(report.spaces, (s) => s.groups), shared = d3.sum(report.spaces, (s) => d3.sum(s.rows, (r) => (r.tasks.length > 1 ? r.channels : 0)));
    cards.push(card("Tasks", tasks.length <= 3 ? tasks.join(", ") : whole(tasks.length), `${report.merge.method}, ${report.merge.layout}`));
    if (channels) cards.push(card("Shared channels", percent(shared / channels), `${whole(shared)} of ${whole(channels)} in ${whole(report.spaces.length)} spaces`));
  }
  const idle = report.unused.params ? `${count(report.unused.params)} of them unused` : ratio("params");
  cards.push(card("Params", d3.format(".3~s")(file.params), idle), card("File", bytes(file.bytes), ratio("bytes")),
    card("Multiply-adds", d3.format(".3~s")(file.macs), ratio("macs")));
  const all = report.latency.runs.find((r) => !r.task && !r.original);
  if (all) cards.push(card("Latency", millis(all.milliseconds), merged ? "all tasks, one sample" : "one sample"));
  if (!merged) cards.push(card("Nodes", whole(report.nodes.length), `${whole(report.spaces.length)} channel spaces, ${whole(report.refusals.length)} refusals`));
  return cards;
}

function legendEntries() {
  if (!merged) return [make("span", {}, make("i", { style: `background:${PLAIN}` }), "node"), make("span", {}, make("i", { style: "background:var(--warn)" }), "not coupled")];
  return ownerSets.map((o) => make("span", {}, make("i", { style: `background:${colourOf(o)}` }), ownersName(o)));
}

tasks.forEach((task, k) => document.documentElement.style.setProperty(`--task${k}`, taskColour.get(task)));
const fileName = report.file.source.split(/[\\/]/).at(-1);
document.title = `${fileName} · onnxzip`;
document.getElementById("title").textContent = fileName;
document.getElementById("summary").replaceChildren(...summaryCards());
document.getElementById("legend").replaceChildren(...legendEntries());
document.getElementById("hint").textContent =
  `Drag to move, wheel to zoom, click a node for its table.${merged ? " Colour: which tasks need it." : ""} Thickness: channels.`;
drawGraph(false);
start();
document.getElementById("every").addEventListener("change", (event) => { choose(null); drawGraph(event.target.checked); start(); find(); });
const blocks = [spacesBlock(), pairsBlock(), costBlock(), fidelityBlock(), refusalsBlock(), nodesBlock()].filter((b) => b !== null);
document.getElementById("sections").replaceChildren(...blocks);
document.getElementById("contents").replaceChildren(
  ...blocks.map((b) => make("a", { href: `#${b.id}` }, b.querySelector("h2").textContent)));
document.getElementById("footer").textContent = `${report.file.source} · sha256 ${report.file.sha256.slice(0, 16)}… · opset ${report.file.opset}, IR ${report.file.ir_version} · made by onnxzip ${report.made_by}`;
document.documentElement.dataset.ready = String(Math.round(performance.now()));

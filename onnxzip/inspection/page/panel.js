// The table of one node, beside the drawing.
"use strict";
const panel = document.getElementById("panel");

function choose(box) {
  view.selectAll(".node").classed("chosen", (b) => b === box);
  view.selectAll(".edge").classed("lit", (e) => box !== null && (e.from === box || e.to === box));
  panel.classList.toggle("open", box !== null);
  if (box === null) return;
  const close = make("button", { class: "close", type: "button", "aria-label": "Close", onclick: () => choose(null) }, "×");
  panel.replaceChildren(close, ...(box.port ? [portTable(box)] : box.nodes.flatMap(nodeTable)));
}

// Chooses by name, from anywhere on the page.
function chooseNamed(name) {
  const box = shown.boxes.find((b) => b.nodes.some((n) => n.name === name));
  if (box) { centre(box); choose(box); document.getElementById("graph").scrollIntoView(); }
}

function portTable(box) {
  const rows = [["shape", box.shape.join(" × ")], ["channels", count(box.channels)]];
  return make("div", {}, make("h3", {}, `${box.port} ${box.name}`), tableOf([["", false], ["", false]], rows));
}

function nodeTable(node) {
  const rows = [["operator", node.op], ["line", node.line ? make("code", {}, node.line) : null]];
  if (merged) {
    rows.push(["needed by", ownerTag(node.owners)], ["share", percent(node.share)]);
    for (const row of node.rows) rows.push([make("span", {}, "channels of ", ownerTag(row.tasks)), count(row.channels)]);
    for (const [task, name] of Object.entries(node.from)) rows.push([`in ${task}`, name]);
  }
  rows.push(["shape", node.shape.join(" × ")], ["channels", count(node.channels)], ["params", count(node.params)],
    ["bytes", bytes(node.bytes)], ["multiply-adds", count(node.macs)]);
  if (merged && node.error !== null) rows.push(["layer error", short(node.error)], ["damping", short(node.damping)]);
  if (node.refused) rows.push(["not coupled", node.refused]);
  rows.push(["reads", node.inputs.join(", ")], ["writes", node.outputs.join(", ")]);
  return [make("h3", {}, node.name), tableOf([["", false], ["", false]], rows.filter(([, v]) => v !== null))];
}

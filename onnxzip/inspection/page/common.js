// What all parts of the page share: the report, colours of owners, numbers for people, small pieces of HTML.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const merged = report.kind === "merged";
const tasks = merged ? Object.keys(report.tasks) : [];

// Colours that people with colour-blindness tell apart, on light and on dark; the first is what all tasks share.
const SHARED = "#1f9e89", PLAIN = "#4f7fd1";
const OWN = ["#e07b39", "#4f7fd1", "#b65fb0", "#c2a012", "#7b6fd6", "#d0556b", "#5a9bb0", "#8a7a5c"];
const taskColour = new Map(tasks.map((task, k) => [task, OWN[k % OWN.length]]));

function colourOf(owners) {
  if (!merged) return PLAIN;
  if (!owners || owners.length === 0) return "#8b93a1";
  if (owners.length === tasks.length && tasks.length > 1) return SHARED;
  if (owners.length === 1) return taskColour.get(owners[0]) ?? PLAIN;
  const mixed = owners.map((t) => d3.lab(taskColour.get(t))).concat(d3.lab(SHARED));
  return d3.lab(d3.mean(mixed, (c) => c.l), d3.mean(mixed, (c) => c.a), d3.mean(mixed, (c) => c.b)).formatHex();
}

function ownersName(owners) {
  if (!owners || owners.length === 0) return "no task";
  return owners.length === tasks.length && tasks.length > 1 ? "shared by all" : owners.join(" + ");
}

// All sets of owners in the net, the widest first.
const ownerSets = merged ? report.owners.map((o) => o.tasks) : [];

const whole = d3.format(",");
const short = (value) => (value === null || value === undefined ? "–" : d3.format(".3~g")(value));
const percent = (value) => (value === null || value === undefined ? "–" : `${d3.format(".1f")(100 * value)} %`);
const count = (value) => (value === null || value === undefined ? "–" : whole(value));
const millis = (value) => `${value < 10 ? d3.format(".2f")(value) : d3.format(",.1f")(value)} ms`;

function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB"];
  let k = 0;
  while (value >= 1000 && k < units.length - 1) { value /= 1000; k += 1; }
  return k === 0 ? `${whole(value)} B` : `${d3.format(".3~r")(value)} ${units[k]}`;
}

// An element with text or children; text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

// columns: [title, is a number?]; rows: arrays of text or elements.
function tableOf(columns, rows, strong = () => false) {
  const kind = (k) => (columns[k][1] ? { class: "number" } : { class: "path" });
  const head = make("tr", {}, ...columns.map(([title], k) => make("th", kind(k), title)));
  const body = rows.map((row, r) =>
    make("tr", strong(r) ? { class: "strong" } : {}, ...row.map((cell, k) => make("td", kind(k), cell ?? "–"))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function ownerTag(owners) {
  return make("span", {}, make("span", { class: "dot", style: `background:${colourOf(owners)}` }), ownersName(owners));
}

// The end of a path-like name, which tells more than its beginning.
function tail(name, length) {
  return name.length <= length ? name : `…${name.slice(name.length - length + 1)}`;
}

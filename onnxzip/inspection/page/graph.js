// The drawing: boxes and edges in an SVG that can be moved and zoomed, its small map, the search.
"use strict";
const drawing = d3.select("#drawing"), map = d3.select("#map");
const view = drawing.append("g");
const zoom = d3.zoom().scaleExtent([0.04, 4]).on("zoom", ({ transform }) => { view.attr("transform", transform); moveFrame(transform); });
drawing.call(zoom).on("dblclick.zoom", null).on("click", ({ target }) => { if (target.closest(".node") === null) choose(null); });
let extent = { width: 1, height: 1 }, shown = { boxes: [], edges: [] }, hits = [], hit = -1;

function drawGraph(every) {
  shown = boxesOf(every);
  extent = layOut(shown.boxes, shown.edges);
  const most = d3.max(shown.edges, (e) => e.channels) || 1;
  const width = d3.scaleSqrt([0, most], [0.8, 9]);
  const line = d3.line((p) => p.x, (p) => p.y).curve(d3.curveBasis);
  view.selectAll("*").remove();
  view.append("g").selectAll("path").data(shown.edges).join("path")
    .attr("class", "edge").attr("d", (e) => line(e.points)).attr("stroke", (e) => colourOf(ownersOf(e.from)))
    .attr("stroke-width", (e) => width(e.channels))
    .append("title").text((e) => `${e.values.join(", ")}: ${whole(e.channels)} channels`);
  const node = view.append("g").selectAll("g").data(shown.boxes).join("g")
    .attr("class", (b) => `node${b.nodes.some((n) => n.refused) ? " refused" : ""}`)
    .attr("transform", (b) => `translate(${b.x - b.width / 2},${b.y - b.height / 2})`)
    .attr("tabindex", 0).attr("role", "button").attr("aria-label", (b) => b.port ? b.name : b.id)
    .on("click", (event, b) => { event.stopPropagation(); choose(b); })
    .on("keydown", (event, b) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(b); } });
  node.append("title").text((b) => (b.port ? `${b.port} ${b.name}` : b.nodes.map((n) => n.name).join("\n")));
  drawBoxes(node);
  drawMap();
}

function drawBoxes(node) {
  node.append("rect").attr("class", "box").attr("width", (b) => b.width).attr("height", (b) => b.height)
    .attr("rx", (b) => (b.port ? 14 : 8)).attr("stroke", (b) => colourOf(ownersOf(b)))
    .style("fill", (b) => `color-mix(in srgb, ${colourOf(ownersOf(b))} var(--tint), var(--surface))`);
  const inner = node.filter((b) => !b.port);
  inner.each(function (b) {
    const parts = bandsOf(b), total = d3.sum(parts, (p) => p.channels);
    let top = 0;
    for (const part of parts) {
      const height = (b.height - 8) * part.channels / total;
      d3.select(this).append("rect").attr("x", 4).attr("y", 4 + top).attr("width", 5).attr("height", height)
        .attr("fill", colourOf(part.tasks));
      top += height;
    }
  });
  inner.append("text").attr("x", 16).attr("y", 17).attr("font-weight", 600)
    .text((b) => clipped([...new Set(b.nodes.map((n) => n.op))].join(" · "), 19 - whole(b.nodes.at(-1).channels).length));
  inner.append("text").attr("class", "sub").attr("x", 16).attr("y", 31).text((b) => tail(b.nodes[0].name, 21));
  inner.append("text").attr("class", "sub").attr("x", (b) => b.width - 8).attr("y", 17).attr("text-anchor", "end")
    .text((b) => whole(b.nodes.at(-1).channels));
  node.filter((b) => b.port).append("text").attr("x", (b) => b.width / 2).attr("y", 18).attr("text-anchor", "middle")
    .text((b) => clipped(b.name, 16));
}

function clipped(text, length) {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

// The band at a box's left: its channels by owners.
function bandsOf(box) {
  const rows = box.nodes[0].rows ?? [];
  return rows.length ? rows : [{ tasks: box.nodes[0].owners, channels: 1 }];
}

// --- moving ---------------------------------------------------------------------------------------------------------

function size() {
  const { width, height } = drawing.node().getBoundingClientRect();
  return { width: width || 1200, height: height || 600 };
}

function fit() {
  const { width, height } = size();
  const k = Math.min(width / extent.width, height / extent.height, 1.2);
  moveTo(k, width / 2 - (k * extent.width) / 2, height / 2 - (k * extent.height) / 2);
}

// The first look: all of a small net, the beginning of a large one.
function start() {
  const { width, height } = size();
  if (Math.min(width / extent.width, height / extent.height) > 0.55) return fit();
  const k = Math.min(0.85, Math.max(0.5, width / extent.width));
  const entry = shown.boxes.find((b) => b.port === "input") ?? shown.boxes[0];
  return moveTo(k, width / 2 - k * (entry ? entry.x : extent.width / 2), 12);
}

function moveTo(k, x, y) {
  drawing.call(zoom.transform, d3.zoomIdentity.translate(x, y).scale(k));
}

function centre(box) {
  const { width, height } = size(), k = Math.max(d3.zoomTransform(drawing.node()).k, 0.7);
  moveTo(k, width / 2 - k * box.x, height / 2 - k * box.y);
}

document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
  if (button.dataset.zoom === "fit") return fit();
  return drawing.transition().duration(150).call(zoom.scaleBy, button.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
}));

// --- the small map --------------------------------------------------------------------------------------------------

function drawMap() {
  const k = Math.min(150 / extent.width, 210 / extent.height);
  map.selectAll("*").remove();
  map.attr("width", Math.max(24, extent.width * k)).attr("height", Math.max(24, extent.height * k))
    .attr("viewBox", `0 0 ${extent.width} ${extent.height}`).attr("preserveAspectRatio", "none");
  map.append("g").selectAll("rect").data(shown.boxes).join("rect").attr("x", (b) => b.x - b.width / 2)
    .attr("y", (b) => b.y - b.height / 2).attr("width", (b) => b.width).attr("height", (b) => b.height)
    .attr("fill", (b) => colourOf(ownersOf(b)));
  map.append("rect").attr("class", "view");
  map.on("pointerdown pointermove", (event) => {
    if (event.type === "pointermove" && event.buttons !== 1) return;
    const [x, y] = d3.pointer(event, map.node()), { width, height } = size(), k0 = d3.zoomTransform(drawing.node()).k;
    moveTo(k0, width / 2 - k0 * x, height / 2 - k0 * y);
  });
}

function moveFrame({ x, y, k }) {
  const { width, height } = size();
  map.select(".view").attr("x", -x / k).attr("y", -y / k).attr("width", width / k).attr("height", height / k);
}

// --- search ---------------------------------------------------------------------------------------------------------

const search = document.getElementById("search");

function find() {
  const text = search.value.trim().toLowerCase();
  hits = text ? shown.boxes.filter((b) => !b.port && b.nodes.some((n) => `${n.name} ${n.op}`.toLowerCase().includes(text))) : [];
  hit = -1;
  view.classed("searching", text !== "");
  view.selectAll(".node").classed("hit", (b) => hits.includes(b));
  document.getElementById("hits").textContent = text ? `${hits.length} found` : "";
}

search.addEventListener("input", find);
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { search.value = ""; find(); }
  if (event.key !== "Enter" || hits.length === 0) return;
  hit = (hit + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
  centre(hits[hit]);
  choose(hits[hit]);
});

// --- print: the whole graph as wide as the paper, broken over as many sheets as it takes --------------------------------

function printing(begins) {
  const node = drawing.node();
  if (begins) {
    view.attr("transform", null);
    const wide = Math.min(extent.width, 690);
    drawing.attr("viewBox", `0 0 ${extent.width} ${extent.height}`);
    node.style.width = `${wide}px`;
    node.style.height = `${(wide * extent.height) / extent.width}px`;
  } else {
    drawing.attr("viewBox", null);
    node.style.width = node.style.height = "";
    view.attr("transform", d3.zoomTransform(node));
  }
}
window.addEventListener("beforeprint", () => printing(true));
window.addEventListener("afterprint", () => printing(false));

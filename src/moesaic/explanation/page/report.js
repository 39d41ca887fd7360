"use strict";
// Draws the report from the data in this file. Text is always set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "line", "circle", "path", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function count(number) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (number >= size) return Number((number / size).toPrecision(3)) + letter;
  return number === null ? "–" : String(Number(number.toPrecision(3)));
}

$("title").textContent = data.title;
document.title = data.title + " – moesaic";
$("verdict").textContent = data.verdict;
$("recipe").textContent = data.recipe;
$("versions").textContent = Object.entries(data.versions).map((pair) => pair.join(" ")).join(" · ");

// The table: every row with its interval drawn on one common scale.
const lows = data.rows.map((row) => row.mean[1]), highs = data.rows.map((row) => row.mean[2]);
const lowest = Math.min(...lows), highest = Math.max(...highs), span = highest - lowest || 1;
const WIDTH = 150, place = (value) => 6 + (WIDTH - 12) * (value - lowest) / span;

function intervalPlot(row) {
  const [value, low, high] = row.mean;
  const label = `${value.toFixed(3)}, 95% interval ${low.toFixed(3)} to ${high.toFixed(3)}`;
  const plot = element("svg", { width: WIDTH, height: 16, role: "img", class: row.kind, "aria-label": label });
  plot.append(
    element("title", {}, label),
    element("line", { x1: 0, x2: WIDTH, y1: 8, y2: 8, stroke: "var(--line)" }),
    element("line", { x1: place(low), x2: place(high), y1: 8, y2: 8, stroke: "currentColor", "stroke-width": 2 }),
    element("circle", { cx: place(value), cy: 8, r: 4.5, fill: "currentColor" }),
  );
  return plot;
}

const columns = [
  { title: "way of combining", sort: (row) => row.name, cell: (row) => [element("span", { class: "mark " + row.kind }), row.name] },
  { title: "mean", sort: (row) => row.mean[0], cell: (row) => [row.mean[0].toFixed(3)] },
  { title: "95% interval", sort: (row) => row.mean[0], cell: (row) => [intervalPlot(row)] },
  ...data.domains.map((domain, index) => ({
    title: domain, sort: (row) => row.domains[index], cell: (row) => [row.domains[index].toFixed(3)],
  })),
  { title: "bits/byte", sort: (row) => row.bits_per_byte, cell: (row) => [row.bits_per_byte.toFixed(3)] },
  { title: "active", sort: (row) => row.active_parameters, cell: (row) => [count(row.active_parameters)] },
  { title: "total", sort: (row) => row.total_parameters, cell: (row) => [count(row.total_parameters)] },
  { title: "tokens/s", sort: (row) => row.tokens_per_second ?? 0, cell: (row) => [count(row.tokens_per_second)] },
  { title: "trained on", sort: (row) => row.training_tokens, cell: (row) => [count(row.training_tokens)] },
];
const best = data.rows.filter((row) => !row.name.startsWith("oracle"))[0];
let order = { column: 1, descending: false };

function drawTable() {
  const head = element("tr");
  columns.forEach((column, index) => {
    const button = element("button", { type: "button" }, column.title);
    button.onclick = () => {
      order = { column: index, descending: order.column === index && !order.descending };
      drawTable();
    };
    const cell = element("th", { scope: "col" }, button);
    if (order.column === index) cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    head.append(cell);
  });
  const key = columns[order.column].sort, sign = order.descending ? -1 : 1;
  const rows = [...data.rows].sort((a, b) => sign * (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr", row === best ? { class: "best" } : {});
    for (const column of columns) line.append(element("td", {}, ...column.cell(row)));
    body.append(line);
  }
  $("arena").replaceChildren(element("thead", {}, head), body);
}
drawTable();
const kinds = { mixture: "sparse mixture", ensemble: "ensemble of the experts", expert: "one expert", reference: "reference" };
for (const [kind, title] of Object.entries(kinds))
  $("kinds").append(element("li", {}, element("span", { class: "mark " + kind }), title));

// The expert matrix: the lowest loss of each domain is bold.
if (data.matrix === null) $("matrix").remove();
else {
  const head = ["expert", ...data.domains].map((title) => element("th", { scope: "col" }, title));
  const lowest = data.domains.map((_, index) => Math.min(...data.matrix.map((row) => row.domains[index])));
  const figure = (value, index) => element(value === lowest[index] ? "b" : "span", {}, value.toFixed(3));
  const lines = data.matrix.map((row) =>
    element("tr", {},
      element("td", {}, element("span", { class: "mark " + row.kind }), row.name),
      ...row.domains.map((value, index) => element("td", {}, figure(value, index))),
    ));
  $("experts").append(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines));
}

// Routing: one map a layer.
if (data.routing === null) $("routing").remove();
else {
  const { experts, domains, weight, entropy, load, warnings } = data.routing;
  weight.forEach((layer, number) => {
    const head = element("tr", {}, element("th", { scope: "col" }, "domain"));
    experts.forEach((name) => head.append(element("th", { scope: "col", title: name }, name)));
    head.append(element("th", { scope: "col" }, "entropy"));
    const body = element("tbody");
    layer.forEach((shares, domain) => {
      const line = element("tr", {}, element("td", {}, domains[domain]));
      for (const share of shares) {
        const cell = element("td", { class: "cell" }, Math.round(100 * share) + "%");
        cell.style.background = `rgba(var(--accent), ${0.05 + 0.75 * share})`;
        line.append(cell);
      }
      line.append(element("td", {}, entropy[number][domain].toFixed(2)));
      body.append(line);
    });
    const loads = element("tr", {}, element("td", {}, "load"));
    load[number].forEach((share) => {
      const bar = element("i"), tick = element("b");
      bar.style.width = 100 * Math.min(1, share) + "%";
      tick.style.left = 100 / experts.length + "%";
      loads.append(element("td", { title: (100 * share).toFixed(1) + "%" }, element("span", { class: "load" }, bar, tick)));
    });
    loads.append(element("td"));
    body.append(loads);
    $("maps").append(element("div", { class: "card" }, element("h3", {}, "Layer " + number),
      element("table", {}, element("thead", {}, head), body)));
  });
  for (const warning of warnings) $("warnings").append(element("li", {}, warning));
}

// Loss curves: small multiples with one common height.
const curves = Object.entries(data.curves).filter(([, points]) => points.length);
const losses = curves.flatMap(([, points]) => points.map((point) => point[1]));
const floor = Math.min(...losses), ceiling = Math.max(...losses);
for (const [stage, points] of curves) {
  const width = 300, height = 120, left = 34, bottom = 18, last = points[points.length - 1];
  const x = (tokens) => left + (width - left - 8) * tokens / last[0];
  const y = (loss) => 8 + (height - bottom - 14) * (ceiling - loss) / (ceiling - floor || 1);
  const line = points.map((point, index) => (index ? "L" : "M") + x(point[0]).toFixed(1) + " " + y(point[1]).toFixed(1)).join("");
  const label = `${stage}: the loss goes from ${points[0][1].toFixed(2)} to ${last[1].toFixed(2)} in ${count(last[0])} tokens`;
  const chart = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, element("title", {}, label));
  for (const loss of [ceiling, (ceiling + floor) / 2, floor])
    chart.append(
      element("line", { x1: left, x2: width - 8, y1: y(loss), y2: y(loss), stroke: "var(--line)" }),
      element("text", { x: left - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(1)),
    );
  chart.append(
    element("path", { d: line, fill: "none", stroke: "var(--mixture)", "stroke-width": 1.75, "stroke-linejoin": "round" }),
    element("text", { x: width - 8, y: height - 3, "text-anchor": "end" }, count(last[0]) + " tokens"),
  );
  $("curves").append(element("div", { class: "card" }, element("h3", {}, `${stage}: ${last[1].toFixed(3)}`), chart));
}

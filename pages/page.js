"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["var(--train)", "var(--validation)", "var(--third)", "var(--fourth)", "var(--ink)", "var(--muted)"];
const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children; text is always set as text, as names of files and classes may hold anything.
function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "line", "polyline", "circle", "text", "rect"].includes(tag);
  const element = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const percent = (share, digits = 2) => (share === null || share === undefined ? "" : `${(100 * share).toFixed(digits)} %`);
const plain = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value ?? ""));

function section(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}

function tile(name, value, more = "") {
  return make("div", { class: "tile" }, make("small", {}, name), make("b", {}, value), make("small", {}, more));
}

// What a cell is sorted by: numbers written as text, such as "93.92 %" and "1,234", by their value.
function key(value) {
  const number = typeof value === "string" ? parseFloat(value.replace(/,/g, "")) : value;
  return Number.isNaN(number) ? value : number ?? -Infinity;
}

// A table that is sorted by a click on a column's head; cells are values, shown by `show[column]` where there is one.
function table(head, rows, show = {}) {
  const body = make("tbody");
  const numeric = head.map((_, column) => rows.some((row) => typeof row[column] === "number"));
  const fill = (sorted) => body.replaceChildren(...sorted.map((row) => make("tr", {}, ...row.map((value, column) =>
    make("td", { class: numeric[column] ? "number" : "" }, (show[column] || plain)(value))))));
  let last = null;
  const sort = (column) => {
    const up = last === column;
    last = up ? null : column;
    const compare = (one, other) => {
      const [a, b] = [key(one[column]), key(other[column])];
      return a < b ? -1 : a > b ? 1 : 0;
    };
    fill([...rows].sort((one, other) => (numeric[column] !== up ? -1 : 1) * compare(one, other)));
  };
  const heads = head.map((name, column) => make("th", { class: numeric[column] ? "number" : "" },
    make("button", { type: "button", title: "sort", onclick: () => sort(column) }, name)));
  fill(rows);
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
}

// Round numbers within [low, high], about five of them.
function ticks(low, high) {
  const rough = (high - low || 1) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(tick);
  return found;
}

// Lines over one axis: `series` are {name, points: [[x, y], ...], dots}, `format` writes a y; hovering reads them off.
function chart(series, { x, format, low = null, high = null, left = null, right = null, diagonal = false }) {
  const [width, height, pad] = [440, 250, { left: 56, right: 12, top: 8, bottom: 38 }];
  const all = series.flatMap((one) => one.points);
  const ys = all.map((point) => point[1]);
  const xs = all.map((point) => point[0]);
  const [x0, x1] = [left ?? Math.min(...xs), right ?? Math.max(...xs)];
  const spread = Math.max(...ys) - Math.min(...ys) || Math.abs(ys[0]) || 1;
  const [y0, y1] = [low ?? Math.min(...ys) - 0.04 * spread, high ?? Math.max(...ys) + 0.04 * spread];
  const across = (value) => pad.left + ((value - x0) / (x1 - x0 || 1)) * (width - pad.left - pad.right);
  const up = (value) => height - pad.bottom - ((value - y0) / (y1 - y0)) * (height - pad.top - pad.bottom);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const tick of ticks(y0, y1)) {
    svg.append(make("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: up(tick), y2: up(tick) }),
      make("text", { x: pad.left - 8, y: up(tick) + 4, "text-anchor": "end" }, format(tick, true)));
  }
  for (const tick of ticks(x0, x1)) {
    svg.append(make("text", { x: across(tick), y: height - pad.bottom + 18, "text-anchor": "middle" }, plain(tick)));
  }
  svg.append(make("text", { x: (width + pad.left) / 2, y: height - 4, "text-anchor": "middle" }, x));
  if (diagonal) svg.append(make("line", { class: "hair", x1: across(x0), y1: up(x0), x2: across(x1), y2: up(x1) }));
  const legend = make("div", { class: "legend" });
  const values = series.map((one, number) => {
    const color = COLORS[number % COLORS.length];
    const points = one.points.map((point) => `${across(point[0])},${up(point[1])}`).join(" ");
    svg.append(make("polyline", { points, fill: "none", stroke: color, "stroke-width": 2 }));
    if (one.points.length < 40) {
      for (const point of one.points) svg.append(make("circle", { cx: across(point[0]), cy: up(point[1]), r: 3, fill: color }));
    }
    const value = make("span");
    legend.append(make("span", {}, make("i", { style: `background:${color}` }), `${one.name} `, value));
    return value;
  });
  const hair = make("line", { class: "hair", y1: pad.top, y2: height - pad.bottom, visibility: "hidden" });
  svg.append(hair);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = x0 + (((event.clientX - box.left) / box.width) * width - pad.left) / (width - pad.left - pad.right) * (x1 - x0);
    const nearest = xs.reduce((best, value) => (Math.abs(value - at) < Math.abs(best - at) ? value : best));
    hair.setAttribute("x1", across(nearest));
    hair.setAttribute("x2", across(nearest));
    hair.setAttribute("visibility", "visible");
    series.forEach((one, number) => {
      const point = one.points.find((candidate) => candidate[0] === nearest);
      values[number].textContent = point ? `${format(point[1])} at ${plain(nearest)}` : "";
    });
  });
  svg.addEventListener("pointerleave", () => {
    hair.setAttribute("visibility", "hidden");
    values.forEach((value) => { value.textContent = ""; });
  });
  return make("div", {}, legend, svg);
}

function points(epochs, name, scale) {
  const known = epochs.filter((epoch) => typeof epoch[name] === "number");
  return known.map((epoch) => [epoch.epoch, scale * epoch[name]]);
}

const asPercent = (value, short) => `${short ? plain(value) : value.toFixed(2)} %`;

function curves(key, title, scale, format) {
  const series = ["train", "val"]
    .map((part) => ({ name: part === "val" ? "validation" : part, points: points(data.epochs, `${part}_${key}`, scale) }))
    .filter((one) => one.points.length);
  return series.length ? section(title, chart(series, { x: "epoch", format })) : null;
}

function confusion(names, matrix) {
  const said = make("p", { class: "said" }, "Rows are true classes, columns what they were taken for. Point at a cell.");
  const totals = matrix.map((row) => row.reduce((sum, count) => sum + count, 0) || 1);
  const head = make("tr", {}, make("th"), ...names.map((name) => make("th", { class: "column", title: name }, make("span", {}, name))));
  const rows = matrix.map((row, number) => make("tr", {}, make("th", { title: names[number] }, names[number]),
    ...row.map((count, column) => {
      const share = count / totals[number];
      const tell = () => {
        said.textContent = `${count} of ${totals[number]} images of ${names[number]} (${percent(share, 1)}) were taken for ${names[column]}`;
      };
      const style = `background:rgba(var(--fill),${count ? 0.08 + 0.92 * Math.sqrt(share) : 0})${share > 0.4 ? ";color:var(--card)" : ""}`;
      return make("td", { style, onpointerenter: tell }, count && names.length <= 20 ? String(count) : "");
    })));
  return section("Confusion matrix", said, make("div", { class: `scroll matrix${names.length <= 20 ? " few" : ""}`, style: "max-height:none" }, make("table", { style: "width:auto" }, head, ...rows)));
}

function reliability(calibration, before) {
  const of = (found) => found.bins.map((bin) => [100 * bin.confidence, 100 * bin.accuracy]);
  const series = [{ name: `error ${percent(calibration.error)}`, points: of(calibration) }];
  if (before) series.push({ name: `before, error ${percent(before.error)}`, points: of(before) });
  return section("Calibration: right (%) over confidence (%)",
    chart(series, { x: "confidence (%)", format: asPercent, low: 0, high: 100, left: 0, right: 100, diagonal: true }));
}

function perClass(found) {
  const columns = Object.keys(Object.values(found)[0]);
  const shares = Object.fromEntries(columns.map((name, number) => [number + 1, name === "support" ? plain : (value) => percent(value)]));
  return section("Classes", table(["class", ...columns], Object.entries(found).map(([name, row]) => [name, ...columns.map((column) => row[column])]), shares));
}

function showRun(main) {
  main.append(make("div", { class: "tiles" }, ...data.tiles.map((one) => tile(...one))));
  const test = data.test;
  const charts = [curves("loss", "Loss", 1, plain), curves("accuracy", "Accuracy (%)", 100, asPercent),
    test.calibration ? reliability(test.calibration, test.uncalibrated && test.uncalibrated.calibration) : null];
  main.append(make("div", { class: "two" }, ...charts));
  const pairs = ["true", "taken for", "images", "of the class"];
  main.append(make("div", { class: "two" },
    test.confusion_matrix ? confusion(data.class_names, test.confusion_matrix) : null,
    data.confused.length ? section("Most often confused", table(pairs, data.confused, { 3: (share) => percent(share, 1) })) : null));
  if (test.per_class) main.append(perClass(test.per_class));
  if (data.mistakes.length) {
    main.append(section("Worst mistakes", table(["image", "true", "taken for", "confidence", "loss"], data.mistakes, { 3: (share) => percent(share, 1) })));
  }
  for (const [name, source] of Object.entries(data.pictures)) {
    main.append(section(name, make("img", { src: source, alt: name })));
  }
  const facts = make("div", { class: "two" });
  if (data.options.length) facts.append(section("Options that differ from the defaults", table(["option", "value", "default"], data.options)));
  if (data.hardware.length) facts.append(section("Hardware and versions", table(["", ""], data.hardware)));
  main.append(facts);
  if (data.command) main.append(section("The same again", make("code", {}, data.command)));
}

function showComparison(main) {
  for (const group of data.groups) {
    main.append(section(group.name, ...group.lines.map((line) => make("p", {}, line)), table(group.head, group.rows)));
    const charts = [["val_accuracy", "Validation accuracy (%)", 100, asPercent], ["train_loss", "Training loss", 1, plain]].map(
      ([key, title, scale, format]) => {
        const series = group.runs.map((run) => ({ name: run.name, points: points(run.epochs, key, scale) })).filter((one) => one.points.length);
        return series.length ? section(title, chart(series, { x: "epoch", format })) : null;
      });
    main.append(make("div", { class: "two" }, ...charts));
  }
}

const main = document.querySelector("main");
document.title = data.title;
main.append(make("h1", {}, data.title), ...data.lines.map((line) => make("p", {}, line)));
(data.groups ? showComparison : showRun)(main);

"use strict";
// Draws the curves with uPlot. A chart is drawn when it comes into view, and again when a control
// changes. Everything that it shows stands in the tables too.
(() => {
  const charts = JSON.parse(document.getElementById("curve-data").textContent).charts;
  const figures = [...document.querySelectorAll("figure")];
  const control = (name) => document.getElementById(name);
  const state = { smoothing: 0, log: false, hidden: new Set(), from: null, to: null };
  const drawn = new Map(); // index of a chart -> its uPlot
  const inView = new Set();

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function text(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(3);
    return String(Number(value.toPrecision(5)));
  }

  // The mean distance, in steps, of the points of the densest curve of a chart.
  function spacing(chart) {
    const gaps = chart.map(({ mx, x }) => mx ?? x).map((x) => (x[x.length - 1] - x[0]) / (x.length - 1));
    return Math.min(...gaps.filter((gap) => gap > 0));
  }

  // An exponential moving average over the steps that starts at the first value, not at 0. `unit`
  // steps are weighted once: evaluations, which are far apart, do not lag behind training.
  function smooth(x, y, weight, unit) {
    let sum = 0, total = 0, before = null;
    return y.map((value, at) => {
      if (value === null) return null;
      const kept = weight ** (before === null ? 1 : Math.max(1, (x[at] - before) / unit));
      before = x[at];
      sum = sum * kept + value * (1 - kept);
      total = total * kept + (1 - kept);
      return sum / total;
    });
  }

  function linesOf(chart) {
    const lines = [], unit = spacing(chart);
    chart.forEach((curve, index) => {
      if (state.hidden.has(curve.run)) return;
      const line = { index, run: curve.run, dash: curve.dash, x: curve.x, y: curve.y, width: 2 };
      if (state.smoothing > 0) {
        lines.push({ ...line, faint: true, width: 1 });
        const x = curve.mx ?? curve.x;
        lines.push({ ...line, x, y: smooth(x, curve.my ?? curve.y, state.smoothing, unit) });
      } else {
        lines.push(line);
      }
    });
    return lines;
  }

  function draw(index) {
    drawn.get(index)?.destroy();
    drawn.delete(index);
    const place = figures[index].querySelector(".plot");
    const values = [...figures[index].querySelectorAll(".legend .value")];
    values.forEach((each) => { each.textContent = ""; });
    const lines = linesOf(charts[index]);
    if (!lines.length) return;
    const log = state.log && lines.some((line) => line.y.some((value) => value > 0));
    const shown = (y) => (log ? y.map((value) => (value > 0 ? value : null)) : y);
    const data = uPlot.join(lines.map((line) => [line.x, shown(line.y)]));

    function readout(plot) {
      const at = plot.cursor.idx;
      lines.forEach((line, number) => {
        if (line.faint) return;
        const column = data[number + 1];
        let found = at ?? -1;
        while (found >= 0 && column[found] === undefined) found -= 1;
        values[line.index].textContent = at === null || found < 0 ? "" : text(column[found]);
      });
    }

    const ink = () => color("--muted");
    const axis = { stroke: ink, grid: { stroke: () => color("--line"), width: 1 },
      ticks: { stroke: () => color("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const first = data[0][0], last = data[0][data[0].length - 1];
    const options = {
      width: place.clientWidth, height: place.clientHeight, padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "step", setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => { setRange(null, null); } },
      },
      scales: {
        x: { time: false, range: () => {
          const from = state.from ?? first, to = state.to ?? last;
          return from < to ? [from, to] : [from - 1, from + 1];
        } },
        y: log ? { distr: 3 } : {},
      },
      axes: [
        { ...axis, label: "step", labelSize: 20, size: 34, labelFont: "12px system-ui, sans-serif" },
        { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : text(tick))) },
      ],
      series: [{}, ...lines.map((line) => ({
        stroke: () => color(`--c${line.run % 8}`) + (line.faint ? "55" : ""),
        width: line.width, dash: line.dash, spanGaps: false,
        points: { show: !line.faint && line.x.length <= 40, size: 5, fill: () => color("--page") },
      }))],
      hooks: {
        setCursor: [readout],
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          const at = (x) => plot.posToVal(x, "x");
          const range = [at(plot.select.left), at(plot.select.left + plot.select.width)];
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          setRange(Math.floor(range[0]), Math.ceil(range[1]));
        }],
      },
    };
    drawn.set(index, new uPlot(options, data, place));
  }

  function drawAll() {
    for (const [index, plot] of drawn) if (!inView.has(index)) { plot.destroy(); drawn.delete(index); }
    for (const index of inView) draw(index);
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawAll(); });
  }

  function setRange(from, to) {
    state.from = from;
    state.to = to;
    control("from").value = from ?? "";
    control("to").value = to ?? "";
    redraw();
  }

  if (!figures.length) return;
  const number = (input) => (input.value === "" ? null : Number(input.value));
  control("smoothing").addEventListener("input", (event) => {
    state.smoothing = Number(event.target.value);
    control("smoothing-value").textContent = state.smoothing.toFixed(2);
    redraw();
  });
  control("log").addEventListener("change", (event) => { state.log = event.target.checked; redraw(); });
  for (const name of ["from", "to"]) {
    control(name).addEventListener("change", (event) => { state[name] = number(event.target); redraw(); });
  }
  for (const box of document.querySelectorAll("[data-run]")) {
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](Number(box.dataset.run));
      redraw();
    });
  }
  control("controls").addEventListener("reset", () => {
    Object.assign(state, { smoothing: 0, log: false, from: null, to: null });
    state.hidden.clear();
    control("smoothing-value").textContent = "0.00";
    redraw();
  });
  control("controls").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const place = new Map(figures.map((figure, index) => [figure.querySelector(".plot"), index]));
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      drawn.get(place.get(target))?.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  });
  const views = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const index = place.get(target);
      inView[isIntersecting ? "add" : "delete"](index);
      if (isIntersecting && !drawn.has(index)) draw(index);
    }
  }, { rootMargin: "400px" });
  for (const each of place.keys()) { views.observe(each); sizes.observe(each); }
})();

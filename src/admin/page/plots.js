// The last hour as plots: what the gateway sampled, with a table beside each that says the same in
// numbers, for those who do not see the plot and for everybody who wants to know exactly.

import { count, percent, rate, span, time } from "./format.js";
import { el, say, set } from "./view.js";

const HEIGHT = 150;

/** Colours of the series by their place, as the style sheet has them; no two differ by colour alone. */
const COLOURS = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];
const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3], [4, 4], [1, 3]];

/** Steps between marks of time, in seconds. */
const SPANS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200];

const KINDS = [
  {
    id: "requests",
    title: "Requests admitted",
    unit: "per second",
    format: rate,
    series: (of) => [{ name: "requests", values: of.requests_per_second }],
  },
  {
    id: "tokens",
    title: "Tokens admitted",
    unit: "per second, as estimated",
    format: rate,
    series: (of) => [{ name: "tokens", values: of.tokens_per_second }],
  },
  {
    id: "wait",
    title: "Wait",
    unit: "of admitted requests",
    format: span,
    // Nobody waited where nobody came: a gap says that better than a line.
    gaps: true,
    series: (of) => [
      { name: "median", values: of.wait_p50_seconds },
      { name: "95th percentile", values: of.wait_p95_seconds },
    ],
  },
  {
    id: "used",
    title: "Use of the limits",
    unit: "of each limit, held included",
    format: percent,
    most: 1,
    series: (of) =>
      (of.constraints ?? []).map(({ unit, window, utilisation }) => ({
        name: `${unit}/${window}`,
        values: utilisation,
      })),
  },
];

/** The hour as the gateway tells it, kept up to date piece by piece. */
export class Hour {
  constructor() {
    this.told = null;
  }

  /** What to ask for next. */
  get query() {
    const last = this.told?.times.at(-1);
    return last === undefined ? "" : `?since=${last}`;
  }

  /** Adds what was told of the time since the last. */
  add(told) {
    const before = this.told;
    if (!before || !this.query) {
      this.told = told;
      return;
    }
    const most = Math.round(told.kept_seconds / told.every_seconds);
    const kept = Math.max(0, Math.min(before.times.length, most - told.times.length));
    const join = (old, fresh) => {
      const tail = kept ? (old ?? []).slice(-kept) : [];
      return [...Array(kept - tail.length).fill(null), ...tail, ...fresh];
    };
    const columns = (old, fresh) =>
      Object.fromEntries(
        Object.entries(fresh).map(([name, value]) => {
          if (name === "constraints") {
            const same = (it) => old?.constraints.find((other) => other.unit === it.unit && other.window === it.window);
            return [name, value.map((it) => ({ ...it, utilisation: join(same(it)?.utilisation, it.utilisation) }))];
          }
          return [name, Array.isArray(value) ? join(old?.[name], value) : value];
        }),
      );
    this.told = {
      ...told,
      times: join(before.times, told.times),
      total: columns(before.total, told.total),
      pools: told.pools.map((pool) => columns(before.pools.find((old) => old.pool === pool.pool), pool)),
    };
  }

  /** The columns of a pool, or of all together. */
  of(pool) {
    return this.told?.pools.find((it) => it.pool === pool) ?? this.told?.total;
  }
}

/** The plots, below `parent`. */
export class Plots {
  constructor(parent) {
    this.figures = KINDS.map((kind) => new Figure(kind));
    parent.append(...this.figures.map((figure) => figure.node));
    // Colours are read from the style sheet when a plot is made.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.remake());
    const observer = new ResizeObserver(() => this.figures.forEach((figure) => figure.fit()));
    observer.observe(parent);
  }

  remake() {
    for (const figure of this.figures) {
      figure.drop();
      if (this.last) figure.show(...this.last);
    }
  }

  show(times, columns) {
    this.last = [times, columns];
    for (const figure of this.figures) figure.show(times, columns);
  }
}

class Figure {
  constructor(kind) {
    this.kind = kind;
    const title = el("h3", { id: `plot-${kind.id}` }, kind.title, el("span", { class: "note" }, ` ${kind.unit}`));
    this.canvas = el("div", { class: "plot", role: "img" });
    this.body = el("tbody");
    const columns = ["", "now", "mean", "most"].map((text, index) =>
      index ? el("th", { scope: "col", class: "n" }, text) : el("td", {}),
    );
    this.when = columns[1];
    const table = el("table", { class: "legend", "aria-labelledby": `plot-${kind.id}` }, el("thead", {}, el("tr", {}, ...columns)), this.body);
    this.empty = el("p", { class: "empty" }, "Nothing yet: the first point comes after five seconds.");
    this.none = el("p", { class: "empty" }, "Choose a pool: each has limits of its own.");
    this.table = el("div", {}, table);
    const both = el("div", { class: "both" }, this.canvas, this.table);
    this.node = el("figure", { class: "card", "data-plot": kind.id }, title, this.empty, this.none, both);
    this.rows = [];
  }

  show(times, columns) {
    const series = this.kind.series(columns);
    const nothing = times.length === 0;
    const choose = !nothing && series.length === 0;
    this.empty.hidden = !nothing;
    this.none.hidden = !choose;
    this.canvas.hidden = this.table.hidden = nothing || choose;
    if (nothing || choose) return;
    const names = series.map(({ name }) => name).join();
    if (this.names !== names) {
      this.drop();
      this.names = names;
      this.rows = series.map(({ name }, index) => new Row(name, index));
      this.body.replaceChildren(...this.rows.map(({ node }) => node));
    }
    this.series = series;
    this.plot ??= this.make(series);
    this.plot.setData([times, ...series.map(({ values }) => values)]);
    this.tell();
  }

  /** Says the numbers: those of now, or those where the pointer is. */
  tell(at = null) {
    const times = this.plot.data[0];
    say(this.when, at === null ? "now" : time(times[at] * 1_000));
    const spoken = this.rows.map((row, index) => row.tell(this.series[index].values, at, this.kind.format));
    set(this.canvas, "aria-label", `Over the last hour: ${spoken.join("; ")}`);
  }

  make(series) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const { format, most, gaps } = this.kind;
    const axis = {
      stroke: colour("--muted"),
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { stroke: colour("--grid"), width: 1, size: 4 },
      font: "11px system-ui, sans-serif",
    };
    // Seconds go into minutes, not into hundreds.
    const incrs = format === span ? SPANS : undefined;
    const options = {
      width: Math.max(200, this.canvas.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false, x: false, y: false } },
      hooks: { setCursor: [({ cursor }) => this.series && this.plot && this.tell(cursor.idx ?? null)] },
      scales: {
        x: { time: true, range: (_, low, high) => [Math.min(low, high - 60), high] },
        y: { range: (_, low, high) => [0, Math.max(most ?? 0, high * 1.1, 0.001)] },
      },
      axes: [
        { ...axis, size: 24, space: 70, values: (_, ticks, __, ___, step) => ticks.map((at) => time(at * 1_000).slice(0, step < 60 ? 8 : 5)) },
        { ...axis, size: 58, space: 30, incrs, values: (_, ticks) => ticks.map((value) => this.mark(value, format)) },
      ],
      series: [
        {},
        ...series.map((_, index) => ({
          stroke: colour(COLOURS[index % COLOURS.length]),
          width: 1.75,
          dash: DASHES[index % DASHES.length],
          spanGaps: !gaps,
          points: { show: gaps ? undefined : false, size: 4 },
        })),
      ],
    };
    return new uPlot(options, [[], ...series.map(() => [])], this.canvas);
  }

  /** A mark at the axis: a number without more digits than it needs. */
  mark(value, format) {
    if (format === percent) return `${Math.round(value * 100)} %`;
    if (format === span) return value < 60 ? span(Number(value.toPrecision(3))) : `${Number((value / 60).toPrecision(3))} min`;
    return value >= 1_000 ? new Intl.NumberFormat("en", { notation: "compact" }).format(value) : String(Number(value.toPrecision(3)));
  }

  fit() {
    const width = this.canvas.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  drop() {
    this.plot?.destroy();
    this.plot = null;
  }
}

/** What a series is now, was in the mean and was at most. */
class Row {
  constructor(name, index) {
    this.name = name;
    const mark = el("span", { class: `mark s${(index % COLOURS.length) + 1}`, "aria-hidden": "true" });
    this.cells = Array.from({ length: 3 }, () => el("td", { class: "n" }));
    this.node = el("tr", {}, el("th", { scope: "row" }, mark, name), ...this.cells);
  }

  tell(values, at, format) {
    const known = values.filter((value) => value !== null);
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    const most = known.reduce((high, value) => Math.max(high, value), 0);
    const now = at === null ? values.at(-1) : values[at];
    const shown = (value) => (value === null || value === undefined || Number.isNaN(value) ? "–" : format(value));
    const texts = [now, mean, known.length ? most : null].map(shown);
    this.cells.forEach((cell, index) => say(cell, texts[index]));
    return `${this.name} now ${texts[0]}, mean ${texts[1]}, at most ${texts[2]} (${count(known.length)} points)`;
  }
}

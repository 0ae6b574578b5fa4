"use strict";
/* Figures, drawn by plotly when they come into view, and downloads of their data. */

const Figures = {
  shown: [],

  start(main, content) {
    this.shown = [];
    this.waiting = new Map();
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watch.unobserve(entry.target);
        this.draw(entry.target);
      }
    }, { rootMargin: "300px" });
    for (const figure of main.querySelectorAll("[data-figure]")) {
      watch.observe(figure);
      const known = content.figures[figure.dataset.figure];
      this.waiting.set(figure, known);
      this.offer(figure, known.title, known.table);
    }
    for (const held of main.querySelectorAll("[data-table]")) {
      const known = content.tables[held.dataset.table];
      this.offer(held, held.dataset.table, known.table);
    }
  },

  offer(place, title, table) {
    const name = title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60);
    for (const button of place.querySelectorAll("[data-save]")) {
      button.addEventListener("click", () => {
        const csv = button.dataset.save === "csv";
        const text = csv ? this.csv(table) : JSON.stringify(this.records(table), null, 1);
        this.save(name + (csv ? ".csv" : ".json"), text, csv ? "text/csv" : "application/json");
      });
    }
  },

  buttons(title) {
    const button = (kind) => Report.make("button",
      { type: "button", "data-save": kind, "aria-label": `${title} as ${kind.toUpperCase()}` }, kind.toUpperCase());
    return Report.make("p", { class: "downloads" }, button("csv"), " ", button("json"));
  },

  /* A cell that a spreadsheet would run as a formula gets an apostrophe; JSON is exact. */
  csv(table) {
    const cell = (value) => {
      if (value === null || value === undefined) return "";
      if (typeof value === "number") return String(value);
      let text = String(value);
      if (/^\s*[=+\-@＝＋－＠]/.test(text)) text = "'" + text;
      return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
    };
    return [table.columns, ...table.rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  },

  records(table) {
    return table.rows.map((row) => Object.fromEntries(table.columns.map((c, i) => [c, row[i]])));
  },

  save(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  },

  plotly() {
    if (!this.loading) {
      const block = document.getElementById("plotly");
      if (block) {
        const script = document.createElement("script");
        script.textContent = block.textContent;
        document.head.append(script);
        this.loading = Promise.resolve();
      } else {
        this.loading = Report.script(document.body.dataset.plotly);
      }
    }
    return this.loading;
  },

  colours() {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--text").trim();
    const line = style.getPropertyValue("--line").trim();
    return { text, line };
  },

  dressed(layout) {
    const { text, line } = this.colours();
    const narrow = innerWidth < 700;
    const dressed = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: "system-ui, sans-serif", size: narrow ? 11 : 13 },
      margin: { l: 64, r: 16, t: 10, b: 50 }, autosize: true, hovermode: "closest",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...layout,
    };
    for (const axis of ["xaxis", "yaxis"]) {
      dressed[axis] = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...layout[axis] };
    }
    return dressed;
  },

  all() {
    for (const figure of this.waiting.keys()) this.draw(figure);
  },

  async draw(figure) {
    await this.plotly();
    const known = this.waiting.get(figure);
    if (!figure.isConnected || !known) return;
    this.waiting.delete(figure);
    const place = figure.querySelector(".plot");
    const { data, layout } = known.drawn;
    await Plotly.newPlot(place, data, this.dressed(layout), { displaylogo: false, responsive: true,
      displayModeBar: false });
    place.style.minHeight = "";
    this.shown.push([place, layout]);
  },

  recolour() {
    for (const [place, layout] of this.shown) {
      if (place.isConnected) Plotly.relayout(place, this.dressed(layout));
    }
  },
};

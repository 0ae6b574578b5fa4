"use strict";
/* The picture of a trace: what the node that one points at is made of, and its ledger. */

const Trace = {
  most: { products: 6, wires: 24, labels: 8, rows: 9 },

  start(main, content) {
    const place = main.querySelector("[data-trace]");
    if (!place) return;
    Object.assign(this, content.trace);
    this.card = main.querySelector("[data-card]");
    this.chosen = 0;
    this.marks = [];
    place.append(this.draw());
    place.scrollLeft = place.scrollWidth; // the answer stands at the end of the text
    this.choose(0);
  },

  draw() {
    const make = Report.make, { width, height, rows } = this.picture;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": "Nodes from the answer down to the tokens" });
    svg.style.minWidth = Math.max(640, 0.66 * width) + "px";
    svg.style.maxWidth = 1.3 * width + "px";
    rows.forEach((row, level) => svg.append(this.row(row, level, rows.length)));
    for (const token of this.picture.tokens) svg.append(this.token(token));
    const most = Math.max(1e-12, ...this.picture.flow.map(([, , share]) => share));
    const flow = make("g", { class: "flow" });
    for (const [source, reader, share] of this.picture.flow) {
      flow.append(make("path", { d: this.curve(this.picture.places[source], this.picture.places[reader]),
        "stroke-width": (0.4 + 4 * Math.sqrt(share / most)).toFixed(2) }));
    }
    this.wires = make("g", { class: "wires" });
    this.over = make("g", { class: "wires" });
    const nodes = make("g", {});
    const order = this.nodes.map((node, n) => n).sort((a, b) => this.picture.places[a].y - this.picture.places[b].y
      || this.picture.places[a].x - this.picture.places[b].x);
    for (const n of order) nodes.append(this.node(n));
    svg.append(flow, this.wires, nodes, this.over);
    this.svg = svg;
    return svg;
  },

  /* A band for each layer, with the share of its influence that ends at the dictionary's error. */
  row(row, level, n) {
    const make = Report.make, layer = level - 1;
    const made = make("g", { class: "row" });
    if (level % 2) made.append(make("rect", { x: 0, y: row.y - row.height / 2, width: this.picture.width, height: row.height }));
    const name = level === 0 ? "tokens" : level === n - 1 ? "answer" : `MLP ${layer}`;
    made.append(make("text", { x: 4, y: row.y + (level > 0 && level < n - 1 ? -2 : 4), class: "start" }, name));
    if (level > 0 && level < n - 1) {
      const share = this.errors[layer];
      made.append(make("text", { x: 4, y: row.y + 11, class: "caption start" }, `error ${this.percent(share)}`),
        make("rect", { x: 4, y: row.y + 15, width: 60, height: 3, class: "whole" }),
        make("rect", { x: 4, y: row.y + 15, width: 60 * Math.min(share, 1), height: 3, class: "part" }));
    }
    return made;
  },

  token({ x, y, text }) {
    const turned = this.picture.turned;
    return Report.make("text", { x, y: y + 4, class: turned ? "word turned" : "word",
      transform: turned ? `rotate(-64 ${x} ${y})` : null }, text);
  },

  percent(share) {
    return share === null ? "" : `${Report.number(100 * share, 2)} %`;
  },

  node(n) {
    const make = Report.make, node = this.nodes[n], { x, y, r } = this.picture.places[n];
    const name = `${node.label}, ${this.kind(node)}, ${this.percent(node.influence)} of the influence` +
      (node.promotes ? `, promotes ${node.promotes}` : "");
    const made = make("g", { class: `node ${node.net < 0 ? "less" : "more"} ${node.kind.replace(" ", "-")}`,
      role: "button", tabindex: 0, "aria-label": name, "aria-pressed": "false", "data-node": n },
      make("title", {}, name));
    if (node.kind === "logit") {
      const wide = this.picture.pills[n];
      made.append(make("rect", { x: x - wide / 2, y: y - 13, width: wide, height: 26, rx: 13 }),
        make("text", { x, y: y + 4 }, Graph.short(node.label, 28)));
    } else {
      const mark = this.mark(node.kind, x, y, r);
      const sure = node.influence > 0 ? Math.min(Math.abs(node.net) / node.influence, 1) : 0;
      mark.setAttribute("fill-opacity", (0.15 + 0.8 * sure).toFixed(2));
      made.append(mark, make("circle", { cx: x, cy: y, r: Math.max(r, 7), class: "reach" }));
    }
    for (const [begin, end] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
      made.addEventListener(begin, () => this.light(n));
      made.addEventListener(end, () => this.light(this.chosen));
    }
    Report.onChoose(made, () => this.choose(n, true));
    made.addEventListener("keydown", (event) => this.key(event, n));
    this.marks[n] = made;
    return made;
  },

  mark(kind, x, y, r) {
    const make = Report.make, at = (...points) => "M" + points.map(([dx, dy]) => `${x + dx * r} ${y + dy * r}`).join("L") + "Z";
    if (kind === "token") return make("rect", { x: x - 0.9 * r, y: y - 0.9 * r, width: 1.8 * r, height: 1.8 * r, rx: 0.3 * r });
    if (kind === "error") return make("path", { d: at([0, -1.15], [1.15, 0], [0, 1.15], [-1.15, 0]) });
    if (kind === "bias") return make("path", { d: at([0, -1.1], [1.05, 0.85], [-1.05, 0.85]) });
    if (kind === "whole MLP") return make("path", { d: at([-0.55, -1], [0.55, -1], [1.1, 0], [0.55, 1], [-0.55, 1], [-1.1, 0]) });
    return make("circle", { cx: x, cy: y, r });
  },

  kind(node) {
    if (node.kind === "feature") return `feature ${node.feature} of mlp_out@${node.layer}`;
    if (node.kind === "error") return `what the dictionary of mlp_out@${node.layer} misses`;
    if (node.kind === "logit") return node.label.includes(" less ") ? "difference of logits" : "logit";
    return node.kind === "bias" ? "constant of the model or of a dictionary" : node.kind;
  },

  /* The nearest node in the direction of an arrow; Escape goes back to the answer. */
  key(event, n) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") { this.choose(0); this.marks[0].focus(); return; }
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    const here = this.picture.places[n];
    let best = null, least = Infinity;
    this.picture.places.forEach((place, other) => {
      const dx = place.x - here.x, dy = place.y - here.y;
      const along = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (along > 0.5 && along + 2 * aside < least) { least = along + 2 * aside; best = other; }
    });
    if (best !== null) this.marks[best].focus();
  },

  curve(from, to) {
    const middle = Math.abs(from.y - to.y) < 14 ? Math.max(from.y, to.y) + 24 : (from.y + to.y) / 2;
    return `M${from.x.toFixed(1)} ${from.y.toFixed(1)} C${from.x.toFixed(1)} ${middle.toFixed(1)} ` +
      `${to.x.toFixed(1)} ${middle.toFixed(1)} ${to.x.toFixed(1)} ${to.y.toFixed(1)}`;
  },

  /* What a node is made of, as wires that sum to its value: products first, and of each edge what is
     left when the halves of these are taken from it. */
  parts(n) {
    const strongest = (a, b) => Math.abs(b.value) - Math.abs(a.value);
    const edges = this.edges[n] ? this.edges[n].rows.filter(([source]) => source >= 0) : [];
    const ways = new Map(edges.map(([source, way]) => [source, way]));
    const left = new Map(edges.map(([source, , , value]) => [source, value]));
    const products = (this.gates[n] ? this.gates[n].rows : [])
      .filter(([kind, first, second]) => (kind === "pair" || kind === "square") && first >= 0 && second >= 0)
      .map(([, first, second, value]) => ({ ends: [...new Set([first, second])], value }))
      .sort(strongest).slice(0, this.most.products);
    for (const { ends, value } of products) {
      for (const end of ends) if (left.has(end)) left.set(end, left.get(end) - value / ends.length);
    }
    const wires = [...left].map(([source, value]) => ({ source, value })).sort(strongest).slice(0, this.most.wires);
    return { products, wires, ways };
  },

  light(n) {
    const make = Report.make, places = this.picture.places, to = places[n];
    const { products, wires, ways } = this.parts(n);
    const most = Math.max(1e-12, ...[...products, ...wires].map((part) => Math.abs(part.value)));
    const sign = (value) => (value < 0 ? "less" : "more");
    const width = (value) => (0.6 + 4.4 * Math.sqrt(Math.abs(value) / most)).toFixed(2);
    const line = (from, end, value) => make("path", { d: this.curve(from, end), class: sign(value), "stroke-width": width(value) });
    const lines = wires.filter(({ value }) => Math.abs(value) > 0.01 * most).map(({ source, value }) => line(places[source], to, value));
    const signs = [], named = new Map(wires.map(({ source }) => [source, to]));
    const clip = (x) => Math.min(Math.max(x, 12), this.picture.width - 12);
    products.sort((a, b) => this.middle(a) - this.middle(b)).forEach((product, place) => {
      const at = { x: clip(to.x + 25 * (place - (products.length - 1) / 2)), y: to.y + to.r + 24 };
      lines.push(line(at, to, product.value), ...product.ends.map((end) => line(places[end], at, product.value)));
      for (const end of product.ends) named.set(end, at);
      signs.push(make("g", { class: "product " + sign(product.value) }, make("circle", { cx: at.x, cy: at.y, r: 7 }),
        make("path", { d: `M${at.x - 3.5} ${at.y - 3.5}l7 7m0 -7l-7 7` })));
    });
    this.wires.replaceChildren(...lines);
    this.over.replaceChildren(...signs, ...this.heads(named, ways));
    this.marks.forEach((mark, other) => {
      mark.classList.toggle("lit", other === n || named.has(other));
      mark.classList.toggle("here", other === n);
    });
    this.svg.classList.toggle("some", Boolean(lines.length));
  },

  middle(product) {
    return product.ends.reduce((sum, end) => sum + this.picture.places[end].x, 0) / product.ends.length;
  },

  /* The head that moved most of each of the strongest, on its wire, where there is room. */
  heads(named, ways) {
    const made = [], taken = [];
    for (const [source, end] of named) {
      const way = ways.get(source) || "";
      if (!way.startsWith("head") || made.length === this.most.labels) continue;
      const from = this.picture.places[source];
      for (const t of [0.5, 0.36, 0.64, 0.24, 0.76]) {
        const u = 1 - t, x = from.x * (u ** 3 + 3 * u * u * t) + end.x * (t ** 3 + 3 * t * t * u);
        const y = from.y * u ** 3 + 1.5 * (from.y + end.y) * u * t + end.y * t ** 3;
        if (taken.some((other) => Math.abs(other.x - x) < 54 && Math.abs(other.y - y) < 13)) continue;
        taken.push({ x, y });
        made.push(Report.make("text", { x, y: y + 4, class: "head" }, way));
        break;
      }
    }
    return made;
  },

  choose(n, asked) {
    this.marks[this.chosen].setAttribute("aria-pressed", "false");
    this.marks[this.chosen].classList.remove("chosen");
    this.chosen = n;
    this.marks[n].setAttribute("aria-pressed", "true");
    this.marks[n].classList.add("chosen");
    this.light(n);
    this.card.replaceChildren(...this.ledgers(n));
    this.card.scrollTop = 0;
    if (asked && innerWidth < 900) this.card.scrollIntoView({ block: "nearest" });
  },

  /* A node's name that chooses it, and shows where it stands. */
  link(n) {
    const made = Report.make("button", { type: "button", class: "link", "data-to": n }, this.nodes[n].label);
    made.addEventListener("click", () => this.choose(n));
    for (const [begin, end] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
      made.addEventListener(begin, () => this.marks[n].classList.add("pointed"));
      made.addEventListener(end, () => this.marks[n].classList.remove("pointed"));
    }
    return made;
  },

  ledgers(n) {
    const make = Report.make, node = this.nodes[n];
    const alike = this.nodes.filter((other) => node.group >= 0 && other.group === node.group).length - 1;
    const made = [make("h3", {}, node.label), make("p", { class: "note" }, this.kind(node)),
      Report.facts([[node.kind === "logit" ? "logits" : "activation", this.gates[n] ? node.value : null],
        ["promotes", node.promotes || null],
        ["influence", this.percent(node.influence)],
        ["raises less lowers it", node.kind === "logit" ? null : this.percent(node.net)],
        ["held by its gates", node.kept === null ? null : this.percent(node.kept)],
        ["same role as", alike > 0 ? `${alike} other${alike > 1 ? "s" : ""} (group ${node.group})` : null]])];
    if (this.gates[n]) {
      made.push(this.ledger(n, "Gates", this.gates[n], ["term", "of", "adds"], (row) => this.gate(row)));
      made.push(this.ledger(n, "Edges", this.edges[n], ["from", "way", "adds"], ([source, way, , value]) =>
        source < 0 ? ["all others", "", value] : [this.link(source), way, value]));
    } else {
      made.push(make("p", {}, node.kind === "feature" ? "It was not followed further back."
        : "A start: it is traced no further back."));
    }
    made.push(...this.readers(n));
    return made;
  },

  gate([kind, first, second, value]) {
    const make = Report.make;
    if (kind === "rest") return ["others", "not in this graph", value];
    if (kind === "pair") return [kind, make("span", {}, this.link(first), " × ", this.link(second)), value];
    return [kind, first < 0 ? "" : this.link(first), value];
  },

  ledger(n, title, account, heads, cells) {
    const make = Report.make, table = make("tbody", {});
    const line = (cells, total) => make("tr", { class: total ? "total" : null }, ...cells.map((cell) => make("td", {},
      typeof cell === "number" ? Report.number(cell, 4) : cell)));
    const rows = account.rows, last = rows[rows.length - 1], value = (row) => row[row.length - 1];
    const isRest = last[0] === "rest" || last[0] === -1;
    const named = isRest ? rows.slice(0, -1) : rows;
    const few = named.length > this.most.rows + 1 ? named.slice(0, this.most.rows) : named;
    for (const row of few) table.append(line(cells(row)));
    if (few.length < named.length) {
      const others = named.slice(few.length);
      const open = make("button", { type: "button", class: "link" }, `${others.length} smaller`);
      const made = line([title === "Gates" ? "" : open, title === "Gates" ? open : "", others.reduce((sum, row) => sum + value(row), 0)]);
      open.addEventListener("click", () => {
        const all = others.map((row) => line(cells(row)));
        made.replaceWith(...all);
        all[0].querySelector("button, td").focus();
      });
      table.append(made);
    }
    if (isRest) table.append(line(cells(last)));
    table.append(line(["sum", "", Report.number(account.total, 6)], true), line(["the model", "", Report.number(this.nodes[n].value, 6)], true),
      line(["difference", `relative ${Report.number(account.relative, 2)}`, Report.number(account.difference, 2)], true));
    const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)));
    const save = Figures.buttons(`${title} of ${this.nodes[n].label}`);
    const made = make("div", { "data-ledger": title.toLowerCase() }, make("h4", {}, `${title}: what it is the sum of`),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title} of ${this.nodes[n].label}` },
        make("table", { class: "ledger" }, make("thead", {}, head), table)), save);
    const spelt = (cell) => (cell && cell.textContent !== undefined ? cell.textContent : cell);
    Figures.offer(made, `${title} ${this.nodes[n].label}`, { columns: heads, rows: rows.map((row) => cells(row).map(spelt)) });
    return made;
  },

  /* What reads a node. */
  readers(n) {
    const make = Report.make, found = [];
    this.edges.forEach((account, reader) => {
      const edge = account && account.rows.find(([source]) => source === n);
      if (edge) found.push([reader, edge[1], edge[3], this.nodes[reader].influence * Math.abs(edge[3]) / Math.max(1e-12, ...account.rows.map((row) => Math.abs(row[3])))]);
    });
    if (!found.length) return [];
    const list = make("ul", { class: "readers" });
    for (const [reader, way, value] of found.sort((a, b) => b[3] - a[3]).slice(0, this.most.rows)) {
      list.append(make("li", {}, this.link(reader), " ", make("span", { class: value < 0 ? "less" : "more" }, (value > 0 ? "+" : "") + Report.number(value)), ` ${way}`));
    }
    return [make("h4", {}, found.length > this.most.rows ? `Read by ${found.length} nodes, these most` : "Read by"), list];
  },
};

"use strict";
/* The picture of a circuit, the details of its parts, and the ledgers of examples. */

const Graph = {
  start(main, content) {
    const place = main.querySelector("[data-graph]");
    if (!place) return;
    this.content = content;
    this.card = main.querySelector("[data-card]");
    place.append(this.draw(content.graph));
    this.first(place, content.graph);
    this.ledgers(main.querySelector("[data-ledgers]"), content.ledgers);
  },

  /* The strongest pair is shown until something is chosen. */
  first(place, graph) {
    if (!graph.edges.length) return;
    const edge = graph.edges[0];
    place.querySelector(`[data-pair="${edge.first}-${edge.second}"]`).classList.add("chosen");
    this.card.replaceChildren(this.pair(this.content.pairs[edge.pair]));
  },

  draw(graph) {
    const make = Report.make;
    const svg = make("svg", { viewBox: `0 -20 ${graph.width} ${graph.height + 20}`, role: "group",
      "aria-label": "Input features, gates and output features" });
    svg.style.maxWidth = graph.width * 1.15 + "px";
    const most = Math.max(1e-12, ...graph.edges.map((edge) => Math.abs(edge.strength)));
    const nodes = new Map(graph.nodes.map((node) => [node.feature, node]));
    const groups = new Map(graph.groups.map((group) => [group.group, group]));
    graph.groups.forEach((group, place) => svg.append(this.group(group, place)));
    for (const gate of graph.gates) svg.append(...this.wires(gate, groups));
    this.bus(svg, graph);
    this.headings(svg, graph);
    // the strongest last, on top
    for (const edge of [...graph.edges].reverse()) svg.append(this.edge(edge, nodes, groups, most));
    for (const node of graph.nodes) {
      const alone = graph.nodes.filter((other) => other.group === node.group).length === 1;
      svg.append(this.node(node, alone));
    }
    for (const gate of graph.gates) svg.append(this.gate(gate, groups));
    for (const output of graph.outputs) svg.append(this.output(output));
    return svg;
  },

  headings(svg, graph) {
    const head = (x, text, anchor) => svg.append(Report.make("text",
      { x, y: 2, class: "caption heading", "text-anchor": anchor || "middle" }, text));
    if (graph.groups.length) head(Math.min(...graph.groups.map((group) => group.x - group.radius)), "input features", "start");
    if (graph.gates.length) head(graph.gates[0].x, "gates");
    if (graph.outputs.length) head(graph.outputs[0].x - 60, "outputs and their tokens", "start");
  },

  group(group, place) {
    const make = Report.make;
    const top = group.y - group.radius;
    return make("g", { class: "group g" + (group.group < 0 ? "none" : place % 6) },
      make("circle", { cx: group.x, cy: group.y, r: group.radius }),
      make("text", { x: group.x, y: top - 8, class: "group-name" }, this.short(group.name, 30)));
  },

  wires(gate, groups) {
    const ends = gate.first === gate.second ? [gate.first] : [gate.first, gate.second];
    return ends.map((end, place) => {
      const group = groups.get(end);
      const y = gate.y + (ends.length === 1 ? 0 : place ? 9 : -9);
      const x = group.x + group.radius * 0.92;
      const path = `M${x} ${group.y} C${x + 70} ${group.y} ${gate.x - 90} ${y} ${gate.x - 22} ${y}`;
      return Report.make("path", { d: path, class: "wire", "data-wire": gate.place });
    });
  },

  /* Gates add up; every output feature reads the sum. */
  bus(svg, graph) {
    if (!graph.outputs.length || !graph.gates.length) return;
    const x = graph.gates[0].x + 96;
    const all = [...graph.gates, ...graph.outputs].map((part) => part.y);
    svg.append(Report.make("line", { x1: x, x2: x, y1: Math.min(...all), y2: Math.max(...all), class: "wire" }));
    for (const gate of graph.gates) {
      svg.append(Report.make("line", { x1: gate.x + 24, x2: x, y1: gate.y, y2: gate.y, class: "wire" }));
    }
    const most = Math.max(1e-12, ...graph.outputs.map((o) => Math.abs(o.share || 0)));
    for (const output of graph.outputs) {
      const width = output.share === null ? 1.5 : 1.2 + 6 * Math.abs(output.share) / most;
      svg.append(Report.make("line", { x1: x, x2: output.x - 20, y1: output.y, y2: output.y,
        class: "wire " + ((output.effect || 0) < 0 ? "less" : "more"), "stroke-width": width }));
    }
  },

  edge(edge, nodes, groups, most) {
    const make = Report.make;
    const one = nodes.get(edge.first), two = nodes.get(edge.second);
    let path;
    if (edge.first === edge.second) {
      const group = groups.get(one.group);
      let dx = one.x - group.x, dy = one.y - group.y;
      const length = Math.hypot(dx, dy) || 1;
      if (Math.hypot(dx, dy) < 1) { dx = 0; dy = -1; } else { dx /= length; dy /= length; }
      const r = one.radius, far = r + 26, wide = 20;
      path = `M${one.x + dx * r - dy * 6} ${one.y + dy * r + dx * 6}` +
        `C${one.x + dx * far - dy * wide} ${one.y + dy * far + dx * wide}` +
        ` ${one.x + dx * far + dy * wide} ${one.y + dy * far - dx * wide}` +
        ` ${one.x + dx * r + dy * 6} ${one.y + dy * r - dx * 6}`;
    } else {
      const mx = (one.x + two.x) / 2 - (two.y - one.y) * 0.12;
      const my = (one.y + two.y) / 2 + (two.x - one.x) * 0.12;
      path = `M${one.x} ${one.y} Q${mx} ${my} ${two.x} ${two.y}`;
    }
    const width = 1 + 7 * Math.sqrt(Math.abs(edge.strength) / most);
    const label = `pair ${one.label} and ${two.label}: ${Report.number(edge.strength)}`;
    const made = make("g", { class: "edge " + (edge.strength < 0 ? "less" : "more"), role: "button",
      tabindex: 0, "aria-label": label, "data-pair": `${edge.first}-${edge.second}` },
      make("title", {}, label),
      make("path", { d: path, "stroke-width": width.toFixed(2) }),
      make("path", { d: path, class: "reach" }));
    Report.onChoose(made, () => this.choose(made, this.pair(this.content.pairs[edge.pair])));
    return made;
  },

  node(node, alone) {
    const make = Report.make;
    const constant = node.label === "constant", name = constant ? "1" : String(node.feature);
    const made = make("g", { class: "node", role: "button", tabindex: 0, "data-feature": node.feature,
      "aria-label": `${name} ${this.short(node.caption)}, ${node.label}` },
      make("circle", { cx: node.x, cy: node.y, r: node.radius }),
      make("text", { x: node.x, y: node.y + 4 }, name), " ",
      ...this.lines(node.caption, alone ? 2 : 1).map((line, n) => make("text",
        { x: node.x, y: node.y + node.radius + 13 + 13 * n, class: "caption" }, line)));
    const sites = this.content.sites;
    Report.onChoose(made, () => this.choose(made, constant || !sites ? this.plain(node.label)
      : Features.card(sites.input, node.feature)));
    return made;
  },

  output(output) {
    const make = Report.make;
    const made = make("g", { class: "node output", role: "button", tabindex: 0, "data-output": output.feature,
      "aria-label": `${output.feature} ${this.short(output.caption, 17)}, output ${output.label}` },
      make("rect", { x: output.x - 20, y: output.y - 14, width: 40, height: 28, rx: 5 }),
      make("text", { x: output.x, y: output.y + 4 }, String(output.feature)), " ",
      make("text", { x: output.x + 26, y: output.y + 4, class: "caption side" },
        this.short(output.caption, 17)));
    const sites = this.content.sites;
    Report.onChoose(made, () => this.choose(made, sites ? Features.card(sites.output, output.feature)
      : this.plain(output.label)));
    return made;
  },

  /* The shapes of logic diagrams; a ring at the tip negates. */
  gate(gate, groups) {
    const make = Report.make;
    const { x, y } = gate;
    const shapes = {
      AND: `M${x - 22} ${y - 18} H${x} A18 18 0 0 1 ${x} ${y + 18} H${x - 22} Z`,
      OR: `M${x - 24} ${y - 18} Q${x - 14} ${y} ${x - 24} ${y + 18} Q${x + 12} ${y + 18} ${x + 22} ${y} Q${x + 12} ${y - 18} ${x - 24} ${y - 18} Z`,
    };
    const kind = gate.gate === "inhibition" || gate.gate === "AND" ? "AND" : "OR";
    const written = kind === "OR" || gate.gate === "AND" ? gate.gate : "NOT";
    const names = gate.first === gate.second ? groups.get(gate.first).name
      : `${groups.get(gate.first).name} & ${groups.get(gate.second).name}`;
    const made = make("g", { class: "gate " + (gate.value < 0 ? "less" : "more"), role: "button", tabindex: 0,
      "aria-label": `${written} ${Report.number(gate.value)}, ${gate.gate} of ${names}` },
      make("path", { d: shapes[kind] }));
    if (gate.gate === "XOR") made.append(make("path", { d: `M${x - 30} ${y - 18} Q${x - 20} ${y} ${x - 30} ${y + 18}`, class: "line" }));
    if (gate.gate === "NOR" || gate.gate === "inhibition") {
      made.append(make("circle", { cx: x + (kind === "AND" ? 23 : 26), cy: y, r: 4.5 }));
    }
    made.append(make("text", { x: x - 3, y: y + 4 }, written), " ",
      make("text", { x: x, y: y + 33, class: "caption" }, (gate.value > 0 ? "+" : "") + Report.number(gate.value)));
    const wires = (on) => () => {
      for (const wire of made.ownerSVGElement.querySelectorAll(`[data-wire="${gate.place}"]`)) wire.classList.toggle("lit", on);
    };
    for (const name of ["pointerenter", "focus"]) made.addEventListener(name, wires(true));
    for (const name of ["pointerleave", "blur"]) made.addEventListener(name, wires(false));
    Report.onChoose(made, () => this.choose(made, this.details(`${gate.gate} gate`, [
      ["groups", names], ["adds", gate.value], ["share of the pairs' energy", gate.share]])));
    return made;
  },

  /* Words in lines of a few letters; what does not fit in the last is cut. */
  lines(text, most) {
    const made = [""];
    for (const word of (text || "").split(" ")) {
      const longer = made[made.length - 1] ? made[made.length - 1] + " " + word : word;
      if ([...longer].length <= 15 || !made[made.length - 1] || made.length === most) made[made.length - 1] = longer;
      else made.push(word);
    }
    return made.map((line) => this.short(line, 15));
  },

  short(text, most) {
    const wide = most || 14;
    const letters = [...(text || "")];
    return letters.length > wide ? letters.slice(0, wide - 1).join("") + "…" : text || "";
  },

  async choose(element, made) {
    for (const other of document.querySelectorAll("[data-graph] .chosen")) other.classList.remove("chosen");
    element.classList.add("chosen");
    this.card.replaceChildren(await made);
    if (innerWidth < 900) this.card.scrollIntoView({ block: "nearest" });
  },

  plain(text) {
    return Report.make("p", {}, text);
  },

  details(title, rows) {
    return Report.make("div", {}, Report.make("h3", {}, title), Report.facts(rows));
  },

  pair(pair) {
    const make = Report.make;
    const names = { weight: "weight", data_weight: "data weight (mean on text)", contrast: "added to the contrast, logits (mean over the affected classes)",
      elsewhere: "added in other classes, logits", computed: "over all classes: computed, logits", inherited: "over all classes: inherited, logits",
      z: "z against rotated features", q: "q", own: "weight without similar pairs",
      together: "share with both active", coactivation: "mean product" };
    const rows = Object.entries(names).map(([key, name]) => [name, pair.known[key]]);
    const label = (f) => {
      const node = this.content.graph.nodes.find((each) => each.feature === f);
      return node ? node.label + (node.caption ? ` “${node.caption}”` : "") : `feature ${f}`;
    };
    const made = this.details(pair.first === pair.second ? `${label(pair.first)} with itself`
      : `${label(pair.first)} × ${label(pair.second)}`, rows);
    made.append(make("h4", {}, "Where both are active"));
    if (!pair.contexts.length) made.append(make("p", { class: "note" }, "Nowhere in the text."));
    for (const context of pair.contexts) {
      const line = make("p", { class: "example" });
      this.tokens(line, context);
      line.append(make("span", { class: "note" }, `${Report.number(context.first)} × ${Report.number(context.second)}`));
      made.append(line);
    }
    return made;
  },

  /* Words with the one in question marked. */
  tokens(line, context) {
    context.tokens.forEach((token, n) => line.append(Report.make("bdi", { class: n === context.place ? "peak shade9" : "" }, token), " "));
  },

  ledgers(place, ledgers) {
    const make = Report.make;
    if (!ledgers || !ledgers.length) {
      place.append(make("p", { class: "note" }, "No examples: the circuit does not state its layer, or no text was read."));
      return;
    }
    const chooser = make("select", {});
    ledgers.forEach((ledger, n) => chooser.append(make("option", { value: n }, ledger.label)));
    const body = make("div", {});
    const show = () => body.replaceChildren(this.ledger(ledgers[Number(chooser.value)]));
    chooser.addEventListener("change", show);
    place.append(make("p", {}, make("label", {}, "Example ", chooser)), body);
    show();
  },

  ledger(ledger) {
    const make = Report.make;
    const text = make("p", { class: "example" });
    this.tokens(text, ledger);
    const head = make("tr", {}, ...["term", "features", "adds"].map((name) => make("th", { scope: "col" }, name)));
    const body = make("tbody", {});
    const rows = ledger.rows.rows.map((row) => Object.fromEntries(ledger.rows.columns.map((c, i) => [c, row[i]])));
    const named = (f) => f + (ledger.captions[f] ? ` “${ledger.captions[f]}”` : "");
    const name = (row) => row.kind === "square" ? named(row.first) + ", squared"
      : [row.first, row.second].filter((f) => f >= 0).map(named).join(" × ") || "none";
    const line = (...cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
    for (const row of rows.slice(0, ledger.shown)) {
      const made = line(row.kind, name(row), Report.number(row.value, 4));
      if (row["in circuit"]) made.className = "own";
      body.append(made);
    }
    const others = rows.slice(ledger.shown);
    if (others.length) {
      body.append(line("others", `${others.length} smaller terms`, Report.number(others.reduce((sum, row) => sum + row.value, 0), 4)));
    }
    const total = line("total", "all terms", Report.number(ledger.total, 6));
    total.className = "total";
    const model = line("the model", `relative difference ${Report.number(ledger.off_by, 2)}`, Report.number(ledger.computed, 6));
    model.className = "total";
    body.append(total, model);
    const largest = Math.max(...rows.map((row) => Math.abs(row.value)));
    const share = Math.abs(ledger.total) > 0.1 * largest ? `, ${Report.number(100 * ledger.by_circuit / ledger.total, 3)} % of this example` :
      "; its terms nearly cancel, so a share of their sum says nothing";
    const save = Figures.buttons("Ledger");
    const made = make("div", {}, text, make("p", {}, `What the MLP adds at the marked token to the ${ledger.reads}. ` +
      `The highlighted rows are the circuit's; they add ${Report.number(ledger.by_circuit, 4)} in total${share}.`),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ledger" },
        make("table", { class: "ledger" }, make("thead", {}, head), body)), save);
    Figures.offer(made, "ledger " + ledger.label, ledger.rows);
    return made;
  },
};

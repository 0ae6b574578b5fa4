"use strict";
/* The searchable list of features, and a feature's card; cards are loaded in pieces. */

const Features = {
  step: 100,

  start(main, content) {
    this.form = main.querySelector("[data-features]");
    if (!this.form) return;
    this.main = main;
    this.many = this.step;
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => { this.many = this.step; this.list(); });
    main.querySelector("[data-more]").addEventListener("click", () => { this.many += this.step; this.list(); });
    this.opened();
    this.list();
  },

  async list() {
    const make = Report.make, form = this.form;
    const index = await Report.need(form.elements.site.value);
    const words = form.elements.words.value.trim().toLowerCase();
    const found = this.sorted(index, this.matching(index, words), form.elements.sort.value);
    // hide the columns that are empty for this dictionary: an MLP's input promotes no tokens
    const none = (values) => !values || values.every((value) => !value);
    const empty = { 1: none(index.caption), 2: none(index.fit), 3: none(index.promotes), 4: none(index.frequency),
      5: none(index.maximum), 6: none(index.circuits), 7: none(index.rank2) };
    const rows = found.slice(0, this.many).map((f) => {
      const open = make("button", { type: "button", "data-open": f }, String(f));
      open.addEventListener("click", () => this.open(index.site, f));
      const share = index.frequency ? (100 * index.frequency[f]).toPrecision(2) + " %" : "";
      const cells = [open, make("bdi", {}, index.caption[f]), index.fit[f] === null ? "" : Report.number(index.fit[f], 2),
        make("bdi", {}, index.promotes[f]), share,
        index.maximum ? Report.number(index.maximum[f]) : "", index.circuits[f] || "", Report.number(index.rank2[f], 2)];
      return make("tr", {}, ...cells.map((cell, n) => make("td", { hidden: empty[n] ? "" : null }, cell)));
    });
    this.main.querySelectorAll(".found th").forEach((head, n) => { head.hidden = Boolean(empty[n]); });
    this.main.querySelector("[data-found]").replaceChildren(...rows);
    this.main.querySelector("[data-more]").hidden = found.length <= this.many;
    const fitted = index.n_fitted ? ` Captions: fitted on n = ${Report.number(index.n_fitted)} tokens; r is their correlation with the activation.` : "";
    const measured = index.n_token ? ` Frequency: n = ${index.n_token.toLocaleString("en")} tokens.` : "";
    this.main.querySelector("[data-count]").textContent =
      `${found.length} of ${index.n_feature} features of ${index.site}.${fitted}${measured}`;
  },

  matching(index, words) {
    const all = Array.from({ length: index.n_feature }, (_, f) => f);
    if (!words) return all;
    const number = words.replace(/^#|^feature /, "");
    return all.filter((f) => String(f) === number || index.caption[f].toLowerCase().includes(words)
      || index.promotes[f].toLowerCase().includes(words));
  },

  sorted(index, features, by) {
    const values = index[by];
    if (!values) return features;
    return features.sort((a, b) => (values[b] ?? -9) - (values[a] ?? -9) || a - b);
  },

  open(site, feature) {
    const rest = `${site}:${feature}`;
    if (Report.rest() === rest) this.opened();
    else location.hash = Report.href("features", rest).replace(/^[^#]*#/, "");
  },

  /* A feature may be named in the address. */
  async opened() {
    const named = /^(\w+@\d+):(\d+)$/.exec(Report.rest());
    if (!named || !this.form || !this.form.isConnected) return;
    const place = this.main.querySelector("[data-card]");
    const option = [...this.form.elements.site.options].find((each) => each.dataset.site === named[1]);
    if (!option) return;
    if (this.form.elements.site.value !== option.value) { this.form.elements.site.value = option.value; this.list(); }
    place.replaceChildren(await this.card(named[1], Number(named[2])));
    if (innerWidth < 900) place.scrollIntoView({ block: "nearest" });
  },

  async card(site, feature) {
    const make = Report.make;
    const [point, layer] = site.split("@");
    const key = `features-${point}-${layer}`;
    const index = await Report.need(key);
    if (feature >= index.n_feature) return make("p", {}, `${site} has no feature ${feature}.`);
    const piece = await Report.need(`${key}-${Math.floor(feature / index.piece)}`);
    const card = piece[feature % index.piece];
    const made = make("div", { "data-shown": `${site}:${feature}` },
      make("h3", {}, make("a", { href: Report.href("features", `${site}:${feature}`) }, `feature ${feature}`), ` of ${site}`));
    if (index.caption[feature]) {
      made.append(make("p", {}, "caption: ", make("bdi", { class: "caption" }, index.caption[feature]), " ",
        make("span", { class: "note" }, `(correlation ${Report.number(index.fit[feature], 2)}, n = ${Report.number(index.n_fitted)} tokens)`)));
    }
    made.append(this.numbers(index, card, feature));
    this.add(made, "In text", this.examples(index, card), index.n_documents ? `the strongest of n = ${index.n_documents} documents that training left out` : null);
    this.add(made, "Promotes", this.effects(card.up), null);
    this.add(made, "Demotes", this.effects(card.down), "direct path: decoder, final norm's weight, unembedding");
    this.add(made, "Circuits", this.circuits(card), null);
    const reader = index.pairs_read_by ? `; outputs read with ${index.pairs_read_by}` : "";
    this.add(made, "Strongest pairs", this.pairs(site, card), "output: first × second, weight (z)" + reader);
    this.add(made, "Neighbours", this.neighbours(site, index, card), "cosine of the decoder rows");
    return made;
  },

  add(card, title, body, note) {
    if (!body) return;
    card.append(Report.make("h4", {}, title), body);
    if (note) card.append(Report.make("p", { class: "note" }, note));
  },

  numbers(index, card, feature) {
    const make = Report.make;
    const rows = [["active on", index.frequency ? `${(100 * index.frequency[feature]).toPrecision(3)} % of ${index.n_token.toLocaleString("en")} tokens` : null],
      ["mean, maximum", index.mean ? `${Report.number(index.mean[feature])}, ${Report.number(index.maximum[feature])}` : null],
      ["correlation at rank 2, read as on the low-rank page", card.rank2 === null ? null : Report.number(card.rank2, 2)]];
    const made = make("div", {}, Report.facts(rows));
    if (card.histogram && card.n_active) made.append(this.histogram(card, feature));
    return made;
  },

  histogram(card, feature) {
    const make = Report.make;
    const most = Math.max(...card.histogram), wide = 240 / card.histogram.length;
    const svg = make("svg", { viewBox: "0 0 240 76", class: "histogram", role: "img",
      "aria-label": `Histogram of the active values, from ${Report.number(card.from)} to ${Report.number(card.to)}` });
    card.histogram.forEach((count, n) => {
      const high = 56 * count / most;
      svg.append(make("rect", { x: n * wide + 0.5, y: 58 - high, width: wide - 1, height: high }));
    });
    svg.append(make("text", { x: 0, y: 72 }, Report.number(card.from)),
      make("text", { x: 240, y: 72, "text-anchor": "end" }, Report.number(card.to)));
    const bins = card.histogram.length, width = (card.to - card.from) / bins;
    const table = { columns: ["from", "to", "n"], rows: card.histogram.map((n, i) => [card.from + i * width, card.from + (i + 1) * width, n]) };
    const made = make("div", {}, svg, Figures.buttons("Histogram"));
    Figures.offer(made, `histogram ${feature}`, table);
    return made;
  },

  examples(index, card) {
    const make = Report.make;
    if (!card.examples.length) return index.n_documents ? make("p", { class: "note" }, "Never active in this text.") : null;
    const made = make("div", {});
    for (const [value, words, place, shades] of card.examples) {
      const line = make("p", { class: "example" }, make("span", { class: "value" }, Report.number(value)), " ");
      words.forEach((word, n) => line.append(make("bdi", { class: `shade${shades[n]}` + (n === place ? " peak" : "") }, index.words[word]), " "));
      made.append(line);
    }
    return made;
  },

  effects(rows) {
    if (!rows.length) return null;
    const made = Report.make("p", { class: "tokens" });
    for (const [token, effect] of rows) made.append(Report.make("span", {}, Report.make("bdi", {}, token), " ", Report.make("small", {}, Report.number(effect, 2))), " ");
    return made;
  },

  circuits(card) {
    if (!card.circuits.length) return null;
    const made = Report.make("ul", {});
    for (const [page, name, role] of card.circuits) made.append(Report.make("li", {}, Report.make("a", { href: Report.href(page) }, name), ` as ${role}`));
    return made;
  },

  pairs(site, card) {
    if (!card.pairs.length) return null;
    const make = Report.make, layer = site.split("@")[1], made = make("ul", { class: "pairs" });
    const link = (point, f) => f === "constant" ? f
      : make("a", { href: Report.href("features", `${point}@${layer}:${f}`) }, String(f));
    for (const [output, first, second, weight, z] of card.pairs) {
      made.append(make("li", {}, link("mlp_out", output), ": ", link("mlp_in", first), " × ", link("mlp_in", second),
        `, ${Report.number(weight)} (${z === null ? "none" : Report.number(z, 2)})`));
    }
    return made;
  },

  neighbours(site, index, card) {
    if (!card.near.length) return null;
    const made = Report.make("ul", {});
    for (const [other, cosine] of card.near) {
      made.append(Report.make("li", {}, Report.make("a", { href: Report.href("features", `${site}:${other}`) }, String(other)),
        " ", Report.make("bdi", {}, index.caption[other]), ` ${Report.number(cosine, 2)}`));
    }
    return made;
  },
};

"use strict";
/* Shared by all pages: data that register themselves, safe elements, navigation, light and dark. */

const Report = {
  known: new Map(),
  waiting: new Map(),

  /* Called by each file of data. */
  put(key, content) {
    this.known.set(key, content);
    const ready = this.waiting.get(key);
    if (ready) { this.waiting.delete(key); ready(content); }
  },

  /* A page opened from disk may not fetch: a script is inserted, and registers its data. */
  need(key) {
    if (this.known.has(key)) return Promise.resolve(this.known.get(key));
    const block = document.getElementById("data-" + key);
    if (block) {
      this.known.set(key, JSON.parse(block.textContent));
      return Promise.resolve(this.known.get(key));
    }
    return new Promise((ready, failed) => {
      const before = this.waiting.get(key);
      this.waiting.set(key, (content) => { if (before) before(content); ready(content); });
      if (!before) this.script(document.body.dataset.folder + key + ".js").catch(failed);
    });
  },

  script(address) {
    return new Promise((ready, failed) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = ready;
      script.onerror = () => failed(new Error(address + " is missing: write the report again"));
      document.head.append(script);
    });
  },

  /* An element with text in it; nothing is ever parsed as markup. */
  make(name, attributes, ...children) {
    const spaces = { svg: 1, g: 1, path: 1, circle: 1, rect: 1, text: 1, title: 1, line: 1 };
    const made = spaces[name]
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    for (const child of children) if (child !== null && child !== undefined) made.append(child);
    return made;
  },

  /* A list of names and values; those that are not known are left out. */
  facts(rows) {
    const list = this.make("dl", { class: "facts" });
    for (const [name, value] of rows) {
      if (value === null || value === undefined) continue;
      list.append(this.make("div", {}, this.make("dt", {}, name),
        this.make("dd", {}, typeof value === "number" ? this.number(value, 4) : String(value))));
    }
    return list;
  },

  /* Enter and Space work like a click. */
  onChoose(element, act) {
    element.addEventListener("click", act);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(event); }
    });
  },

  number(value, digits) {
    if (value === null || value === undefined) return "";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Number(value.toPrecision(digits || 3)).toString().replaceAll("-", "−");
  },

  href(page, rest) {
    const single = !document.body.dataset.folder;
    if (single) return "#/" + page + (rest ? "/" + rest : "");
    return page + ".html" + (rest ? "#" + rest : "");
  },

  hash() {
    try { return decodeURIComponent(location.hash.slice(1)); } catch (malformed) { return ""; }
  },

  /* The part of the address after the page, for example a feature. */
  rest() {
    const hash = this.hash();
    if (document.body.dataset.folder) return hash;
    return hash.split("/").slice(2).join("/");
  },

  async show(main) {
    const page = main.dataset.page;
    const content = await this.need(page);
    Figures.start(main, content);
    Tables.start(main);
    Graph.start(main, content);
    Features.start(main, content);
    Trace.start(main, content);
    main.dataset.ready = "yes";
  },

  /* One file holds all pages: the address selects one. */
  route() {
    const main = document.getElementById("content");
    if (location.hash === "#content") return;
    const asked = this.hash().split("/")[1];
    const wanted = document.getElementById("page-" + asked) ? asked
      : document.querySelector("template").id.slice("page-".length);
    if (main.dataset.page === wanted) { Features.opened(); return; }
    const template = document.getElementById("page-" + wanted);
    main.replaceChildren(template.content.cloneNode(true));
    main.dataset.page = wanted;
    delete main.dataset.ready;
    document.title = template.dataset.title + " · " + document.title.split(" · ").pop();
    for (const link of document.querySelectorAll("nav a")) {
      const here = link.getAttribute("href") === "#/" + wanted;
      if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    window.scrollTo(0, 0);
    this.show(main);
  },

  theme(chosen) {
    const root = document.documentElement;
    if (chosen) root.dataset.theme = chosen;
    try {
      if (chosen) localStorage.setItem("theme", chosen);
      else if (localStorage.getItem("theme")) root.dataset.theme = localStorage.getItem("theme");
    } catch (refused) { /* a browser may refuse to store anything for a file */ }
    Figures.recolour();
  },

  get dark() {
    const named = document.documentElement.dataset.theme;
    if (named) return named === "dark";
    return matchMedia("(prefers-color-scheme: dark)").matches;
  },

  /* A drop-down list closes when a page is chosen, on Escape, and on a click elsewhere. */
  closes(list) {
    addEventListener("click", (event) => {
      if (event.target.closest("a") || !list.contains(event.target)) list.open = false;
    });
    list.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { list.open = false; list.querySelector("summary").focus(); }
    });
  },

  /* For printing, every figure is drawn and every part is open. */
  unfold() {
    Figures.all();
    this.folded = [...document.querySelectorAll("main details:not([open])")];
    for (const part of this.folded) part.open = true;
  },

  fold() {
    for (const part of this.folded || []) part.open = false;
  },

  start() {
    this.theme(null);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Figures.recolour());
    document.querySelector("[data-theme-toggle]").addEventListener("click", () => {
      this.theme(this.dark ? "light" : "dark");
    });
    for (const chooser of document.querySelectorAll(".chooser")) this.closes(chooser);
    addEventListener("beforeprint", () => this.unfold());
    addEventListener("afterprint", () => this.fold());
    if (document.body.dataset.folder) {
      this.show(document.getElementById("content"));
      addEventListener("hashchange", () => Features.opened());
    } else {
      this.route();
      addEventListener("hashchange", () => this.route());
    }
  },
};

document.addEventListener("DOMContentLoaded", () => Report.start());

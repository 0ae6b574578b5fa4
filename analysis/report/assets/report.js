"use strict";
/* What all pages share: data that register themselves, safe elements, pages, light and dark. */

const Report = {
  known: new Map(),
  waiting: new Map(),

  /* Called by each file of data. */
  put(key, content) {
    this.known.set(key, content);
    const ready = this.waiting.get(key);
    if (ready) { this.waiting.delete(key); ready(content); }
  },

  /* A page opened from disk may not fetch: a script is put in, and registers what it holds. */
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

  /* Called by Enter and Space as by a click. */
  onChoose(element, act) {
    element.addEventListener("click", act);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(event); }
    });
  },

  number(value, digits) {
    if (value === null || value === undefined) return "";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Number(value.toPrecision(digits || 3)).toString().replace("-", "−");
  },

  href(page, rest) {
    const single = !document.body.dataset.folder;
    if (single) return "#/" + page + (rest ? "/" + rest : "");
    return page + ".html" + (rest ? "#" + rest : "");
  },

  hash() {
    try { return decodeURIComponent(location.hash.slice(1)); } catch (malformed) { return ""; }
  },

  /* What follows the page in the address: a feature, say. */
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
    main.dataset.ready = "yes";
  },

  /* One file holds all pages: the address says which is shown. */
  route() {
    const main = document.getElementById("content");
    if (location.hash === "#content") return;
    const asked = this.hash().split("/")[1];
    const wanted = document.getElementById("page-" + asked) ? asked : "index";
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
    } catch (refused) { /* a browser may keep nothing for a file */ }
    Figures.recolour();
  },

  get dark() {
    const named = document.documentElement.dataset.theme;
    if (named) return named === "dark";
    return matchMedia("(prefers-color-scheme: dark)").matches;
  },

  /* A list that drops down closes where a page was chosen, by Escape, and by a click elsewhere. */
  closes(list) {
    addEventListener("click", (event) => {
      if (event.target.closest("a") || !list.contains(event.target)) list.open = false;
    });
    list.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { list.open = false; list.querySelector("summary").focus(); }
    });
  },

  /* Paper cannot be scrolled or unfolded: every figure is drawn and every part is open. */
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
    const chooser = document.querySelector(".chooser");
    if (chooser) this.closes(chooser);
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

// What a reader without a mouse, or with weak sight, would stumble over on a page.
() => {
  const faults = [];
  const seen = (e) => e.getClientRects().length && getComputedStyle(e).visibility !== "hidden";
  const name = (e) => e.getAttribute("aria-label") || (e.labels && e.labels[0] && e.labels[0].textContent)
    || e.textContent.trim();
  for (const e of document.querySelectorAll("a, button, input, select, [role=button], [role=img], [role=region]")) {
    if (seen(e) && !name(e)) faults.push(e.localName + " has no name");
    if (seen(e) && e.localName === "g" && e.tabIndex < 0) faults.push("a part is not reached by keys");
  }
  const ids = [...document.querySelectorAll("[id]")].filter((e) => !e.closest(".plot")).map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((i) => i === id).length > 1) faults.push(id + " is not alone");
  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    if (!h.getClientRects().length) continue;
    const now = Number(h.localName[1]);
    if (now > level + 1) faults.push(h.localName + " after h" + level);
    level = now;
  }
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  for (const e of document.querySelectorAll(".scroll")) {
    if (e.scrollWidth > e.clientWidth && e.tabIndex < 0) faults.push("a part scrolls that keys do not reach");
  }
  const rgba = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, c) => over(c, under), [255, 255, 255]);
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !seen(e) || e.closest(".skip, .unseen, script, svg, noscript")) continue;
    const under = ground(e), on = over(rgba(getComputedStyle(e).color), under);
    const [a, b] = [light(on), light(under)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faults.push("too faint: " + e.textContent.trim().slice(0, 40));
  }
  return [...new Set(faults)];
}

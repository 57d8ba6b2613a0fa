// Checks of a page that a test runs in the browser; each returns a list of faults.

// Contrast of every visible text with the background that it stands on; backgrounds may be translucent.
function contrastFaults() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const ground = at => {
    const layers = [];
    for (let one = at; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = colour => colour.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const bad = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, at = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE"].includes(at.tagName) || !at.getClientRects().length) continue;
    const style = getComputedStyle(at), under = ground(at);
    const ink = over(rgba(at.closest("svg") ? style.fill : style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    let opacity = 1;
    for (let one = at; one; one = one.parentElement) opacity *= Number(getComputedStyle(one).opacity);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5 || opacity < 1)
      bad.add(`${at.tagName}.${at.className} ${ratio.toFixed(2)} ${node.data.trim().slice(0, 30)}`);
  }
  return [...bad];
}

// Rules of accessibility that a script can check: headings, landmarks, names of controls, figures and tables.
function ruleFaults() {
  const faults = [], all = selector => [...document.querySelectorAll(selector)];
  const levels = all("h1, h2, h3, h4").map(one => Number(one.tagName[1]));
  if (levels.filter(level => level === 1).length !== 1) faults.push("not one h1");
  levels.reduce((before, level) => { if (level > before + 1) faults.push(`h${before} then h${level}`); return level; }, 0);
  if (all("main").length !== 1 || all("nav[aria-label]").length !== 1 || all("header").length !== 1) faults.push("landmarks");
  if (!document.documentElement.lang || !document.title) faults.push("language or title");
  for (const one of all("button, a, summary")) if (!one.textContent.trim()) faults.push("a control without a name");
  for (const one of all("svg")) if (one.getAttribute("role") !== "img" || !one.getAttribute("aria-label")) faults.push("a figure without a name");
  for (const one of all("table")) if (!one.querySelector("th[scope]")) faults.push("a table without headers");
  for (const one of all("section")) if (!one.querySelector("h2")) faults.push(`section ${one.id} without a heading`);
  const ids = all("[id]").map(one => one.id);
  if (new Set(ids).size !== ids.length) faults.push("an id twice");
  for (const one of all("ul, ol")) if ([...one.children].some(child => child.tagName !== "LI")) faults.push("a list with other children");
  for (const one of all("summary")) if (one.parentElement.tagName !== "DETAILS") faults.push("a summary outside details");
  return faults;
}

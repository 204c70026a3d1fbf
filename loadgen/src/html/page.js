// Read-outs under the pointer and by the arrow keys, and a button that copies. The page reads without it.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const BOX = 10000;

  function make(parent, tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    parent.append(element);
    return element;
  }

  // The points of a line, from its path: what is drawn is what is read out.
  function points(path) {
    const texts = path.dataset.text.split("|");
    const places = [...path.getAttribute("d").matchAll(/[ML](\d+) (\d+)/g)];
    return places.map((place, at) => ({ x: +place[1], y: +place[2], text: texts[at] }));
  }

  function nearest(points, x) {
    return points.reduce((best, point) => (Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best));
  }

  function place(svg, x) {
    const value = (x / BOX) * +svg.dataset.end;
    if (svg.dataset.x === "seconds") return value.toFixed(value < 100 ? 2 : 1) + " s";
    const percentile = (100 - 100 / 10 ** value).toFixed(Math.max(1, Math.ceil(value) - 1));
    return "p" + percentile.replace(/\.?0+$/, "");
  }

  function readable(svg) {
    const lines = [...svg.querySelectorAll("path.line")]
      .reverse() // the first is drawn last, on top
      .map((path) => ({ path, points: points(path) }))
      .filter((line) => line.points.length > 0);
    if (lines.length === 0) return;
    const stops = [...new Set(lines.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
    let marks = [];
    let at = -1;

    const readout = document.createElement("div");
    readout.className = "readout";
    readout.setAttribute("aria-live", "polite");
    readout.hidden = true;
    svg.parentElement.append(readout);
    svg.setAttribute("tabindex", "0");

    function hide() {
      marks.forEach((mark) => mark.remove());
      marks = [];
      readout.hidden = true;
    }

    function show(x) {
      hide();
      const shown = percent(x);
      marks.push(make(svg, "line", { class: "cursor", x1: shown, x2: shown, y2: "100%" }));
      const head = document.createElement("strong");
      head.textContent = place(svg, x);
      readout.replaceChildren(head);
      for (const line of lines) {
        const point = nearest(line.points, x);
        // Nothing was measured here.
        if (Math.abs(point.x - x) > BOX / 50) continue;
        const colour = line.path.getAttribute("class").split(" ")[1];
        marks.push(make(svg, "circle", { class: colour, r: 4, cx: percent(point.x), cy: percent(point.y) }));
        const row = document.createElement("div");
        row.className = colour;
        for (const text of [line.path.dataset.name, point.text]) {
          row.append(Object.assign(document.createElement("span"), { textContent: text }));
        }
        readout.append(row);
      }
      readout.hidden = false;
      const left = svg.getBoundingClientRect().left - svg.parentElement.getBoundingClientRect().left;
      const middle = left + (x / BOX) * svg.getBoundingClientRect().width;
      const flipped = middle > svg.parentElement.clientWidth / 2;
      const room = flipped ? middle - readout.offsetWidth - 14 : middle + 14;
      readout.style.left = Math.max(0, Math.min(room, svg.parentElement.clientWidth - readout.offsetWidth)) + "px";
    }

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * BOX;
      at = stops.indexOf(nearest(stops.map((stop) => ({ x: stop })), x).x);
      show(stops[at]);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: -10, PageDown: 10, Home: -stops.length, End: stops.length }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(stops.length - 1, at + step));
      show(stops[at]);
    });
  }

  function percent(x) {
    return (x / BOX) * 100 + "%";
  }

  document.querySelectorAll(".plot > svg").forEach(readable);

  const markdown = document.querySelector(".markdown pre");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(markdown.textContent);
      button.textContent = "Copied";
    } catch {
      // Not allowed from a file in some browsers: mark it, so that the keyboard can copy.
      getSelection().selectAllChildren(markdown);
      button.textContent = "Marked: copy with Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 3000);
  });
  markdown.before(button);
})();

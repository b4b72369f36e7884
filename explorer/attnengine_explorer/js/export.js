// Pictures of what is on the screen, made in the browser: every figure where it stands, the caption drawn beneath.
"use strict";
const exporting = (() => {
  const LINE = 17, MARGIN = 10, FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
  // What XML cannot hold: control characters and half surrogate pairs.
  const UNFIT = /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

  function* below(view) {
    yield view;
    for (const child of view.children?.() ?? []) yield* below(child);
  }

  /** Figures that can be seen inside an element, with their places. */
  function figures(within) {
    const frame = within.getBoundingClientRect(), found = [];
    for (const root of Bokeh.index.roots) {
      for (const view of below(root)) {
        if (view.canvas_view === undefined || view.frame === undefined) continue;
        const box = view.el.getBoundingClientRect();
        const inside = box.width > 0 && box.height > 0 && box.left >= frame.left - 1 && box.right <= frame.right + 1;
        if (inside && view.model.visible) found.push({ view, x: box.left, y: box.top, width: box.width, height: box.height });
      }
    }
    return found;
  }

  const colour = (name) => getComputedStyle(probe(`var(--${name})`)).color;

  function probe(value) {
    const made = document.getElementById("colour-probe") ?? document.body.appendChild(Object.assign(document.createElement("i"), { id: "colour-probe", hidden: true }));
    made.style.color = value;
    return made;
  }

  /** A sheet that all figures fit on, and the caption in lines as wide as the sheet. */
  function layout(within, caption) {
    const found = figures(within);
    if (found.length === 0) throw new Error("there is no figure to save here");
    const left = Math.min(...found.map((f) => f.x)), top = Math.min(...found.map((f) => f.y));
    const width = Math.max(...found.map((f) => f.x + f.width)) - left, height = Math.max(...found.map((f) => f.y + f.height)) - top;
    for (const f of found) { f.x += MARGIN - left; f.y += MARGIN - top; }
    const context = document.createElement("canvas").getContext("2d");
    context.font = FONT;
    const lines = [""];
    for (const word of caption.replace(UNFIT, "\ufffd").split(/\s+/)) {
      const longer = (lines.at(-1) + " " + word).trim();
      if (context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return { found, lines, width: width + 2 * MARGIN, height: height + 2 * MARGIN + lines.length * LINE, foot: height + MARGIN };
  }

  function png(within, caption) {
    const sheet = layout(within, caption), scale = Math.max(2, devicePixelRatio);
    const canvas = Object.assign(document.createElement("canvas"), { width: Math.ceil(sheet.width * scale), height: Math.ceil(sheet.height * scale) });
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = colour("panel");
    context.fillRect(0, 0, sheet.width, sheet.height);
    for (const f of sheet.found) context.drawImage(f.view.export("png").canvas, f.x, f.y, f.width, f.height);
    context.font = FONT;
    context.fillStyle = colour("faint");
    sheet.lines.forEach((line, i) => context.fillText(line, MARGIN, sheet.foot + MARGIN + LINE * (i + 0.7)));
    return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  }

  function svg(within, caption) {
    const sheet = layout(within, caption), space = sheet.found[0].view.export("svg", false).canvas.namespaceURI;
    const make = (name, attributes, parent) => {
      const made = document.createElementNS(space, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      parent?.append(made);
      return made;
    };
    const root = make("svg", { width: sheet.width, height: sheet.height, viewBox: `0 0 ${sheet.width} ${sheet.height}` });
    make("rect", { width: sheet.width, height: sheet.height, fill: colour("panel") }, root);
    for (const f of sheet.found) {
      const drawn = f.view.export("svg", false).canvas;
      drawn.setAttribute("x", f.x);
      drawn.setAttribute("y", f.y);
      root.append(drawn);
    }
    sheet.lines.forEach((line, i) => {
      make("text", { x: MARGIN, y: sheet.foot + MARGIN + LINE * (i + 0.7), fill: colour("faint"), style: `font: ${FONT}` }, root).textContent = line;
    });
    const text = new XMLSerializer().serializeToString(root).replace(UNFIT, "\ufffd");
    return new Blob(['<?xml version="1.0" encoding="UTF-8"?>\n', text], { type: "image/svg+xml" });
  }

  /** A cell of a CSV file; one that a spreadsheet would take for a formula is quoted. */
  function cell(value) {
    const text = String(value ?? "").replace(/^[=+@\t\r]/, "'$&");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  /** The tables that stand on the page as numbers, one below the other; the caption as a comment on top. */
  const standing = (within) => Array.from(within.querySelectorAll("table[data-numbers]")).flatMap((table) => [
    [table.caption?.textContent ?? ""], ...Array.from(table.rows, (row) => Array.from(row.cells, (one) => one.textContent)), [],
  ]);

  function csv(within, caption, table = () => standing(within)) {
    const lines = table().map((line) => line.map(cell).join(","));
    return new Blob([`# ${caption.replace(/\s+/g, " ")}\n`, lines.join("\n"), "\n"], { type: "text/csv" });
  }

  function download(blob, name) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  const fileName = (title, ending) => title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80).replace(/^-+|-+$/g, "") + "." + ending;

  /** Save what stands inside `within` as png, svg or csv; `table` gives the lines of a table that does not stand there. */
  async function save(kind, caption, title, within = document.body, table = undefined) {
    const blob = await { png, svg, csv }[kind](within, caption, table);
    download(blob, fileName(title, kind));
  }

  /** A document as HTML that reads back as itself: texts and attributes stay what they are. */
  const markup = (page) => page.documentElement.outerHTML;

  return { save, png, svg, csv, markup, download, fileName };
})();

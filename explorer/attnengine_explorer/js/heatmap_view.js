// The heatmap of a head: the pair under the mouse in words and numbers, and a window brushed for the lines beside it.
"use strict";
function attnengineHeatmapView(m) {
  const quietly = (source, data) => source.setv({ data }, { sync: false });
  let told = "";

  // The block of `edges` that the place lies in; -1 outside.
  function block(edges, place) {
    const at = Math.floor(place + 0.5);
    if (at < 0 || at >= edges[edges.length - 1]) return -1;
    let i = 0;
    while (edges[i + 1] <= at) i += 1;
    return i;
  }

  function point(event) {
    const [row_edges, column_edges, values] = [m.rows.data.edge, m.columns.data.edge, m.image.data.image[0]];
    if (values === undefined) return;
    const [r, c] = [block(row_edges, event.y), block(column_edges, event.x)];
    const key = `${r} ${c}`;
    if (key === told) return;
    told = key;
    if (r < 0 || c < 0) return leave();
    const [top, bottom, left, right] = [row_edges[r], row_edges[r + 1], column_edges[c], column_edges[c + 1]];
    const weight = values[r * (column_edges.length - 1) + c];
    const name = (texts, from, to) => (to - from === 1 ? `${texts[from]} (${from})` : `${texts[from]} … ${texts[to - 1]} (${from}–${to - 1})`);
    const exact = bottom - top === 1 && right - left === 1;
    quietly(m.readout, { ...m.readout.data, text: [
      `${name(m.left.data.text, top, bottom)}  →  ${name(m.right.data.text, left, right)}   ${exact ? "" : "at most "}${weight === 0 ? "0" : weight.toPrecision(4)}`,
    ] });
    quietly(m.cross, {
      x: [(left + right - 1) / 2, (column_edges[column_edges.length - 1] - 1) / 2],
      y: [(row_edges[row_edges.length - 1] - 1) / 2, (top + bottom - 1) / 2],
      width: [right - left, column_edges[column_edges.length - 1]], height: [row_edges[row_edges.length - 1], bottom - top],
    });
  }

  function leave() {
    told = "";
    quietly(m.readout, { ...m.readout.data, text: [""] });
    quietly(m.cross, { x: [], y: [], width: [], height: [] });
  }

  // A box that was drawn, or a click: a window around it.
  const brush = (x0, x1, y0, y1) => { m.window.data = { x0: [x0], x1: [x1], y0: [y0], y1: [y1] }; };
  m.figure.on_event("mousemove", point);
  m.figure.on_event("mouseleave", leave);
  if (m.window) {
    m.figure.on_event("tap", (event) => brush(event.x, event.x, event.y, event.y));
    m.figure.on_event("selectiongeometry", ({ geometry, final }) => {
      if (final && geometry.type === "rect") brush(geometry.x0, geometry.x1, geometry.y0, geometry.y1);
    });
  }
}

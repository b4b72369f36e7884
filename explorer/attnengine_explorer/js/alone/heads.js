// Head view and model view in one file: swaps layers, sets options, opens the head whose thumbnail is clicked.
"use strict";
const heads = (() => {
  const PARTS = ["figure", "heads", "lines", "rest", "left", "right", "squares", "drawn", "strips", "numbers", "mark", "options"];
  const FILLED = ["rest", "left", "right", "squares", "lines"]; // lines last: they are drawn from the others

  function page(doc, settings) {
    const m = Object.fromEntries(PARTS.map((name) => [name, doc.get_model_by_name(`head-view-${name}`)]));
    const { data } = doc.get_model_by_name("head-layers"), cells = doc.get_model_by_name("model-view-cells");
    let layer = -1;

    function open(at, lit = null) {
      if (at !== layer) {
        const kept = layer >= 0 && lit === null && data.squares_on[at].length === m.squares.data.on.length ? m.squares.data.on : null;
        for (const name of FILLED) {
          const start = name + "_", columns = Object.keys(data).filter((column) => column.startsWith(start));
          m[name].data = Object.fromEntries(columns.map((column) => [column.slice(start.length), data[column][at]]));
        }
        m.figure.height = data.height[at];
        m.figure.y_range.setv({ start: data.bottom[at], end: -1.7 });
        m.heads.height = data.heads_height[at];
        m.heads.y_range.setv({ start: data.heads_bottom[at], end: -0.5 });
        if (kept !== null) m.squares.data = { ...m.squares.data, on: kept };
        layer = at;
        document.querySelector('[data-field="layer"]').value = String(at);
      }
      if (lit !== null) m.squares.data = { ...m.squares.data, on: Uint8Array.from(m.squares.data.on, (_, i) => Number(lit.includes(i))) };
    }

    open(settings.layer, settings.lit);
    const drawn = attnengineHeadView(m);
    const controls = {
      layer: (value) => open(Number(value)),
      between: (between) => drawn.set({ between }),
      special: (value) => drawn.set({ hide: Number(value === "hidden") }),
      picks: (value) => drawn.set({ many: Number(value === "many") }),
      threshold: (value) => drawn.set({ threshold: Number(value) }),
    };
    for (const control of document.querySelectorAll("[data-field]")) {
      control.addEventListener("change", () => controls[control.dataset.field](control.value));
    }
    cells?.selected.properties.indices.change.connect(() => {
      const [i] = cells.selected.indices;
      const at = i === undefined ? -1 : Array.from(data.site).indexOf(cells.data.site[i]);
      if (at < 0) return;
      open(at, [cells.data.head[i]]);
      document.querySelector('[data-place="lines"]').scrollIntoView({ block: "nearest", behavior: "smooth" });
    });

    /** Every weight of the heads that are on, for a table to save. */
    function table() {
      const { query, key, head, weight } = m.lines.data, { on, name } = m.squares.data;
      const lines = Array.from(weight.keys()).filter((i) => on[head[i]]);
      const where = document.querySelector('[data-field="layer"]').selectedOptions[0].text;
      return [["layer", "head", "query", "query_token", "key", "key_token", "weight"],
        ...lines.map((i) => [where, name[head[i]], query[i], m.left.data.text[query[i]], key[i], m.right.data.text[key[i]], weight[i]])];
    }
    return { table };
  }

  return { page };
})();

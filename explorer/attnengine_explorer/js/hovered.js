// The mark under the mouse: the source "NAME-hovered" holds the rows that are hovered over of the source "NAME", in every
// figure of it. They are drawn on Bokeh's layer of overlays; a hover_glyph would paint a thousand cells anew for one.
"use strict";
(() => {
  const followed = new Set();

  function follow(name) {
    const source = attnengine.model(name), hovered = attnengine.model(`${name}-hovered`);
    if (source === null || hovered === null || followed.has(source)) return;
    followed.add(source);
    let shown = "";
    function show(rows) {
      if (rows.join() === shown) return;
      shown = rows.join();
      const column = (key) => Float64Array.from(rows, (row) => source.data[key][row]);
      hovered.setv({ data: Object.fromEntries(Object.keys(hovered.data).map((key) => [key, column(key)])) }, { sync: false });
    }
    source.inspect.connect(() => show(source.inspected.indices));
    source.properties.data.change.connect(() => show([])); // it may stand elsewhere now
  }

  attnengine.on("state", () => setTimeout(() => ["heads", "clouds-heads"].forEach(follow)));
})();

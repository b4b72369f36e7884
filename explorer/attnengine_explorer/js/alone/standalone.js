// A view without a server: unpacks Bokeh, takes on light or dark, and starts the script that belongs to the view.
"use strict";
const standalone = (() => {
  const at = (id) => document.getElementById(id);
  const json = (id) => JSON.parse(at(id).textContent);

  /** Bokeh's script is packed; `DecompressionStream` is in every browser since 2023. */
  async function unpack() {
    const bytes = Uint8Array.from(atob(at("bokeh").textContent), (c) => c.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
    Bokeh.set_log_level("error");
  }

  /** Every colour of the light theme as the dark one has it; what a text says is data and stays. */
  function darkened(value, colours) {
    if (typeof value === "string") return colours.get(value) ?? value;
    if (Array.isArray(value)) return colours.get(JSON.stringify(value)) ?? value.map((item) => darkened(item, colours));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, key === "data" ? item : darkened(item, colours)]));
  }

  async function start(open) {
    const settings = json("settings"), found = json("document");
    const dark = settings.mode === "dark" || (settings.mode === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    await unpack();
    const colours = new Map(settings.colours.map(([light, other]) => [Array.isArray(light) ? JSON.stringify(light) : light, other]));
    const documents = dark ? darkened(found.documents, colours) : found.documents;
    for (const [root, id] of Object.entries(found.item.roots)) {
      const place = document.querySelector(`[data-place="${settings.places[root]}"]`);
      place.id = id;
    }
    await Bokeh.embed.embed_items(documents, [found.item]);
    const doc = Bokeh.documents[0];
    const made = open(doc, settings);
    for (const button of document.querySelectorAll("[data-export]")) {
      button.addEventListener("click", () => exporting.save(button.dataset.export, at("caption").textContent, document.title, document.body, made.table));
    }
    document.documentElement.dataset.ready = "";
  }

  return { start };
})();

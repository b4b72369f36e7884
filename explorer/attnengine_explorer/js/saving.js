// The frame's Export menu: pictures and one-file pages are made here, tables by the server.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const shown = () => document.querySelector("[data-view]:not([hidden])");
  const caption = () => `${at("caption").textContent} · ${location.search || "?"}`;
  const title = () => at("caption").textContent;

  const base64 = async (text) => {
    const packed = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
    let binary = "";
    for (let i = 0; i < bytes.length; i += 32768) binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(binary);
  };

  /** The document as JSON, without the wire: there is nobody at its other end. */
  function withoutWire(value) {
    if (Array.isArray(value)) return value.map(withoutWire);
    if (value === null || typeof value !== "object") return value;
    if (value.type === "object" && String(value.name).endsWith("Wire")) return null;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withoutWire(item)]));
  }

  /** One file with the figures and texts that stand on the page, each figure as large as it is now. */
  async function html() {
    const scripts = await Promise.all(Array.from(document.querySelectorAll("script[src]"), (one) => fetch(one.src).then((answer) => answer.text())));
    const bokeh = scripts.filter((text) => text.includes("bokeh"));
    const section = shown(), copy = section.cloneNode(true), roots = {};
    const places = Array.from(section.querySelectorAll("[data-root-id]")), copies = Array.from(copy.querySelectorAll("[data-root-id]"));
    places.forEach((place, i) => {
      const box = place.parentElement.getBoundingClientRect();
      copies[i].replaceChildren();
      copies[i].style.cssText = `display: block; width: ${box.width}px; height: ${box.height}px`;
      roots[place.dataset.rootId] = copies[i].id;
    });
    copy.style.width = `${section.getBoundingClientRect().width}px`;
    for (const control of copy.querySelectorAll("button, select, input, textarea")) control.remove();
    const page = document.implementation.createHTMLDocument(title());
    page.documentElement.dataset.theme = document.documentElement.dataset.theme;
    const add = (parent, name, text, attributes = {}) => {
      const made = page.createElement(name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.textContent = text;
      parent.append(made);
      return made;
    };
    add(page.head, "meta", "", { charset: "utf-8" });
    add(page.head, "meta", "", { "http-equiv": "Content-Security-Policy", content: "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:" });
    add(page.head, "style", document.querySelector("style").textContent + " body { display: block; overflow: auto; height: auto; padding: 12px; background: var(--panel) } #panel { overflow: visible; border: 0 } [data-elsewhere] { display: none }");
    page.body.append(page.importNode(copy, true));
    const elsewhere = add(page.body, "div", "", { "data-elsewhere": "" });
    const json = withoutWire(JSON.parse(Bokeh.documents[0].to_json_string()));
    Bokeh.documents[0].roots().forEach((root, i) => { roots[root.id] ??= add(elsewhere, "div", "", { id: `elsewhere-${i}` }).id; });
    add(page.body, "p", caption());
    const data = { documents: { one: json }, item: { docid: "one", roots, root_ids: Bokeh.documents[0].roots().map((root) => root.id) } };
    add(page.body, "script", await base64(JSON.stringify(data)), { type: "text/plain", id: "data" });
    add(page.body, "script", await base64(bokeh.join("\n;\n")), { type: "text/plain", id: "bokeh" });
    add(page.body, "script", `(${open})()`);
    return new Blob(["<!DOCTYPE html>\n", exporting.markup(page)], { type: "text/html" });
  }

  /** What the saved page does when it is opened. Its text is copied into the file. */
  async function open() {
    const unpack = async (id) => {
      const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
      return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    };
    const script = document.createElement("script");
    script.textContent = await unpack("bokeh");
    document.head.append(script);
    const data = JSON.parse(await unpack("data"));
    await window.Bokeh.embed.embed_items(data.documents, [data.item]);
    document.documentElement.dataset.ready = "";
  }

  async function save(kind) {
    at("export").open = false;
    at("message").textContent = "";
    try {
      if (kind === "csv" || kind === "parquet") attnengine.send({ kind: "export", form: kind });
      else if (kind === "html") exporting.download(await html(), exporting.fileName(title(), "html"));
      else await exporting.save(kind, caption(), title(), shown());
    } catch (problem) {
      at("message").textContent = `not saved: ${problem.message}`;
    }
  }

  attnengine.on("download", (path) => {
    const link = attnengine.element("a");
    Object.assign(link, { href: path, download: "" });
    link.click();
  });
  attnengine.on("refused", (why) => { at("message").textContent = why; });
  for (const button of document.querySelectorAll("[data-export]")) button.addEventListener("click", () => save(button.dataset.export));
})();

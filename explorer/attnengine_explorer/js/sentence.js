// Page view 4: the form of the sentence, its controls, and the scripts of its figures.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const page = at("sentence");
  const { send, change, on, model, element } = attnengine;
  const texts = { text: at("sentence-text"), text_b: at("sentence-text-b") };
  const fields = ["figure", "heads", "lines", "rest", "left", "right", "squares", "drawn", "strips", "numbers", "mark", "options"];
  const rooms = [
    { name: "head-view", fields, start: attnengineHeadView },
    { name: "head-view-b", fields, start: attnengineHeadView },
    ...["head-map", "heatmap", "heatmap-b"].map((name) => ({
      name, fields: ["figure", "image", "rows", "columns", "left", "right", "readout", "cross", "window"], start: attnengineHeatmapView,
    })),
  ];
  let shown = null;

  // Figures come with the first showing of the view: their scripts start then.
  function attach() {
    for (const room of rooms) {
      if (room.view !== undefined || model(`${room.name}-figure`) === null) continue;
      const models = Object.fromEntries(room.fields.map((field) => [field, model(`${room.name}-${field}`)]));
      room.view = room.start(models) ?? null;
    }
  }

  const grow = (box) => { box.style.height = "auto"; box.style.height = `${Math.min(box.scrollHeight + 2, 160)}px`; };
  const grown = {}; // a box's name → what it holds and which boxes are seen: asking for its height lays the page out
  function fit() {
    for (const [name, box] of Object.entries(texts)) {
      const wanted = `${page.dataset.second} ${box.value}`;
      if (grown[name] !== wanted) grow(box);
      grown[name] = wanted;
    }
  }

  on("state", (state) => {
    if (state.view === "sentence") setTimeout(() => { attach(); fit(); }, 0); // by then the page is seen
    page.dataset.sheet = state.sheet;
    page.dataset.second = state.text_b || shown?.text_b ? "shown" : page.dataset.second ?? "hidden";
    for (const [name, box] of Object.entries(texts)) {
      if (shown?.[name] !== state[name]) box.value = state[name];
    }
    at("threshold").value = state.threshold;
    at("threshold-value").textContent = state.threshold === 0 ? "off" : state.threshold.toFixed(2);
    at("overlay").ariaPressed = String(state.overlay === "sentence");
    at("unpin").hidden = state.pin === null;
    at("overlay-off").hidden = state.overlay === "none";
    shown = state;
  });

  on("sentence", (said) => {
    at("sentence-problem").textContent = said.problem;
    at("sentence-facts").textContent = said.facts;
    page.toggleAttribute("data-ready", said.ready);
    if (at("sentence-job").dataset.slot === "asked") at("sentence-job").removeAttribute("data-slot"); // else a job has it
    page.toggleAttribute("data-beside", said.beside);
    page.toggleAttribute("data-pair", said.pair);
    if (said.site !== null) at("sentence-layer").value = said.site;
    if (shown !== null && !shown.text && shown.document !== null) at("sentence-text").placeholder = said.text || "Type a sentence…";
  });
  on("sentence-map", (is) => page.toggleAttribute("data-map", is));

  on("job", ({ slot, text, share }) => {
    const mine = at("sentence-job");
    if (share >= 1) {
      if (mine.dataset.slot === slot) mine.removeAttribute("data-slot");
      return;
    }
    mine.dataset.slot = slot;
    at("sentence-job-text").textContent = text;
    at("sentence-job-share").value = share;
  });

  on("sentence-documents", (found) => {
    at("sentence-documents").replaceChildren(...found.map(({ document, name }) => {
      const line = element("button", `${document} · ${name}`);
      line.type = "button";
      line.addEventListener("click", () => {
        at("sentence-find").value = "";
        at("sentence-documents").replaceChildren();
        change({ document, doc_window: null, token: null, text: "", text_b: "", pin: null, query_span: null, key_span: null });
      });
      return line;
    }));
  });

  function run(event) {
    event?.preventDefault();
    const typed = Object.fromEntries(Object.entries(texts).map(([name, box]) => [name, box.value]));
    if (page.dataset.second !== "shown") typed.text_b = "";
    if (typed.text.trim() === "") return texts.text.focus();
    at("sentence-job").dataset.slot ??= "asked"; // the wait begins here, whenever the server has the time to say so
    change({ ...typed, document: null, doc_window: null, pin: null, query_span: null, key_span: null });
    send({ kind: "sentence.again" }); // the same text changes nothing, but may have been stopped
  }
  at("sentence-form").addEventListener("submit", run);
  for (const box of Object.values(texts)) {
    box.addEventListener("input", () => grow(box));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) run(event);
      else if (event.key === "Escape") box.blur();
    });
  }
  at("sentence-add").addEventListener("click", () => {
    page.dataset.second = page.dataset.second === "shown" ? "hidden" : "shown";
    fit();
    if (page.dataset.second === "shown") return texts.text_b.focus();
    texts.text_b.value = "";
    if (shown.text_b) run();
  });
  for (const button of page.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => {
      const [text, second] = [button.dataset.example, button.dataset.exampleB ?? ""];
      change({ text, text_b: second, second: button.dataset.second ?? "pair", document: null, pin: null, query_span: null, key_span: null });
    });
  }

  let waiting = 0;
  const find = (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => send({ kind: "sentence.find", text: event.target.value }), 120);
  };
  at("sentence-find").addEventListener("input", find);
  at("sentence-find").addEventListener("focus", find);
  at("sentence-find").addEventListener("keydown", (event) => { if (event.key === "Escape") event.target.blur(); });
  at("sentence-picker").addEventListener("focusout", (event) => {
    if (!at("sentence-picker").contains(event.relatedTarget)) at("sentence-documents").replaceChildren();
  });

  const layer = at("sentence-layer");
  layer.addEventListener("change", () => { send({ kind: "sentence.layer", site: Number(layer.value) }); layer.blur(); });
  at("sentence-cancel").addEventListener("click", () => send({ kind: "sentence.cancel" }));
  at("overlay").addEventListener("click", () => change({ view: "cloud", overlay: "sentence" }));
  at("unpin").addEventListener("click", () => change({ pin: null }));
  const slider = at("threshold");
  slider.addEventListener("input", () => {
    at("threshold-value").textContent = Number(slider.value) === 0 ? "off" : Number(slider.value).toFixed(2);
    for (const room of rooms) room.view?.preview?.({ threshold: Number(slider.value) });
  });
  slider.addEventListener("change", () => { change({ threshold: Number(slider.value) }); slider.blur(); });
})();

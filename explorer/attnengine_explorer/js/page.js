// The frame: tabs, controls, keys, the link, dark and light, and what happens when the connection is lost.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const { send, change, on, element } = attnengine;

  on("state", (state) => {
    Object.assign(root.dataset, { theme: state.theme, shown: state.view, rail: state.rail });
    for (const section of all("[data-view]")) section.hidden = section.dataset.view !== state.view;
    for (const control of all("[data-choice]")) if (control !== document.activeElement || control.localName === "select") control.value = state[control.dataset.choice];
    for (const button of all("[data-set]")) button.ariaPressed = String(state[button.dataset.set] === button.dataset.value);
  });
  on("notes", (notes) => { for (const place of all("[data-note]")) place.textContent = notes[place.dataset.note] ?? ""; });

  function wait() {
    const bokehDocument = window.Bokeh?.documents[0];
    if (bokehDocument?.get_model_by_name("wire") == null) return void setTimeout(wait, 20);
    attnengine.connect(bokehDocument);
    bokehDocument.on_event("connection_lost", lost);
    send({ kind: "scheme", dark: dark.matches }); // also says that the page is there
    root.dataset.ready = "";
  }

  // Bokeh 3.9 cannot reconnect to a document that holds arrays; the link holds the state, so the page starts again.
  async function lost() {
    at("message").textContent = "connection lost; waiting for the server";
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (await fetch("health", { cache: "no-store" }).then((answer) => answer.ok, () => false)) return location.reload();
    }
  }

  function csv() {
    const source = attnengine.model("heads");
    const statistic = document.querySelector('[data-choice="statistic"]').value;
    const columns = { head: "name", [statistic]: "value", [statistic + "_se"]: "se" };
    const read = (name) => Array.from(source.data[name], (value) => (Number.isNaN(value) ? "" : value));
    const values = Object.values(columns).map(read);
    const lines = values[0].map((_, i) => values.map((column) => column[i]).join(","));
    const file = new Blob([[Object.keys(columns).join(","), ...lines, ""].join("\n")], { type: "text/csv" });
    const link = Object.assign(element("a"), { href: URL.createObjectURL(file), download: `heads-${statistic}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function copyLink() {
    navigator.clipboard.writeText(location.href).then(
      () => { at("message").textContent = "link copied"; },
      () => { at("message").textContent = "the browser does not allow copying; take the address bar's"; },
    );
  }

  const fold = () => change({ rail: root.dataset.rail === "open" ? "folded" : "open" });

  function search() {
    const box = [...all('[data-choice="search"]')].find((one) => one.offsetParent !== null);
    box?.focus();
    return box !== undefined;
  }

  function key(event) {
    const typing = event.target.closest?.("input, select, textarea, dialog, [contenteditable]");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    const tab = all('[data-set="view"]')[Number(event.key) - 1];
    if (event.key.startsWith("Arrow")) send({ kind: "key", key: event.key });
    else if (event.key === "Escape") send({ kind: "clear" });
    else if (event.key === "z") send({ kind: "undo" });
    else if (event.key === "Z") send({ kind: "redo" });
    else if (event.key === "h") fold();
    else if (event.key === "?") at("help").showModal();
    else if (tab !== undefined) tab.click();
    else if (event.key !== "/" || !search()) return;
    event.preventDefault();
  }

  for (const control of all("[data-choice]")) {
    control.addEventListener("change", () => {
      change({ [control.dataset.choice]: control.value });
      if (control.localName === "select") control.blur(); // arrows belong to heads again
    });
  }
  for (const button of all("[data-set]")) {
    button.addEventListener("click", () => change({ [button.dataset.set]: button.dataset.value }));
  }
  for (const button of all("[data-act]")) {
    button.addEventListener("click", () => send({ kind: button.dataset.act }));
  }
  for (const link of all(".runs a")) { // another run is looked at in the same way
    link.addEventListener("click", () => {
      const query = new URLSearchParams(location.search);
      query.set("run", new URLSearchParams(link.search).get("run"));
      link.search = query.toString();
    });
  }
  at("help-button").addEventListener("click", () => at("help").showModal());
  at("csv").addEventListener("click", csv);
  at("link").addEventListener("click", copyLink);
  at("fold").addEventListener("click", fold);
  addEventListener("keydown", key);
  addEventListener("popstate", () => send({ kind: "visit", query: location.search }));
  dark.addEventListener("change", () => send({ kind: "scheme", dark: dark.matches }));
  wait();
})();

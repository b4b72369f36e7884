// The frame's side of the wire: sends what the person did, puts text in place (textContent only), keeps the link.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const query = matchMedia("(prefers-color-scheme: dark)");
  let wire = null;
  let count = 0;

  function send(act) {
    if (wire !== null) wire.act = JSON.stringify({ ...act, n: (count += 1) }); // n makes a repeated act a change
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function showHead(head) {
    at("panel").toggleAttribute("data-empty", head === null);
    if (head === null) return;
    at("head-name").textContent = head.name;
    at("head-facts").textContent = head.facts;
    at("head-facts").title = head.module;
    at("numbers").replaceChildren(...head.groups.map((group) => {
      const section = element("section");
      const table = element("table");
      for (const row of group.rows) {
        const line = table.insertRow();
        line.title = row.formula;
        line.append(element("td", row.title), element("td", row.value, row.null ? "null" : ""));
      }
      section.append(element("h3", group.name), table);
      return section;
    }));
  }

  function show(shown) {
    at("message").textContent = shown.error ?? "";
    if (shown.error !== undefined) return;
    document.documentElement.dataset.theme = shown.state.theme;
    for (const control of document.querySelectorAll("[data-choice]")) control.value = shown.state[control.dataset.choice];
    for (const place of document.querySelectorAll("[data-note]")) place.textContent = shown.notes[place.dataset.note] ?? "";
    at("formula").textContent = shown.formula;
    at("paper").textContent = shown.paper;
    if (shown.head !== undefined) showHead(shown.head);
    const link = location.pathname + (shown.query ? "?" + shown.query : "");
    if (link !== location.pathname + location.search) history[shown.push ? "pushState" : "replaceState"](null, "", link);
  }

  function connect(bokehDocument) {
    wire = bokehDocument.get_model_by_name("wire");
    const read = () => show(JSON.parse(wire.shown));
    wire.properties.shown.change.connect(read);
    read();
    if (query.matches) send({ kind: "scheme", dark: true });
    document.documentElement.dataset.ready = "";
  }

  function wait() {
    const bokehDocument = window.Bokeh?.documents[0];
    if (bokehDocument?.get_model_by_name("wire") == null) return void setTimeout(wait, 20);
    connect(bokehDocument);
    bokehDocument.on_event("connection_lost", lost);
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
    const source = window.Bokeh.documents[0].get_model_by_name("heads");
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

  function key(event) {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    if (event.key.startsWith("Arrow")) send({ kind: "key", key: event.key });
    else if (event.key === "Escape") send({ kind: "clear" });
    else if (event.key === "z") send({ kind: "undo" });
    else if (event.key === "Z") send({ kind: "redo" });
    else if (event.key === "?") at("help").showModal();
    else return;
    event.preventDefault();
  }

  for (const control of document.querySelectorAll("[data-choice]")) {
    control.addEventListener("change", () => {
      send({ kind: "choose", name: control.dataset.choice, value: control.value });
      control.blur(); // arrows belong to heads again
    });
  }
  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => send({ kind: button.dataset.act }));
  }
  at("help-button").addEventListener("click", () => at("help").showModal());
  at("csv").addEventListener("click", csv);
  at("link").addEventListener("click", copyLink);
  addEventListener("keydown", key);
  addEventListener("popstate", () => send({ kind: "visit", query: location.search }));
  query.addEventListener("change", () => send({ kind: "scheme", dark: query.matches }));
  wait();
})();

// The frame's side of the wire: sends what the person did, and hands what Python tells to the rooms that asked for it.
"use strict";
const attnengine = (() => {
  const rooms = new Map();
  let wire = null;
  let count = 0;

  // One act: {kind: "change", values: {field: value}}, a kind of the frame, or "NAME.…" for the page view NAME.
  function send(act) {
    if (wire !== null) wire.act = JSON.stringify({ ...act, n: (count += 1) }); // n makes a repeated act a change
  }

  // Set fields of the state: change({token: 12, view: "cloud"}).
  const change = (values) => send({ kind: "change", values });

  // on("state", (state) => …) after every step; on(name, (value) => …) for what a view tells by desk.tell(name, value).
  const on = (name, room) => rooms.set(name, [...(rooms.get(name) ?? []), room]);
  const call = (name, value) => { for (const room of rooms.get(name) ?? []) room(value); };

  function read() {
    const shown = JSON.parse(wire.shown);
    document.getElementById("message").textContent = shown.error ?? "";
    if (shown.error !== undefined) return;
    for (const [name, value] of Object.entries(shown.told)) call(name, value);
    call("notes", shown.notes);
    call("state", shown.state);
    const link = location.pathname + (shown.query ? "?" + shown.query : "");
    if (link !== location.pathname + location.search) history[shown.push ? "pushState" : "replaceState"](null, "", link);
  }

  function connect(bokehDocument) {
    wire = bokehDocument.get_model_by_name("wire");
    wire.properties.shown.change.connect(read);
    read();
  }

  // A model of the page by its name; null while its view was not shown yet.
  const model = (name) => window.Bokeh?.documents[0]?.get_model_by_name(name) ?? null;

  // An element with text (never markup) and a class.
  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  return { send, change, on, connect, model, element };
})();

// Page view 1: the numbers of the open head.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const { element, on } = attnengine;

  on("state", (state) => {
    at("compare-facet").hidden = state.site !== null && state.facet === "head";
    at("head").hidden = !at("compare-facet").hidden;
    at("welcome").hidden = state.site !== null || state.heads.length > 0;
    for (const button of at("panel").querySelectorAll(".facets [data-set]")) {
      button.ariaSelected = String((button.id === "head-tab") === at("compare-facet").hidden);
    }
  });

  function headings(table, words) {
    const line = table.createTHead().insertRow();
    for (const [text, title] of words) line.append(Object.assign(element("th", text), { title }));
  }

  // A bar from 0 with an interval and a mark for what chance would give; ends are shares of the bar's room.
  function bar([end, low, high, mark], className) {
    const room = element("span", undefined, `bar ${className}`);
    const put = (name, left, width) => {
      if (left === null || width === null) return;
      const part = element("i", undefined, name);
      part.style.left = `${100 * left}%`;
      part.style.width = `${100 * width}%`;
      room.append(part);
    };
    put("value", 0, end);
    if (low !== null && high !== null) put("interval", low, high - low);
    put("mark", mark, mark === null ? null : 0);
    return room;
  }

  on("types", (rows) => {
    const table = at("types");
    table.replaceChildren();
    if (!rows.length) return;
    headings(table, [["type", ""], ["", "score, its 95 % interval, and a line where chance would be"], ["score", ""], ["chance", "the score that a head without the type would have"], ["q", "Benjamini–Hochberg over heads and types"]]);
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      line.className = row.typed ? "typed" : row.known ? "" : "null";
      line.title = `${row.formula}\n95 % interval ${row.interval}`;
      const cell = element("td");
      if (row.known) cell.append(bar(row.bar, "type"));
      line.append(element("td", (row.typed ? "● " : "") + row.title), cell, ...["score", "null", "q"].map((name) => element("td", row.known ? row[name] : "–")));
    }
  });

  on("key_tokens", (rows) => {
    const table = at("key-tokens");
    table.replaceChildren();
    if (!rows.length) return;
    headings(table, [["token", ""], ["", "share of all attention, and a line at its base rate"], ["share %", "of all attention of the head"], ["even %", "what a head that attends evenly would give it"], ["lift", "share by base rate"]]);
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      line.title = `${row.n} keys in the corpus`;
      const cell = element("td");
      cell.append(bar([row.bar[0], null, null, row.bar[1]], "token"));
      line.append(element("td", row.text, "mono"), cell, element("td", row.share), element("td", row.expected), element("td", row.lift));
    }
  });

  on("alike", (rows) => {
    at("alike").replaceChildren(...rows.map((row) => {
      const button = element("button", row.name, "chip plain");
      button.title = `distance ${row.distance} on the map`;
      button.addEventListener("click", () => attnengine.change({ site: row.head[0], head: row.head[1] }));
      return button;
    }));
  });

  function token(part, most) {
    if (part.gap !== undefined) return Object.assign(element("span", " … ", "gap"), { title: `${part.gap} tokens` });
    const made = element("span", part.text, part.query ? "query" : part.weight === undefined ? "" : "key");
    if (part.weight !== undefined) {
      made.style.setProperty("--weight", `${Math.round(12 + 70 * Math.sqrt(part.weight / most))}%`);
      made.title = `weight ${part.weight} · token ${part.position}`;
    }
    return made;
  }

  on("examples", (rows) => {
    at("examples")?.replaceChildren(...rows.map((row, i) => {
      const item = element("li");
      if (i > 0 && rows[i - 1].top && !row.top) item.append(element("h3", "From the highest decile to the lowest"));
      const line = element("button", undefined, "example");
      line.title = `${row.where}; open it in the sentence view`;
      const most = Math.max(...row.parts.map((part) => part.weight ?? 0), 1e-9);
      const text = element("span", undefined, "mono");
      text.append(...row.parts.map((part) => token(part, most)));
      line.append(element("b", row.value), text, element("small", row.where));
      line.addEventListener("click", () => attnengine.change({ document: row.document, token: row.token, view: "sentence" }));
      item.append(line);
      return item;
    }));
  });

  on("head", (head) => {
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
  });
})();

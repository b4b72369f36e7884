// Page view 3: the hand on the cloud (hover, pick, lasso, box, turn), its legend, and the inspector.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);
  const { send, change, on, element } = attnengine;
  const stage = at("single-cloud"), drawing = at("cloud-hand"), path = drawing.firstElementChild;
  const REST = 24; // a lasso's corner every so many square pixels
  let state = null, hand = "pan", how = "replace", drag = null;

  // From pixels of the stage to the plane and back, as the figure has it now.
  const view = () => window.Bokeh.index.find_one(attnengine.model("single-cloud"));
  function toPlane(points) {
    const { frame, canvas_view } = view();
    const box = canvas_view.el.getBoundingClientRect(), own = stage.getBoundingClientRect();
    const [dx, dy] = [own.left - box.left, own.top - box.top];
    return points.map(([x, y]) => [frame.x_scale.invert(x + dx), frame.y_scale.invert(y + dy)]);
  }
  function toStage(x, y) {
    const { frame, canvas_view } = view();
    const box = canvas_view.el.getBoundingClientRect(), own = stage.getBoundingClientRect();
    return [frame.x_scale.compute(x) + box.left - own.left, frame.y_scale.compute(y) + box.top - own.top];
  }
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const ready = () => attnengine.model("single-cloud") !== null && view() !== null && at("cloud-name").textContent !== "";

  // Hover: one question at a time, the next with the mouse's last place.
  let asked = 0, waiting = false, last = null;
  function ask() {
    if (last === null || waiting || !ready()) return;
    const [[x, y]] = toPlane([last]);
    if (!Number.isFinite(x) || !Number.isFinite(y)) return;
    [waiting, last] = [true, null];
    send({ kind: "cloud.hover", x, y, asked: (asked += 1) });
  }
  function hide() {
    last = null;
    at("cloud-tip").hidden = at("cloud-ring").hidden = true;
  }
  on("cloud.under", (under) => {
    waiting = false;
    at("cloud-tip").dataset.asked = under.asked;
    if (last !== null) return ask();
    if (under.point === undefined || drag !== null || !stage.matches(":hover")) return hide();
    const [x, y] = toStage(under.x, under.y);
    const tip = at("cloud-tip"), ring = at("cloud-ring"), table = element("table");
    for (const [label, value] of under.rows) {
      const line = table.insertRow();
      line.append(element("td", label), element("td", value));
    }
    const title = element("div");
    title.append(element("i", "", "mark " + under.side), element("span", under.side + " "), element("b", under.text));
    tip.replaceChildren(title, table);
    tip.dataset.point = under.point;
    tip.hidden = ring.hidden = false;
    ring.style.left = `${x}px`;
    ring.style.top = `${y}px`;
    const width = stage.clientWidth, height = stage.clientHeight;
    tip.style.left = `${Math.max(4, x + 16 + tip.offsetWidth > width ? x - tip.offsetWidth - 16 : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(y - 10, height - tip.offsetHeight - 6))}px`;
  });
  stage.addEventListener("pointermove", (event) => {
    if (drag !== null || event.buttons) return hide();
    last = place(event);
    ask();
  });
  stage.addEventListener("pointerleave", hide);
  stage.addEventListener("wheel", hide, { passive: true });

  // A click (no drag) picks; a double click shows everything.
  let down = null;
  stage.addEventListener("pointerdown", (event) => { down = event.button === 0 ? place(event) : null; }, true);
  stage.addEventListener("click", (event) => {
    const [x, y] = place(event);
    if (down === null || Math.hypot(x - down[0], y - down[1]) > 4 || !ready()) return;
    const [[px, py]] = toPlane([[x, y]]);
    send({ kind: "cloud.pick", x: px, y: py });
  });
  stage.addEventListener("dblclick", () => send({ kind: "cloud.fit" }));

  // Lasso and box: drawn here as an outline, told once when the hand lets go.
  const outline = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("") + "Z";
  const box = ([x0, y0], [x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
  drawing.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !ready()) return;
    hide();
    drawing.setPointerCapture(event.pointerId);
    drag = { points: [place(event)], yaw: state.yaw, pitch: state.pitch, shift: event.shiftKey, alt: event.altKey };
  });
  drawing.addEventListener("pointermove", (event) => {
    if (drag === null) return;
    const now = place(event), before = drag.points.at(-1);
    if (hand === "turn") return turn(now, false);
    if ((now[0] - before[0]) ** 2 + (now[1] - before[1]) ** 2 < REST) return;
    if (hand === "box") drag.points = [drag.points[0], now];
    else drag.points.push(now);
    path.setAttribute("d", outline(hand === "box" ? box(...drag.points) : drag.points));
  });
  function letGo(event) {
    if (drag === null) return;
    const { points, shift, alt } = drag;
    if (hand === "turn") turn(place(event), true);
    drag = null;
    path.removeAttribute("d");
    if (hand === "turn" || points.length < (hand === "box" ? 2 : 3)) return;
    const corners = toPlane(hand === "box" ? box(...points) : points);
    const rounded = (i) => corners.map((corner) => Number(corner[i].toPrecision(7)));
    const way = shift || event.shiftKey ? "add" : alt || event.altKey ? "subtract" : how;
    send({ kind: "cloud.lasso", x: rounded(0), y: rounded(1), how: way });
  }
  drawing.addEventListener("pointerup", letGo);
  drawing.addEventListener("pointercancel", () => { drag = null; path.removeAttribute("d"); });

  // Turning: a step only when the last one was drawn; the first step of a drag is what undo goes back to.
  let turning = false;
  function turn([x, y], final) {
    if (turning && !final) return;
    const wrap = (degrees) => ((Math.round(degrees) % 360) + 360) % 360;
    const yaw = wrap(drag.yaw + (x - drag.points[0][0]) * 0.6), pitch = wrap(drag.pitch + (y - drag.points[0][1]) * 0.6);
    if (yaw === state.yaw && pitch === state.pitch) return;
    turning = true;
    if (final) change({ yaw, pitch });
    else send({ kind: "cloud.turn", yaw, pitch });
  }

  function press(attribute, value) {
    for (const button of all(`[data-${attribute}]`)) button.ariaPressed = String(button.dataset[attribute] === value);
  }
  function take(chosen) {
    hand = chosen;
    press("hand", hand);
    drawing.classList.toggle("active", hand !== "pan");
    drawing.classList.toggle("turn", hand === "turn");
  }
  for (const button of all("[data-hand]")) button.addEventListener("click", () => take(button.dataset.hand));
  for (const button of all("[data-how]")) button.addEventListener("click", () => { how = button.dataset.how; press("how", how); });
  at("cloud-let-go").addEventListener("click", () => change({ lasso: "", search: "" }));
  at("cloud-fit").addEventListener("click", () => send({ kind: "cloud.fit" }));

  on("state", (now) => {
    state = now;
    turning = false;
    const solid = now.dims === "3";
    document.querySelector('[data-hand="turn"]').disabled = !solid;
    if (!solid && hand === "turn") take("pan");
  });

  // The legend of either page of clouds.
  for (const page of ["cloud", "clouds"]) on(`${page}.legend`, (legend) => {
    const colours = legend.colours ?? [];
    const swatch = (colour, text, shape) => {
      const made = element("span"), mark = element("i", "", shape);
      mark.style.background = colour;
      made.append(mark, text);
      return made;
    };
    const show = (...parts) => at(`${page}-legend`).replaceChildren(...parts);
    if (legend.kind === "side") show(swatch(colours[0], "query", "circle"), swatch(colours.at(-1), "key", "triangle"), element("span", "between: both meet", "faint"));
    else if (legend.kind === "classes") show(...legend.names.map(([level, name]) => swatch(colours[level], name)));
    else if (legend.kind === "sequential") {
      const canvas = element("canvas"), pen = canvas.getContext("2d");
      [canvas.width, canvas.height] = [colours.length, 1];
      colours.forEach((colour, i) => { pen.fillStyle = colour; pen.fillRect(i, 0, 1, 1); });
      const scale = element("span");
      scale.append(legend.low, canvas, legend.high + (legend.log ? " (logarithmic)" : ""));
      show(scale, element("span", legend.without, "faint"));
    } else show();
  });

  // The inspector: rows of text, never markup.
  function pairs(rows, className = "") {
    const table = element("table", undefined, "pairs");
    for (const row of rows) {
      const line = table.insertRow();
      line.append(...row.cells.map((cell, i) => element("td", cell, i === 0 ? className : "")));
      if (row.title) line.title = row.title;
      if (row.to !== undefined) {
        line.dataset.row = row.to;
        line.tabIndex = 0;
        const go = () => change({ token: row.to, point_side: row.side });
        line.addEventListener("click", go);
        line.addEventListener("keydown", (event) => { if (event.key === "Enter") go(); });
      }
    }
    return table;
  }

  on("cloud.head", (head) => {
    at("cloud-name").textContent = head.name;
    at("cloud-warnings").replaceChildren(...head.warnings.filter(Boolean).map((text) => element("p", text)));
    at("cloud-figures").replaceChildren(...pairs(head.rows.map(([title, value, meaning]) => ({ cells: [title, value], title: meaning }))).rows);
    stage.classList.toggle("unfaithful", head.grey);
    at("cloud-grey").hidden = !head.grey;
  });

  function patches(picture) {
    const grid = element("div", undefined, "patches"), most = Math.max(1e-9, ...picture.cells.map((cell) => cell[2]));
    grid.style.gridTemplateColumns = `repeat(${picture.width}, 1fr)`;
    for (const [row, col, weight, token] of picture.cells) {
      const cell = element("button", "", token === picture.row ? "here" : "");
      cell.style.gridArea = `${row + 1} / ${col + 1}`;
      cell.style.setProperty("--weight", weight / most);
      cell.title = `row ${row}, column ${col}${weight ? ` · attention ${weight}` : ""}`;
      cell.addEventListener("click", () => change({ token, point_side: state.point_side }));
      grid.append(cell);
    }
    return grid;
  }

  on("cloud.point", (point) => {
    const section = at("cloud-point");
    section.hidden = point === null;
    section.className = point === null ? "" : point.side;
    if (point === null) return;
    const title = element("h2"), open = element("button", "Open its sentence");
    title.append(element("i", "", "mark"), `${point.side} `, element("span", point.text, "mono"));
    open.addEventListener("click", () => change({ view: "sentence" }));
    const parts = [title, pairs(point.rows.map((cells) => ({ cells })))];
    if (point.patches !== null) parts.push(element("h3", "attention in its picture, from the stored keys"), patches(point.patches));
    else {
      const around = element("p", undefined, "context mono"), most = Math.max(1e-9, ...point.context.map((one) => one.weight));
      for (const one of point.context) {
        const word = element("button", one.text, one.here ? "here" : "");
        word.style.setProperty("--weight", one.weight / most);
        word.title = one.weight ? `attention ${one.weight}` : "";
        word.addEventListener("click", () => change({ token: one.row, point_side: state.point_side }));
        around.append(word);
      }
      parts.push(element("h3", "in its text (shade: attention)"), around, open);
    }
    const other = point.side === "query" ? "key" : "query";
    const link = (one) => ({ cells: [one.row < 0 ? `position ${one.position} (not sampled)` : one.text, one.weight], ...(one.row < 0 ? {} : { to: one.row, side: other }) });
    const named = point.side === "query" ? `attends to (stored keys hold ${point.share} of it)` : "attended by (sampled queries that list it)";
    if (point.links.length) parts.push(element("h3", named), pairs(point.links.map(link), "mono"));
    const near = point.neighbours.map((one) => ({ cells: [`${one.side} ${one.text}`, one.cosine], to: one.row, side: one.side }));
    parts.push(element("h3", "nearest in space (cosine; ringed)"), pairs(near, "mono"));
    section.replaceChildren(...parts);
  });

  function bars(counts) {
    const made = element("div", undefined, "bars"), most = Math.max(1, ...counts);
    for (const value of counts) made.append(Object.assign(element("i"), { title: String(value) }));
    [...made.children].forEach((bar, i) => { bar.style.height = `${(100 * counts[i]) / most}%`; });
    return made;
  }

  on("cloud.summary", (found) => {
    const section = at("cloud-selection");
    section.hidden = found === null;
    if (found === null) return;
    const title = element("h2", "Selected points");
    if (found.problem !== undefined || found.queries === undefined) return section.replaceChildren(title, element("p", found.problem ?? "No point is selected.", "faint"));
    const files = element("p", undefined, "files");
    for (const form of ["csv", "parquet"]) {
      const button = element("button", form.toUpperCase());
      button.addEventListener("click", () => send({ kind: "export", form }));
      files.append(button);
    }
    const ends = element("div", undefined, "ends");
    ends.append(element("span", "0"), element("span", `quartiles ${found.quartiles}`), element("span", String(found.last_position)));
    const parts = [title, pairs([{ cells: ["queries", found.queries] }, { cells: ["keys", found.keys] }, { cells: ["documents", found.n_documents] }]), files];
    if (found.attention !== undefined) {
      const [lassoed, sampled, stored] = found.attention;
      parts.push(element("h3", "attention of the selected queries"), pairs([
        { cells: ["on selected keys", lassoed] },
        { cells: ["on all sampled keys", sampled], title: "only sampled keys are points and can be selected" },
        { cells: ["stored at all (16 keys)", stored], title: "what the run keeps of a query's pattern; the rest is not known here" },
      ]));
    }
    if (found.tokens.length) parts.push(element("h3", "tokens that mark it (log-odds, in s.e.)"), pairs(found.tokens.map((cells) => ({ cells })), "mono"));
    parts.push(element("h3", "positions in the window"), bars(found.positions), ends);
    if (found.documents.length) parts.push(element("h3", "documents"), pairs(found.documents.map((cells) => ({ cells }))));
    if (found.neurons !== undefined) {
      const lines = found.neurons.map(([neuron, value]) => ({ cells: [`neuron ${neuron}`, value] }));
      const table = pairs(lines);
      [...table.rows].forEach((line, i) => {
        const share = found.neurons[i][2], bar = element("i", "", "sign");
        bar.style.width = `${Math.abs(share) * 46}px`;
        bar.style.background = share < 0 ? "var(--key)" : "var(--query)";
        line.cells[0].append(" ", bar);
      });
      parts.push(element("h3", "neurons that carry their scores"), table, pairs([{ cells: ["all neurons", found.neurons_total] }]), element("p", found.formula, "formula faint"));
    }
    section.replaceChildren(...parts);
  });
})();

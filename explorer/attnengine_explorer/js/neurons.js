// The neuron view: multiplies q and k of the sheet it is shown and fills the sources of views/neuron_figure.py.
// Runs on the page, in a notebook and in a file alike; numbers are those of a sheet (neuron_data.py), in doubles.
"use strict";
const neurons = (() => {
  const ORDERS = ["row", "text", "corpus", "number"];
  const MAX_ROWS = 128, TOP_KEYS = 64;

  // What can neither be seen nor mark its own end becomes visible; one character stands for one character.
  const seen = (text) => Array.from(text, (c) => ({ " ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥" }[c] ?? (/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(c) ? "�" : c)));
  const short = (text, most) => { const all = seen(text.slice(0, 4 * most)); return all.length > most || text.length > 4 * most ? all.slice(0, most - 1).join("") + "…" : all.join(""); };

  /** Six significant figures, a real minus, never "nan". */
  function number(value) {
    if (value == null || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(5) : String(Number(value.toPrecision(6)));
    return text.replaceAll("-", "−");
  }

  /** Bokeh's arrays without their shape: theirs cannot be cut. */
  function plain(value) {
    const kind = [Float32Array, Float64Array, Int32Array].find((type) => value instanceof type);
    return kind === undefined ? value : new kind(value.buffer, value.byteOffset, value.length);
  }

  /** Sheet i of the source "qk-sheets", what the corpus says of its neurons under `corpus`. */
  function sheetAt(source, i) {
    const sheet = { corpus: {} };
    for (const [name, column] of Object.entries(source.data)) {
      const value = plain(column[i]);
      if (!name.startsWith("corpus_")) sheet[name] = value;
      else if (value !== null) sheet.corpus[name.slice(7)] = value;
    }
    const width = sheet.text_share.length;
    return { ...sheet, width, vector: (array, row) => array.subarray(row * width, (row + 1) * width) };
  }

  /** Everything about one query against the keys of a sheet: products (key by key), sums, scores, softmax. */
  function multiply(sheet, row) {
    const q = sheet.vector(sheet.q, row), m = sheet.keys.length, width = sheet.width;
    const made = { product: new Float64Array(m * width), dot: new Float64Array(m), scaled: new Float64Array(m), score: new Float64Array(m), softmax: new Float64Array(m), visible: new Array(m) };
    for (let r = 0; r < m; r += 1) {
      const k = sheet.vector(sheet.k, r), j = sheet.keys[r];
      let dot = 0;
      for (let d = 0; d < width; d += 1) dot += made.product[r * width + d] = q[d] * k[d];
      const scaled = sheet.scale * dot, bias = sheet.bias === null ? 0 : sheet.bias[row * m + r];
      const capped = sheet.softcap === null ? scaled : sheet.softcap * Math.tanh(scaled / sheet.softcap);
      made.visible[r] = sheet.lo[row] <= j && j < sheet.hi[row] && bias > -Infinity;
      made.dot[r] = dot;
      made.scaled[r] = scaled;
      made.score[r] = made.visible[r] ? capped + bias : NaN;
      made.softmax[r] = made.visible[r] ? Math.exp(capped + bias - sheet.lse[row]) : 0;
    }
    return made;
  }

  /** Neurons in the chosen order: by their share in the variance of a score, largest first, or by number. */
  function ordered(sheet, row, order, corpus) {
    const by = { row: sheet.vector(sheet.row_share, row), text: sheet.text_share, corpus: corpus.score_variance_share }[order];
    const neurons = Array.from({ length: sheet.width }, (_, d) => d);
    return by && by.every(Number.isFinite) ? neurons.sort((a, b) => by[b] - by[a] || a - b) : neurons;
  }

  /** Which of a sheet's rows are drawn: those the filters leave, at most MAX_ROWS of them. */
  function keyRows(sheet, made, keep, only, span) {
    let rows = Array.from(sheet.keys, (_, r) => r).filter((r) => keep(sheet.keys[r]));
    if (only !== null) return rows.filter((r) => sheet.keys[r] === only);
    if (span === null && rows.length <= MAX_ROWS) return rows;
    if (span !== null) return rows.filter((r) => sheet.keys[r] >= span[0] && sheet.keys[r] < span[1]).slice(0, MAX_ROWS);
    return rows.sort((a, b) => made.softmax[b] - made.softmax[a] || a - b).slice(0, TOP_KEYS).sort((a, b) => a - b);
  }

  /** At most `most` neighbouring entries around the chosen one. */
  function around(list, chosen, most) {
    const first = Math.max(0, Math.min(list.indexOf(chosen) - (most >> 1), list.length - most));
    return list.slice(first, first + most);
  }

  const SIDES = { all: [null, null], aa: [0, 0], ab: [0, 1], ba: [1, 0], bb: [1, 1] };

  /** A view on the document that holds the figure of that name. `choose` is told what a person clicked. */
  function view(doc, { figure = "qk", tables = null, choose = () => {} } = {}) {
    const model = (name) => doc.get_model_by_name(`${figure}-${name}`);
    const plot = model("view");
    const { columns: COLUMN, lines: LINES, head_rows: HEAD_ROWS, foot_rows: FOOT_ROWS, row_pixels: ROW_PIXELS } = JSON.parse(plot.tags.find((tag) => typeof tag === "string"));
    const strip = model("strip"), sheets = model("sheets"), streams = model("streams");
    let state = { sheet: 0, query: 0, order: "row", side: "all", only: null, span: null, neurons: null };
    let filling = false;

    /** Rows of numbers as an image: Bokeh wants an array of its own kind, whose class `lse` is of. */
    function image(rows) {
      const Made = sheets.data.lse[0].constructor;
      return new Made(Float64Array.from(rows.flatMap((row) => Array.from(row))), [rows.length, rows[0].length]);
    }

    function segment(stream, position, side) {
      return side === null || (streams.data.segment[stream][position] ?? 0) === side;
    }

    /** Draw, and say in which order the neurons stand; `neurons` among the changes is an order to take over. */
    function show(changes = {}) {
      state = { ...state, ...changes };
      if (sheets.length === 0 || (sheets.data.name?.length ?? 0) === 0) return void clear();
      const sheet = sheetAt(sheets, Math.min(state.sheet, sheets.data.name.length - 1));
      const [querySide, keySide] = SIDES[state.side] ?? SIDES.all;
      const queries = Array.from(sheet.queries, (_, r) => r).filter((r) => segment(sheet.query_stream, sheet.queries[r], querySide));
      let row = queries.find((r) => sheet.queries[r] === state.query) ?? queries[0];
      if (row === undefined) return void clear();
      const made = multiply(sheet, row);
      const rows = keyRows(sheet, made, (j) => segment(sheet.key_stream, j, keySide), state.only, state.span);
      const slots = Math.max(rows.length, Math.min(queries.length, 24));
      const corpus = sheet.corpus;
      const drawn = { sheet, row, made, rows, corpus, queries: around(queries, row, slots), neurons: state.neurons ?? ordered(sheet, row, state.order, corpus) };
      filling = true;
      draw(drawn, Math.max(slots, 1) + (sheet.has_sink ? 1 : 0));
      filling = false;
      table(drawn);
      return drawn.neurons;
    }

    function clear() {
      for (const name of ["rows", "queries", "q-image", "k-image", "product-image", "lines-image", "scales", "labels", "links", "marks", "stems"]) {
        const source = model(name);
        source.data = Object.fromEntries(Object.keys(source.data).map((column) => [column, []]));
      }
      tables?.replaceChildren();
    }

    function draw({ sheet, row, made, rows, corpus, queries, neurons }, height) {
      const texts = (stream, position) => streams.data.texts[stream][position] ?? "";
      const inner = Bokeh.index.find_one?.(plot)?.frame?.bbox.width ?? plot.inner_width ?? 900;
      const most = Math.max(3, Math.floor(((COLUMN.query_token[1] - COLUMN.query_token[0]) / 1000) * inner / 6.7));
      const images = {};
      images.q = picture(queries.map((r) => sheet.vector(sheet.q, r)), neurons, COLUMN.q, queries.map((r) => short(texts(sheet.query_stream, sheet.queries[r]), 60)));
      images.k = picture(rows.map((r) => sheet.vector(sheet.k, r)), neurons, COLUMN.k, rows.map((r) => short(texts(sheet.key_stream, sheet.keys[r]), 60)));
      images.product = picture(rows.map((r) => made.visible[r] ? sheet.vector(made.product, r) : new Float64Array(sheet.width).fill(NaN)), neurons, COLUMN.product, images.k.tokens);
      const scales = { image: [], x: [], y: [], dw: [], dh: [] }, labels = { x: [], y: [], text: [], align: [], kind: [] };
      const label = (x, y, text, align, kind) => { labels.x.push(x); labels.y.push(y); labels.text.push(text); labels.align.push(align); labels.kind.push(kind); };
      const foot = -height - 0.1;
      for (const [name, drawn] of Object.entries(images)) {
        const limit = drawn.limit || 1, [left, right] = COLUMN[name];
        model(name + "-scale").setv({ low: -limit, high: limit });
        model(name + "-image").data = drawn.data;
        scales.image.push(image([Array.from({ length: 65 }, (_, i) => (i - 32) / 32)]));
        scales.x.push(left); scales.y.push(foot - 0.55); scales.dw.push(right - left); scales.dh.push(0.4);
        label(left, foot - 1.15, number(Number((-limit).toPrecision(3))), "left", name);
        label((left + right) / 2, foot - 1.15, "0", "center", name);
        label(right, foot - 1.15, number(Number(limit.toPrecision(3))), "right", name);
      }
      const finite = rows.filter((r) => made.visible[r]);
      const limit = Math.max(...finite.flatMap((r) => [Math.abs(made.scaled[r]), Math.abs(made.score[r])]), 0) || 1;
      const largest = Math.max(...finite.map((r) => made.softmax[r]), sheet.has_sink ? sheet.sink[row] : 0) || 1;
      const centre = (COLUMN.score[0] + COLUMN.score[1]) / 2, half = (COLUMN.score[1] - COLUMN.score[0]) / 2;
      const at = (value) => centre + half * value / limit;
      const width = COLUMN.softmax[1] - COLUMN.softmax[0];
      const line = (y, token, full, position, r, softmax, mark) => ({
        y, token, full, position, dot: r === null ? "–" : number(made.dot[r]), scaled: r === null ? "–" : number(made.scaled[r]),
        score: r === null ? "–" : number(made.score[r]), softmax: r !== null && !made.visible[r] ? "hidden" : number(softmax),
        scaled_left: r === null || !made.visible[r] ? NaN : Math.min(centre, at(made.scaled[r])), scaled_right: r === null || !made.visible[r] ? NaN : Math.max(centre, at(made.scaled[r])),
        score_left: r === null || !made.visible[r] ? NaN : Math.min(centre, at(made.score[r])), score_right: r === null || !made.visible[r] ? NaN : Math.max(centre, at(made.score[r])),
        softmax_right: COLUMN.softmax[0] + width * softmax / largest, alpha: mark ? 1 : 0.35, text: "",
      });
      const lines = rows.map((r, i) => { const full = texts(sheet.key_stream, sheet.keys[r]); return line(-i, short(full, most), short(full, 200), sheet.keys[r], r, made.softmax[r], made.visible[r]); });
      if (sheet.has_sink) lines.push(line(-rows.length, "sink", "learned sink: takes part in the softmax, has no key", -1, null, sheet.sink[row], true));
      model("rows").data = columnsOf(lines, Object.keys(model("rows").data));
      model("queries").data = columnsOf(queries.map((r, i) => { const full = texts(sheet.query_stream, sheet.queries[r]); return { y: -i, token: short(full, most), full: short(full, 200), position: sheet.queries[r], chosen: r === row }; }), ["y", "token", "full", "position", "chosen"]);
      const chosen = -queries.indexOf(row);
      model("marks").data = { left: [COLUMN.query_token[0]], right: [COLUMN.q[1] + 2], top: [chosen + 0.5], bottom: [chosen - 0.5] };
      const linked = rows.map((r, i) => [i, made.softmax[r] / largest]).filter(([, share]) => share > 0.02);
      model("links").data = { y0: linked.map(() => chosen), y: linked.map(([i]) => -i), alpha: linked.map(([, share]) => share) };
      if (2 * half * inner / 1000 > 90) label(centre, foot - 1.15, "0", "center", "score"); // else it would touch the ends' labels
      label(COLUMN.score[0], foot - 1.15, number(Number((-limit).toPrecision(3))), "left", "score");
      label(COLUMN.score[1], foot - 1.15, number(Number(limit.toPrecision(3))), "right", "score");
      label(COLUMN.softmax[0], foot - 1.15, "0", "left", "softmax");
      label(COLUMN.softmax[1], foot - 1.15, number(Number(largest.toPrecision(3))), "right", "softmax");
      const steps = ["× " + number(Number(sheet.scale.toPrecision(4))), ...(sheet.softcap === null ? [] : ["soft-cap " + number(sheet.softcap)]), ...(sheet.bias === null ? [] : ["+ bias"])];
      label(centre, foot - 2, (sheet.softcap === null && sheet.bias === null ? "" : "pale: before · ") + steps.join(", "), "center", "steps");
      facts(sheet, row, corpus, neurons, label);
      model("scales").data = scales;
      model("labels").data = labels;
      plot.y_range.setv({ start: -height - FOOT_ROWS, end: HEAD_ROWS });
      plot.height = Math.round(ROW_PIXELS * (height + HEAD_ROWS + FOOT_ROWS));
      stems(sheet, row, made);
    }

    /** Lines above the products: what each neuron does in this row, this text and the corpus; each on its own scale. */
    function facts(sheet, row, corpus, neurons, label) {
      const values = { row: sheet.vector(sheet.row_share, row), text: sheet.text_share, ...corpus };
      const data = { image: [], x: [], y: [], dw: [], dh: [], neuron: [], token: [], value: [] };
      Object.entries(LINES).forEach(([name, title], i) => {
        const y = HEAD_ROWS - 0.8 - i, found = values[name];
        const middle = name === "qk_sign_agreement" ? 0.5 : 0; // the neutral colour: neither sign prevails
        const limit = found ? Math.max(...Array.from(found, (v) => Math.abs(Number.isFinite(v) ? v - middle : 0))) || 1 : 0;
        label(COLUMN.product[0] - 6, y, title, "right", "fact");
        label(COLUMN.product[1] + 8, y, found ? (middle ? middle + " " : "") + "± " + number(Number(limit.toPrecision(3))) : "not in this run", "left", "fact");
        if (!found) return;
        data.image.push(image([neurons.map((d) => (found[d] - middle) / limit)]));
        data.neuron.push([neurons]);
        data.token.push([neurons.map(() => title)]);
        const error = corpus[name + "_se"];
        data.value.push([neurons.map((d) => number(found[d]) + (error ? " ± " + number(Number(error[d].toPrecision(2))) : ""))]);
        data.x.push(COLUMN.product[0]); data.y.push(y - 0.4); data.dw.push(COLUMN.product[1] - COLUMN.product[0]); data.dh.push(0.8);
      });
      model("lines-image").data = data;
    }

    /** A matrix of vectors as one image, neurons in order, first vector on top. */
    function picture(vectors, neurons, [left, right], tokens) {
      const upwards = vectors.map((_, i) => vectors.length - 1 - i);
      let limit = 0;
      for (const vector of vectors) for (const value of vector) if (Number.isFinite(value)) limit = Math.max(limit, Math.abs(value));
      const values = upwards.map((i) => neurons.map((d) => vectors[i][d]));
      const data = vectors.length === 0 ? { image: [], x: [], y: [], dw: [], dh: [], neuron: [], token: [], value: [] } : {
        image: [image(values)], x: [left], y: [0.5 - vectors.length], dw: [right - left], dh: [vectors.length],
        neuron: [upwards.map(() => neurons)], token: [upwards.map((i) => neurons.map(() => tokens[i]))],
        value: [values.map((line) => line.map(number))],
      };
      return { data, limit, tokens };
    }

    function columnsOf(lines, names) {
      return Object.fromEntries(names.map((name) => [name, lines.map((line) => line[name])]));
    }

    /** The whole row's softmax, where more keys are there than can be drawn. */
    function stems(sheet, row, made) {
      const whole = sheet.row_pattern ?? made.softmax;
      const long = whole.length > MAX_ROWS;
      strip.visible = long;
      if (!long) return;
      model("stems").data = { x: Array.from(whole, (_, j) => j), y: Array.from(whole) };
      strip.x_range.setv({ start: -1, end: whole.length });
      strip.y_range.setv({ start: 0, end: Math.max(...whole) || 1 });
      const [start, end] = state.span ?? [Math.max(0, state.query - 32), Math.min(whole.length, state.query + 32)];
      model("window").setv({ start, end });
      strip.below[0].axis_label = (state.span === null ? `drawn: the ${TOP_KEYS} heaviest keys; drag` : "key position; drag") + " the window for others";
    }

    function cells(line, texts, header) {
      for (const text of texts) {
        const cell = document.createElement(header ? "th" : "td");
        cell.textContent = text;
        line.append(cell);
      }
    }

    function sheetTable(caption, heads, lines) {
      const made = document.createElement("table");
      made.dataset.numbers = "";
      made.createCaption().textContent = caption;
      cells(made.createTHead().insertRow(), heads, true);
      const body = made.createTBody();
      for (const line of lines) cells(body.insertRow(), line, false);
      return made;
    }

    /** The same numbers as text: keys, and neurons. */
    function table({ sheet, row, corpus, neurons }) {
      if (tables === null) return;
      const data = model("rows").data;
      const keys = data.y.map((_, i) => [String(data.position[i] < 0 ? "" : data.position[i]), data.full[i], data.dot[i], data.scaled[i], data.score[i], data.softmax[i]]);
      const share = sheet.vector(sheet.row_share, row);
      const names = Object.keys(corpus).filter((name) => !name.endsWith("_se"));
      const lines = neurons.map((d) => [String(d), number(share[d]), number(sheet.text_share[d]), ...names.map((name) => number(corpus[name][d]) + (corpus[name + "_se"] ? " ± " + number(Number(corpus[name + "_se"][d].toPrecision(2))) : ""))]);
      tables.replaceChildren(
        sheetTable(`${sheet.name}: keys of query ${sheet.queries[row]}`, ["position", "key", "q·k", "× scale", "score", "softmax"], keys),
        sheetTable(`${sheet.name}: neurons`, ["neuron", "this row", "this text", ...names], lines),
      );
    }

    function tapped(name, apply) {
      const selected = model(name).selected;
      selected.properties.indices.change.connect(() => {
        const [i] = selected.indices;
        if (filling || i === undefined) return;
        const position = model(name).data.position[i];
        setTimeout(() => { // the tap tool is still at work
          selected.indices = [];
          if (position >= 0) apply(position);
        });
      });
    }
    tapped("queries", (query) => choose({ query }));
    tapped("rows", (only) => choose({ only: state.only === only ? null : only }));
    let timer;
    const brushed = () => {
      if (filling) return;
      clearTimeout(timer);
      timer = setTimeout(() => choose({ span: [Math.round(model("window").start), Math.round(model("window").end)] }), 120);
    };
    for (const end of ["start", "end"]) model("window").properties[end].change.connect(brushed);
    return { show, state: () => state, orders: ORDERS };
  }

  /** The page of one file: its controls choose, its figure follows. */
  function page(doc, settings) {
    const made = view(doc, { tables: document.getElementById("qk-tables"), choose: (changes) => made.show(changes) });
    for (const control of document.querySelectorAll("[data-field]")) {
      const numeric = control.dataset.field === "sheet";
      if (settings[control.dataset.field] !== undefined) control.value = settings[control.dataset.field];
      control.addEventListener("change", () => made.show({ [control.dataset.field]: numeric ? Number(control.value) : control.value, only: null }));
    }
    made.show(settings.state);
    return made;
  }

  /** The sheet of the explorer's page: every choice becomes part of the state, and comes back as what to show. */
  function join({ on, change, model }) {
    const views = new Map(), scroll = (figure) => document.getElementById(`${figure}-scroll`);
    let told = null;
    const choose = ({ query, only, span }) => {
      if (query !== undefined) change({ pin: query, pin_side: "query" });
      else if (only !== undefined) change({ only_key: only });
      else change({ key_span: span });
    };
    // Two texts side by side: the neurons of the second stand below the same neurons of the first.
    const draw = () => {
      let neurons = null;
      for (const { figure, query } of told?.texts ?? []) {
        if (model(`${figure}-view`) === null || scroll(figure).clientWidth === 0) continue;
        if (!views.has(figure)) views.set(figure, view(window.Bokeh.documents[0], { figure, tables: document.getElementById(`${figure}-tables`), choose }));
        neurons = views.get(figure).show({ ...told, query, neurons }) ?? neurons;
      }
    };
    on("neurons", (what) => { told = what; setTimeout(draw); }); // the figures come with the same message
    for (const figure of ["qk", "qk-b"]) new ResizeObserver(draw).observe(scroll(figure)); // tokens are cut to their column
  }
  if (typeof attnengine !== "undefined") join(attnengine);

  return { view, page, multiply, number };
})();

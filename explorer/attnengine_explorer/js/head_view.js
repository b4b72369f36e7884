// The head view: lines between two columns of tokens, for a page, a notebook or a file. `m` holds the Bokeh models of
// views/head_view.py. Everything that follows the mouse happens here and sends nothing.
"use strict";
function attnengineHeadView(m) {
  const MOST_LINES = 2500; // more are a grey mist, and slow
  const FAINTEST = 0.01; // of lines that nobody asked for
  const [LEFT, RIGHT] = [0.3, 0.7]; // where lines end, as views/head_view.py places tokens
  const BOX = 0.29;
  let hovered = null;
  let weights = new Float32Array(0);

  const one = (name) => m.options.data[name][0];
  const quietly = (source, data) => source.setv({ data }, { sync: false });

  // The weight of every line once heads, sentences and special tokens are filtered; 0 hides it.
  function weigh() {
    const { query, key, head, weight } = m.lines.data;
    const { on } = m.squares.data;
    const [asks, answers] = [m.left.data.segment, m.right.data.segment];
    const between = one("between");
    const [from, to] = between === "all" ? [-1, -1] : [..."ab"].map((_, i) => "ab".indexOf(between[i]));
    const hide = one("hide") > 0, special = m.right.data.special, rest = m.rest.data.value;
    const rows = m.left.data.y.length, least = one("threshold");
    weights = new Float32Array(weight.length);
    for (let i = 0; i < weight.length; i++) {
      const [q, k, h] = [query[i], key[i], head[i]];
      if (!on[h] || (hide && special[k])) continue;
      if (from >= 0 && (asks[q] !== from || answers[k] !== to)) continue;
      const w = hide ? weight[i] / rest[h * rows + q] : weight[i];
      if (w >= least) weights[i] = w;
    }
  }

  // The lines to draw: of the token under the mouse or the clicked one, else all; the heaviest where they are many.
  function chosen(token) {
    const { query, key } = m.lines.data;
    const mine = token === null ? null : token.side === "query" ? query : key;
    const picked = [];
    for (let i = 0; i < weights.length; i++) {
      if (weights[i] > (mine === null ? FAINTEST : 0) && (mine === null || mine[i] === token.at)) picked.push(i);
    }
    if (picked.length <= MOST_LINES) return picked;
    return picked.sort((a, b) => weights[b] - weights[a]).slice(0, MOST_LINES);
  }

  function drawLines(picked, token) {
    const { query, key, head } = m.lines.data, colours = m.squares.data.color, n = picked.length;
    const column = (value) => Float64Array.from({ length: n }, typeof value === "function" ? (_, i) => value(picked[i]) : () => value);
    quietly(m.drawn, {
      x0: column(LEFT), y0: column((i) => query[i]), x1: column(RIGHT), y1: column((i) => key[i]),
      cx0: column((LEFT + RIGHT) / 2), cy0: column((i) => query[i]), cx1: column((LEFT + RIGHT) / 2), cy1: column((i) => key[i]),
      alpha: column((i) => Math.min(1, Math.max(weights[i], token === null ? 0 : 0.06))),
      width: column((i) => (token === null ? 1.2 : 1.2 + 2 * weights[i])),
      color: picked.map((i) => colours[head[i]]),
    });
  }

  // Beside the other column: a strip a head, as dark as the weight, and the largest weight as a number.
  function drawAnswers(picked, token) {
    const strips = { x: [], y: [], width: [], alpha: [], color: [] };
    const numbers = { x: [], y: [], text: [], side: [] };
    const { query, key, head } = m.lines.data, { on, color, name } = m.squares.data;
    const shown = Array.from(on.keys()).filter((h) => on[h]);
    const rank = new Map(shown.map((h, i) => [h, i]));
    const largest = new Map();
    for (const i of token === null ? [] : picked) {
      const at = token.side === "query" ? key[i] : query[i];
      const width = BOX / shown.length;
      strips.x.push((token.side === "query" ? RIGHT + 0.01 : LEFT - 0.01 - BOX) + (rank.get(head[i]) + 0.5) * width);
      strips.y.push(at);
      strips.width.push(width);
      strips.alpha.push(0.75 * Math.min(1, weights[i]));
      strips.color.push(color[head[i]]);
      if (weights[i] > (largest.has(at) ? weights[largest.get(at)] : 0)) largest.set(at, i);
    }
    for (const [at, i] of largest) {
      if (weights[i] < 0.0005) continue;
      numbers.x.push(token.side === "query" ? 0.995 : 0.005);
      numbers.y.push(at);
      numbers.text.push(written(weights[i]) + (shown.length > 1 ? ` ${name[head[i]]}` : ""));
      numbers.side.push(token.side === "query" ? "right" : "left");
    }
    quietly(m.strips, strips);
    quietly(m.numbers, numbers);
    const mark = token === null ? { x: [], y: [], color: [] } : {
      x: [token.side === "query" ? LEFT - 0.01 - BOX / 2 : RIGHT + 0.01 + BOX / 2], y: [token.at],
      color: [one(token.side === "query" ? "query_color" : "key_color")],
    };
    quietly(m.mark, mark);
  }

  const written = (weight) => (weight >= 0.0995 ? weight.toFixed(3) : weight.toPrecision(2));

  function draw() {
    const pinned = one("pin") >= 0 ? { side: one("pin_side"), at: one("pin") - one(`first_${one("pin_side")}`) } : null;
    const there = pinned !== null && pinned.at >= 0 && pinned.at < side(pinned.side).data.y.length;
    const token = hovered ?? (there ? pinned : null);
    const picked = chosen(token);
    drawLines(picked, token);
    drawAnswers(picked, token);
  }

  const side = (name) => (name === "query" ? m.left : m.right);
  // Sources come one after another: they are drawn together in the next frame. The mouse is answered at once, the first
  // time in a frame, so that Bokeh, which paints in the frame after a change, paints in this one.
  let frame = null, stale = false;
  function next() {
    frame = null;
    if (stale) draw();
    stale = false;
  }
  const wait = () => { frame ??= requestAnimationFrame(next); };
  const redraw = () => { stale = true; wait(); };
  const answer = () => { if (frame !== null) return redraw(); draw(); wait(); };
  const refilter = () => { weigh(); redraw(); };

  function tokenAt(event) {
    const name = event.x < LEFT ? "query" : event.x > RIGHT ? "key" : null;
    const at = Math.round(event.y);
    return name !== null && at >= 0 && at < side(name).data.y.length ? { side: name, at } : null;
  }
  function hover(event) {
    const token = event === null ? null : tokenAt(event);
    if (token?.at === hovered?.at && token?.side === hovered?.side) return;
    hovered = token;
    answer();
  }
  function pin(event) {
    const token = tokenAt(event), first = token && one(`first_${token.side}`);
    const same = token && one("pin_side") === token.side && one("pin") === token.at + first;
    set({ pin: token && !same ? token.at + first : -1, pin_side: token?.side ?? "query" });
  }

  // Click: this head on or off, or, where clicks pick one head, only this. A second click at once: only this.
  let last = { head: -1, time: 0 };
  function pick(event) {
    const { x, y, on } = m.squares.data;
    const distance = (i) => Math.hypot(x[i] - event.x, y[i] - event.y);
    const head = Array.from(x.keys()).reduce((best, i) => (distance(i) < distance(best) ? i : best), 0);
    if (distance(head) > 0.7) return;
    const twice = last.head === head && performance.now() - last.time < 400;
    last = { head, time: performance.now() };
    const next = Uint8Array.from(on, (lit, i) => (twice || one("many") === 0 ? Number(i === head) : i === head ? 1 - lit : lit));
    if (next.some((lit) => lit)) m.squares.data = { ...m.squares.data, on: next };
  }

  // Set options and tell them: set({threshold: 0.1}); preview() does so without telling.
  const set = (values) => { m.options.data = { ...m.options.data, ...wrapped(values) }; };
  const preview = (values) => { quietly(m.options, { ...m.options.data, ...wrapped(values) }); };
  const wrapped = (values) => Object.fromEntries(Object.entries(values).map(([name, value]) => [name, [value]]));

  m.figure.on_event("mousemove", hover);
  m.figure.on_event("mouseleave", () => hover(null));
  m.figure.on_event("tap", pin);
  m.heads.on_event("tap", pick);
  m.heads.on_event("doubletap", pick);
  for (const source of [m.lines, m.squares, m.options]) source.properties.data.change.connect(refilter);
  refilter();
  return { set, preview };
}

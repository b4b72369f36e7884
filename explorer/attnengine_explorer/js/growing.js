// A run that is still going: how far it is and how old the numbers are; newer ones are fetched without losing the state.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const { send, on } = attnengine;
  const QUIET_MS = 10_000; // nobody moved anything for so long: the page may start again by itself
  let told = {};
  let behind = 0; // this machine's clock less the server's, in seconds
  let touched = performance.now();

  const n = (value) => value.toLocaleString("en-US");
  function age(seconds) {
    if (seconds < 100) return `${Math.round(seconds)} s`;
    return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  }

  function words() {
    if (told.problem) return told.problem;
    if (told.merging) return "making tables of what is there…";
    if (told.newer) return "newer numbers are there";
    const old = age(Math.max(0, Date.now() / 1000 - behind - told.at));
    return `running: ${n(told.tokens)} of ${n(told.tokens_planned)} tokens · these numbers: ${n(told.merged_tokens)} tokens, ${old} old`;
  }

  function show() {
    const any = Object.keys(told).length > 0;
    at("growth").hidden = !any;
    if (!any) return;
    at("growth-words").textContent = words();
    at("merge").hidden = !told.going || told.merging === true || told.shards <= told.merged_shards;
    at("refresh").hidden = !told.newer;
  }

  // The link holds the state; where each part was scrolled to is kept beside it.
  function refresh() {
    const places = [...document.querySelectorAll(".page, #heads")].map((part) => part.scrollTop);
    sessionStorage.setItem("scrolled", JSON.stringify(places));
    location.reload();
  }

  function scrollBack() {
    const places = JSON.parse(sessionStorage.getItem("scrolled") ?? "[]");
    sessionStorage.removeItem("scrolled");
    document.querySelectorAll(".page, #heads").forEach((part, i) => { part.scrollTop = places[i] ?? 0; });
  }

  function tick() {
    show();
    const whole = document.querySelector('[data-note="link"]').textContent === "";
    if (told.newer && whole && performance.now() - touched > QUIET_MS) refresh();
  }

  on("run", (found) => {
    told = found;
    if (found.now) behind = Date.now() / 1000 - found.now;
    show();
  });
  for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(kind, () => { touched = performance.now(); }, { passive: true });
  at("merge").addEventListener("click", () => send({ kind: "merge" }));
  at("refresh").addEventListener("click", refresh);
  let once = () => { once = () => {}; requestAnimationFrame(scrollBack); };
  on("state", () => once());
  setInterval(tick, 1000);
})();

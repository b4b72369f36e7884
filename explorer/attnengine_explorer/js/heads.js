// The column of heads: filters as chips, and the form that adds one.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const { change, element, on } = attnengine;
  let filters = [];

  const listed = (filter) => ("type" in filter ? ["type", filter.type] : [filter.statistic, filter.low, filter.high]);
  const set = (wanted) => change({ filters: wanted });
  on("state", (state) => { filters = state.filters.map(listed); });

  on("filters", (words) => {
    at("chips").replaceChildren(...words.map((text, i) => {
      const chip = element("button", text, "chip");
      chip.title = "Remove this filter";
      chip.addEventListener("click", () => set(filters.filter((_, k) => k !== i)));
      return chip;
    }));
  });

  const end = (id) => (at(id).value === "" ? null : Number(at(id).value));

  at("filter-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const [low, high] = [end("filter-low"), end("filter-high")];
    if (low === null && high === null) return at("filter-low").focus();
    set([...filters, [at("filter-statistic").value, low, high]]);
    at("filter").open = false;
  });
  at("filter-type")?.addEventListener("change", (event) => {
    if (event.target.value) set([...filters, ["type", event.target.value]]);
    event.target.value = "";
    at("filter").open = false;
  });
})();

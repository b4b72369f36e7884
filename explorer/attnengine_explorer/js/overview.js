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

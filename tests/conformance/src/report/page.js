"use strict";
const buttons = [...document.querySelectorAll("nav button")];
const search = document.querySelector("nav input");
let shown = "all";

function filter() {
  const wanted = search.value.trim().toLowerCase();
  let left = 0;
  for (const section of document.querySelectorAll("main section")) {
    let any = false;
    for (const row of section.querySelectorAll("details")) {
      const is = shown === "all" || row.classList.contains(shown);
      row.hidden = !(is && row.textContent.toLowerCase().includes(wanted));
      any ||= !row.hidden;
      left += !row.hidden;
    }
    section.hidden = !any;
  }
  document.getElementById("none").hidden = left > 0;
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    shown = button.dataset.show;
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    filter();
  });
}
search.addEventListener("input", filter);
const linked = document.getElementById(location.hash.slice(1));
if (linked instanceof HTMLDetailsElement) linked.open = true;

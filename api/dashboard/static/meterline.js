// What the pages do beyond what the server renders: all of it is a comfort, and none of it holds a rule.
(() => {
  "use strict";
  const told = (text) => {
    const place = document.getElementById("told");
    if (!place) return;
    place.textContent = text;
    clearTimeout(told.timer);
    told.timer = setTimeout(() => { place.textContent = ""; }, 4000);
  };

  // The form for signing in tells the reader's time zone.
  for (const field of document.querySelectorAll("[data-zone]")) {
    field.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      told("Copied");
    } catch {
      told("The browser does not let this page copy");
    }
  });

  // A choice that is all there is to a form needs no button.
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-submit-on-change]");
    if (form) form.requestSubmit();
  });

  // An act that cannot be undone is asked for twice.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  // A part of a page that could not be loaded says so, and can be asked for again.
  document.addEventListener("htmx:error", () => told("A part of this page could not be loaded"));
})();

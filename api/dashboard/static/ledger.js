// A live ledger: pause and go on, whether it is connected, and no more rows than a page can bear.
(() => {
  "use strict";
  let waiting = [];
  let isPaused = false;
  const liveOf = (event) => (event.target instanceof Element ? event.target.closest("[data-live]") : null);

  const say = (text, look) => {
    const state = document.getElementById("ledger-state");
    if (!state) return;
    state.querySelector("[data-state]").textContent = text;
    state.querySelector(".dot").className = `dot ${look}`.trim();
  };
  const sayState = () => (isPaused ? say("paused: new entries wait", "old") : say("live", ""));

  const pause = (is) => {
    isPaused = is;
    document.querySelector("[data-live-go]")?.setAttribute("aria-pressed", String(!is));
    document.querySelector("[data-live-pause]")?.setAttribute("aria-pressed", String(is));
    if (!is) {
      for (const go of waiting) go();
      waiting = [];
    }
    sayState();
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-live-pause]")) pause(true);
    if (event.target.closest("[data-live-go]")) pause(false);
  });

  document.addEventListener("htmx:sse:after:connection", (event) => {
    const rows = liveOf(event);
    if (!rows) return;
    delete rows.dataset.triedTimes;
    sayState();
  });
  document.addEventListener("htmx:sse:error", (event) => {
    if (liveOf(event)) say("not connected, and tried again", "off");
  });
  document.addEventListener("htmx:sse:close", (event) => {
    if (event.detail?.reason !== "removed" && document.getElementById("ledger-state")) say("no longer live", "off");
  });

  // A stream that breaks off is begun again by the extension, but not one that was refused, or not reached, at first.
  document.addEventListener("htmx:finally:request", (event) => {
    const rows = liveOf(event);
    if (!rows || event.target !== rows || event.detail.ctx.response?.headers.get("Content-Type")?.includes("event-stream")) return;
    say("not connected, and tried again", "off");
    const times = Number(rows.dataset.triedTimes ?? 0);
    rows.dataset.triedTimes = times + 1;
    const wait = Math.min(1000 * 2 ** times, 60_000) * (0.7 + 0.6 * Math.random());
    setTimeout(() => {
      if (rows.isConnected) htmx.ajax("GET", rows.getAttribute("hx-sse:connect"), { source: rows });
    }, wait);
  });

  // While it is paused nothing is read any more, so the server keeps what comes; on going on nothing is missed.
  document.addEventListener("htmx:sse:before:message", (event) => {
    if (liveOf(event) && isPaused) event.detail.waitUntil(new Promise((go) => waiting.push(go)));
  });

  document.addEventListener("htmx:sse:after:message", (event) => {
    const rows = liveOf(event);
    if (!rows) return;
    const kept = Number(rows.dataset.rowsMax);
    for (const row of [...rows.querySelectorAll("tr[id]")].slice(kept)) row.remove();
  });
})();

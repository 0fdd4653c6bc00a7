// Many periods as a line that can be looked into: dragging zooms in, a double click goes back. Its figures are those of the
// table beside it, which has them exactly; without this script the server's bars stay.
(() => {
  "use strict";
  let loading;
  const loaded = (place) => {
    loading ??= new Promise((done, failed) => {
      const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: place.dataset.style });
      const script = Object.assign(document.createElement("script"), { src: place.dataset.script });
      script.addEventListener("load", done);
      script.addEventListener("error", failed);
      document.head.append(style, script);
    });
    return loading;
  };

  const draw = async (place) => {
    const rows = [...document.querySelectorAll("#by-period-rows tr[data-at]")].reverse();
    await loaded(place);
    const look = getComputedStyle(document.documentElement);
    const colour = (name) => look.getPropertyValue(name).trim();
    const axis = { stroke: colour("--ink-3"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
    const told = (plot, value) => (value == null ? "–" : value.toLocaleString("en").replaceAll(",", "\u2009"));
    place.hidden = false;
    const size = () => ({ width: place.clientWidth, height: 220 });
    const plot = new uPlot(
      {
        ...size(),
        tzDate: (at) => uPlot.tzDate(new Date(at * 1000), place.dataset.zone),
        // A wide axis: uPlot cuts what does not fit.
        axes: [axis, { ...axis, size: 72, values: (_, ticks) => ticks.map((tick) => told(null, tick)) }],
        series: [
          { label: "Time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
          { label: place.dataset.measure, stroke: colour("--accent"), fill: colour("--accent-soft"), width: 1.5, value: told },
        ],
      },
      [rows.map((row) => Number(row.dataset.at)), rows.map((row) => Number(row.dataset.value))],
      place,
    );
    place.nextElementSibling.hidden = true;
    new ResizeObserver(() => plot.setSize(size())).observe(place);
  };

  // It weighs more than all the rest of the page, so it comes when it is asked for.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-lines-of]");
    if (!button) return;
    button.hidden = true;
    draw(document.getElementById(button.dataset.linesOf)).catch(() => { button.hidden = false; });
  });
  const offer = () => {
    for (const button of document.querySelectorAll("[data-lines-of]")) button.hidden = false;
  };
  document.addEventListener("htmx:after:swap", offer);
  // Figures that were ready have come with the page.
  offer();
})();

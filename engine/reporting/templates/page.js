"use strict";
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const family = getComputedStyle(document.body).fontFamily;

  function template(isDark) {
    const ink = isDark ? "#c3cad3" : "#434b56", grid = isDark ? "#262c35" : "#eaedf1";
    const zero = isDark ? "#47505c" : "#b9c0c9", card = isDark ? "#20262f" : "#ffffff";
    const axis = {
      gridcolor: grid, zerolinecolor: zero, zerolinewidth: 1, linecolor: zero, automargin: true, ticks: "",
      ticklabelstandoff: 4, title: { standoff: 10, font: { size: 12.5 } },
    };
    return {
      layout: {
        font: { family, size: 12, color: ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        margin: { l: 8, r: 10, t: 10, b: 8 }, xaxis: axis, yaxis: axis, bargap: 0.28, bargroupgap: 0.08,
        legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: 12 } },
        hoverlabel: { bgcolor: card, bordercolor: zero, font: { family, size: 12, color: isDark ? "#e7eaee" : "#171b21" } },
        dragmode: coarse ? false : "zoom",
      },
    };
  }

  const begun = performance.now();
  const places = figures.map((_, i) => document.getElementById(`figure-${i}`));
  for (const [i, figure] of figures.entries()) {
    figure.layout.template = template(dark.matches);
    await Plotly.newPlot(places[i], figure.data, figure.layout, { responsive: true, displayModeBar: false, showTips: false });
  }
  document.documentElement.dataset.drawn = String(places.length);
  document.documentElement.dataset.drawnIn = String(Math.round(performance.now() - begun));

  const restyle = (isDark, width) =>
    Promise.all(places.map((place) => Plotly.relayout(place, { template: template(isDark), width, autosize: width === undefined })));
  dark.addEventListener("change", () => restyle(dark.matches));
  addEventListener("beforeprint", () => restyle(false, 640));
  addEventListener("afterprint", () => restyle(dark.matches));

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.classList.remove("here");
      links.get(entry.target.id)?.classList.add("here");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  for (const target of document.querySelectorAll("main > [id]")) seen.observe(target);
})();

(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paints = {
    light: { ink: "#1d2330", soft: "#a2a9b5", grid: "#e3e6ec", box: "#ffffff" },
    dark: { ink: "#e4e7ee", soft: "#6b7382", grid: "#343a46", box: "#23272f" },
  };
  const clear = "rgba(0,0,0,0)";

  function painted(layout, paint) {
    const copy = {
      ...layout,
      paper_bgcolor: clear,
      plot_bgcolor: clear,
      font: { ...layout.font, color: paint.ink },
      modebar: { bgcolor: clear, color: paint.soft, activecolor: paint.ink },
      hoverlabel: { ...layout.hoverlabel, bgcolor: paint.box, bordercolor: paint.grid, font: { color: paint.ink } },
    };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) {
        copy[name] = { ...layout[name], gridcolor: paint.grid, zerolinecolor: paint.grid, linecolor: paint.grid };
      }
    }
    return copy;
  }

  const plots = [...document.querySelectorAll("div.plot")].map((place) => ({
    place,
    figure: JSON.parse(place.nextElementSibling.textContent),
  }));

  function draw(paint, width) {
    for (const { place, figure } of plots) {
      const layout = painted(figure.layout, paint);
      if (width) layout.width = width;
      Plotly.react(place, figure.data, layout, {
        responsive: !width,
        displayModeBar: window.innerWidth > 700 ? "hover" : false,
        displaylogo: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      });
    }
  }

  // Lists of features: the form appears only where it works.
  for (const list of document.querySelectorAll("div.features")) {
    const items = [...list.querySelectorAll("details.feature")];
    const [filter, sort, count] = ["input.filter", "select.sort", "span.count"].map((name) => list.querySelector(name));
    const texts = new Map(items.map((item) => [item, item.textContent.toLowerCase()]));
    const value = (item) => item.getAttribute(`data-${sort.value.replaceAll("_", "-")}`);

    function arrange() {
      const falls = sort.selectedOptions[0].dataset.falls === "1" ? -1 : 1;
      const wanted = filter.value.toLowerCase();
      // what has no value comes last, whichever way
      const compared = (a, b) =>
        (value(a) === null) - (value(b) === null) || falls * (Number(value(a)) - Number(value(b))) || 0;
      list.append(...items.toSorted(compared));
      for (const item of items) item.hidden = !texts.get(item).includes(wanted);
      count.textContent = `${items.filter((item) => !item.hidden).length} of ${items.length}`;
    }
    filter.addEventListener("input", arrange);
    sort.addEventListener("change", arrange);
    list.querySelector("p.tools").hidden = false;
    arrange();
  }

  const now = () => (dark.matches ? paints.dark : paints.light);

  // plotly.js is kept packed; the policy of the page lets nothing run but exactly what was packed.
  async function load() {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  async function start() {
    if (!plots.length) return;
    if (typeof DecompressionStream === "undefined") {
      document.getElementById("no-figures").hidden = false;
      return;
    }
    await load();
    draw(now());
    dark.addEventListener("change", () => draw(now()));
    window.addEventListener("beforeprint", () => draw(paints.light, 680));
    window.addEventListener("afterprint", () => draw(now()));
  }
  start();
})();

(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const themes = {
    light: { ink: "#1d2330", soft: "#a2a9b5", grid: "#e3e6ec", box: "#ffffff" },
    dark: { ink: "#e4e7ee", soft: "#6b7382", grid: "#343a46", box: "#23272f" },
  };
  const transparent = "rgba(0,0,0,0)";

  function themed(layout, theme) {
    const copy = {
      ...layout,
      paper_bgcolor: transparent,
      plot_bgcolor: transparent,
      font: { ...layout.font, color: theme.ink },
      modebar: { bgcolor: transparent, color: theme.soft, activecolor: theme.ink },
      hoverlabel: { ...layout.hoverlabel, bgcolor: theme.box, bordercolor: theme.grid, font: { color: theme.ink } },
    };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) {
        copy[name] = { ...layout[name], gridcolor: theme.grid, zerolinecolor: theme.grid, linecolor: theme.grid };
      }
    }
    return copy;
  }

  const plots = [...document.querySelectorAll("div.plot")].map((place) => ({
    place,
    figure: JSON.parse(place.nextElementSibling.textContent),
  }));

  function draw(theme, width) {
    for (const { place, figure } of plots) {
      const layout = themed(figure.layout, theme);
      if (width) layout.width = width;
      Plotly.react(place, figure.data, layout, {
        responsive: !width,
        displayModeBar: window.innerWidth > 700 ? "hover" : false,
        displaylogo: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      });
    }
  }

  // Lists of features: the form is shown only when scripts run.
  for (const list of document.querySelectorAll("div.features")) {
    const items = [...list.querySelectorAll("details.feature")];
    const [filter, sort, count] = ["input.filter", "select.sort", "span.count"].map((name) => list.querySelector(name));
    const texts = new Map(items.map((item) => [item, item.textContent.toLowerCase()]));
    const value = (item) => item.getAttribute(`data-${sort.value.replaceAll("_", "-")}`);

    function arrange() {
      const direction = sort.selectedOptions[0].dataset.descending === "1" ? -1 : 1;
      const query = filter.value.toLowerCase();
      // items without a value come last in both directions
      const compare = (a, b) =>
        (value(a) === null) - (value(b) === null) || direction * (Number(value(a)) - Number(value(b))) || 0;
      list.append(...items.toSorted(compare));
      for (const item of items) item.hidden = !texts.get(item).includes(query);
      count.textContent = `${items.filter((item) => !item.hidden).length} of ${items.length}`;
    }
    filter.addEventListener("input", arrange);
    sort.addEventListener("change", arrange);
    list.querySelector("p.tools").hidden = false;
    arrange();
  }

  const currentTheme = () => (dark.matches ? themes.dark : themes.light);

  // plotly.js is compressed; the page's policy allows exactly the script that was compressed.
  async function load() {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (character) => character.charCodeAt(0));
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
    draw(currentTheme());
    dark.addEventListener("change", () => draw(currentTheme()));
    window.addEventListener("beforeprint", () => draw(themes.light, 680));
    window.addEventListener("afterprint", () => draw(currentTheme()));
  }
  start();
})();

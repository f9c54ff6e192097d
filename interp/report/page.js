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

  const now = () => (dark.matches ? paints.dark : paints.light);
  draw(now());
  dark.addEventListener("change", () => draw(now()));
  window.addEventListener("beforeprint", () => draw(paints.light, 680));
  window.addEventListener("afterprint", () => draw(now()));
})();

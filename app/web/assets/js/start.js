// Runs before the first paint, so it is a classic script: begins to load the view of the address, and sets the theme.
(() => {
  const { home = "", job = "" } = document.currentScript?.dataset ?? {};
  for (const href of (location.hash.startsWith("#/jobs/") ? job : home).split(" ")) {
    const kind = href.endsWith(".css") ? { rel: "preload", as: "style" } : { rel: "modulepreload" };
    document.head.append(Object.assign(document.createElement("link"), { ...kind, href }));
  }

  // "auto" follows the system. Whoever changes the stored theme dispatches a "theme" event on the window.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    let theme = "auto";
    try {
      theme = localStorage.getItem("theme") ?? "auto";
    } catch {} // storage can be switched off
    const isDark = theme === "dark" || (theme === "auto" && system.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
  };
  system.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab
  addEventListener("theme", apply);
  apply();
})();

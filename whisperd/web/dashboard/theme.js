// Before the first paint, so that who chose dark never sees a flash of light.
try {
  const chosen = localStorage.getItem("whisperd.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // no storage: the system's choice holds
}

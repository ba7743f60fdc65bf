// Light, dark, or what the system says; and what this browser remembers.
import { computed, signal } from "./vendor/preact.js";

const KEPT = "whisperd.theme";
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(system.matches);
system.addEventListener("change", () => {
  systemIsDark.value = system.matches;
});
export const theme = signal(root.dataset.theme ?? "system");
export const isDark = computed(() => (theme.value === "system" ? systemIsDark.value : theme.value === "dark"));

export function choose(chosen) {
  if (chosen === "system") delete root.dataset.theme;
  else root.dataset.theme = chosen;
  keep(KEPT, chosen === "system" ? null : chosen);
  theme.value = chosen;
}

/** Remembered by this browser, where it lets us; null: forgotten. */
export function keep(name, text) {
  try {
    if (text === null) localStorage.removeItem(name);
    else localStorage.setItem(name, text);
  } catch {
    // private mode: forgotten with the tab
  }
}

export function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/* The theme that somebody chose, before anything is drawn: this is no module, which would come later. */

try {
  const theme = localStorage.getItem("kqv-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage, no choice: the system's theme.
}

// The dashboard. What it shows, it asks the daemon for.
const answer = await fetch("health");
const health = await answer.json();
document.getElementById("app").textContent = `whisperd ${health.version}: ${health.status}`;

// A small chart of one or two lines over time. What it shows is also said in a sentence, for who cannot see it.
import { html, useEffect, useRef } from "../vendor/preact.js";
import uPlot from "../vendor/uplot.js";
import { isDark } from "../looks.js";

const HEIGHT = 92;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** `lines`: [{label, values, colour: "--a-variable"}], over `times` in Unix seconds; a null is a gap. */
export function Chart({ title, value, note, times, lines, write, top, steps }) {
  const box = useRef();
  const drawn = useRef(null);
  const dark = isDark.value; // colours are read when it is drawn
  const enough = times.length > 1;
  const values = [times, ...lines.map((line) => line.values)];
  useEffect(() => {
    const place = box.current; // none, when it was left before it was drawn
    if (!place) return undefined;
    const plot = new uPlot(options(place, lines, { write, top, steps }), values, place);
    const resize = new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT }));
    resize.observe(place);
    drawn.current = plot;
    return () => {
      resize.disconnect();
      plot.destroy();
      drawn.current = null;
    };
  }, [enough, dark]);
  useEffect(() => void drawn.current?.setData(values), [times]);
  return html`<figure class="chart">
    <figcaption><span class="name">${title}</span><span class="value">${value}</span></figcaption>
    ${!enough
      ? html`<p class="thin">Nothing measured yet.</p>`
      : html`<div class="plot" ref=${box} aria-hidden="true"></div>
          ${lines.length > 1 && html`<p class="legend">${lines.map((line) => html`<span key=${line.label}><i class=${line.mark}></i>${line.label}</span>`)}</p>`}
          <p class="hidden">${lines.map((line) => said(line, write)).join(" ")}</p>`}
    ${note && html`<p class="thin">${note}</p>`}
  </figure>`;
}

function said({ label, values }, write) {
  const measured = values.filter((value) => value !== null && value !== undefined);
  if (!measured.length) return `${label}: nothing measured.`;
  const last = measured[measured.length - 1];
  return `${label}: ${write(last)} at last, between ${write(Math.min(...measured))} and ${write(Math.max(...measured))}.`;
}

function options(box, lines, { write, top, steps }) {
  const faint = colour("--line");
  const text = colour("--soft");
  const font = "11px system-ui, sans-serif";
  const axis = { stroke: text, font, ticks: { show: false }, grid: { stroke: faint, width: 1 } };
  return {
    width: box.clientWidth,
    height: HEIGHT,
    padding: [6, 6, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(top ?? 0, (high ?? 0) * 1.1, 1e-3)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 20, space: 70, values: (_, ticks) => ticks.map(hour) },
      { ...axis, size: 52, space: 30, ...(steps ? { incrs: steps } : {}), values: (_, ticks) => ticks.map(write) },
    ],
    series: [{}, ...lines.map(styled)],
  };
}

function styled(line) {
  const stroke = colour(line.colour);
  return { label: line.label, stroke, width: 1.5, fill: line.filled ? `${stroke}22` : undefined, dash: line.dash, points: { show: false } };
}

const hour = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

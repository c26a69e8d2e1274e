// Elements, numbers and times, as every part of the page writes them. Texts go in as text only.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A number with a small unit behind it.
export function tell(element, number, unit = "") {
  const text = unit ? `${number} ${unit}` : `${number}`;
  if (element.dataset.told === text) return;
  element.dataset.told = text;
  element.replaceChildren(`${number}`, ...(unit ? [make("small", {}, ` ${unit}`)] : []));
}

// Seconds as [number, unit].
export function spanOf(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return ["–", ""];
  if (seconds < 0.0995) return [(seconds * 1e3).toFixed(seconds < 0.00995 ? 1 : 0), "ms"];
  if (seconds < 0.9995) return [(seconds * 1e3).toFixed(0), "ms"];
  if (seconds < 59.5) return [seconds.toFixed(seconds < 9.95 ? 1 : 0), "s"];
  if (seconds < 3570) return [(seconds / 60).toFixed(0), "min"];
  return [(seconds / 3600).toFixed(1), "h"];
}

export const span = (seconds) => spanOf(seconds).join(" ").trim();

// "model~0123456789abcdef..." as people tell one from another.
export const shortId = (jobId) => jobId.slice(jobId.lastIndexOf("~") + 1).slice(0, 8);

export const tenantName = (tenant) => tenant || "(no tenant)";

export function sparkline(element, values) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return element.replaceChildren();
  const most = Math.max(...known) || 1;
  const name = "http://www.w3.org/2000/svg";
  const svg = element.firstChild ?? element.appendChild(document.createElementNS(name, "svg"));
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  const path = svg.firstChild ?? svg.appendChild(document.createElementNS(name, "path"));
  let line = "";
  values.forEach((value, at) => {
    if (value === null) return;
    const x = (100 * at) / (values.length - 1);
    line += `${line ? "L" : "M"}${x.toFixed(1)} ${(28 - (26 * value) / most).toFixed(1)}`;
  });
  path.setAttribute("d", line);
}

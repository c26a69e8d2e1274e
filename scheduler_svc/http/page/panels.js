// The numbers, the queue, the workers and the lives of jobs, drawn from what is known.

import { $, make, say, shortId, span, spanOf, sparkline, tell, tenantName } from "./dom.js";

const MAX_TENANTS = 12, MAX_ROWS = 14;
const BAD = new Set(["error", "cancelled", "deadline"]);

const sum = (list, of) => list.reduce((total, each) => total + (of(each) || 0), 0);

export function drawTiles(store) {
  const { state } = store, lanes = store.liveLanes();
  const running = sum(lanes, (lane) => lane.running), places = sum(state.workers, (w) => w.places);
  tell($("t-running"), lanes.length ? running : state.claimed, places ? `of ${places}` : "");
  say($("t-running-sub"), `on ${state.workers.length} ${state.workers.length === 1 ? "worker" : "workers"}`);
  const inLanes = sum(lanes, (lane) => lane.waiting);
  tell($("t-waiting"), state.queue.num + inLanes);
  say($("t-waiting-sub"), inLanes ? `${inLanes} of them in lanes` : state.queue.num ? "in the queue" : "nobody");
  tell($("t-tokens"), Math.round(store.rates.at(-1) ?? 0));
  quantiles(store, "first_token_s", "first");
  quantiles(store, "between_tokens_s", "between");
  drawCache(store, lanes);
  sparkline($("s-tokens"), store.rates);
  sparkline($("s-first"), store.firsts);
  sparkline($("s-between"), store.betweens);
}

function quantiles(store, name, id) {
  const half = store.quantile(name, 0.5), most = store.quantile(name, 0.95);
  tell($(`t-${id}`), ...spanOf(half));
  say($(`t-${id}-sub`), half === null ? "none of late" : `19 of 20 in ${span(most)}`);
}

function drawCache(store, lanes) {
  const workers = store.state.workers;
  const used = lanes.length ? sum(lanes, (l) => l.used) : sum(workers, (w) => w.used);
  const total = lanes.length ? sum(lanes, (l) => l.blocks) : sum(workers, (w) => w.blocks);
  const share = total ? used / total : 0;
  tell($("t-blocks"), total ? `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}` : "–", total ? "%" : "");
  say($("t-blocks-sub"), total ? `${used} of ${total}` : "");
  $("m-blocks").style.width = `${100 * share}%`;
  const cached = sum(lanes, (l) => l.cached), computed = sum(lanes, (l) => l.computed);
  const hits = cached + computed ? cached / (cached + computed) : null;
  tell($("t-prefix"), hits === null ? "–" : (100 * hits).toFixed(hits < 0.0995 ? 1 : 0), hits === null ? "" : "%");
  say($("t-prefix-sub"), hits === null ? "" : `${cached} tokens reused`);
}

export function drawQueue(store) {
  const { num, tenants } = store.state.queue, box = $("queue");
  say($("queue-note"), num ? `${num} ${num === 1 ? "job waits" : "jobs wait"}, by tenant and priority` : "");
  if (!num) return box.replaceChildren(make("p", { class: "empty" }, "Nobody waits: what comes is run at once."));
  const most = Math.max(...tenants.map((each) => each.num));
  const shown = [...tenants].sort((a, b) => b.num - a.num).slice(0, MAX_TENANTS);
  box.replaceChildren(...shown.map((each) => tenantLine(each, most)));
  if (tenants.length > shown.length) box.append(make("p", { class: "quiet" }, `and ${tenants.length - shown.length} other tenants`));
}

function tenantLine({ tenant, num, by_priority: priorities, oldest_s: oldest }, most) {
  const stack = make("div", { class: "stack" });
  for (const [priority, count] of priorities) {
    const part = make("span", { title: `priority ${priority}: ${count}` }, count / most > 0.12 ? `${count}` : "");
    part.style.flexGrow = count;
    part.style.opacity = 0.45 + (0.55 * (priority + 10)) / 20;
    stack.append(part);
  }
  const rest = make("i");
  rest.style.flexGrow = most - num;
  stack.append(rest);
  const told = priorities.map(([priority, count]) => `${count} of priority ${priority}`).join(", ");
  stack.setAttribute("role", "img");
  stack.setAttribute("aria-label", told);
  return make("div", { class: "tenant" },
    make("span", { class: "name", title: tenantName(tenant) }, tenantName(tenant)), stack,
    make("span", { class: "oldest" }, `${num}, oldest ${span(oldest)}`));
}

export function drawWorkers(store) {
  const { workers } = store.state, box = $("workers");
  const holders = new Set(workers.map((each) => each.holder)).size;
  say($("workers-note"), workers.length ? `driven by ${holders} ${holders === 1 ? "scheduler" : "schedulers"}` : "");
  if (!workers.length) return box.replaceChildren(make("p", { class: "empty" }, "No worker is driven. Jobs are kept, and wait for one."));
  box.replaceChildren(...workers.map((worker) => workerLine(worker, store.lanes.get(worker.worker))));
}

function workerLine(worker, lane) {
  const used = lane?.used ?? worker.used, meter = make("span");
  meter.style.width = worker.blocks ? `${(100 * used) / worker.blocks}%` : "0";
  const rows = lane ? `${lane.running} of ${lane.places} places` : `${worker.places} places`;
  const pace = worker.step_us ? `, a step in ${span(worker.step_us / 1e6)}` : ", idle";
  const stages = lane?.stages > 1 ? `, ${lane.stages} stages` : "";
  return make("div", { class: "worker" },
    make("span", { class: "name" }, worker.worker), make("span", {}, rows + pace + stages),
    make("span", { class: "by", title: worker.holder }, `driven by ${worker.holder}, epoch ${worker.epoch}`),
    make("div", { class: "meter", title: `${used} of ${worker.blocks} blocks` }, meter));
}

// The parts of a job's life, in seconds of the service's clock; null where nobody saw them.
export function lifeOf(job, nowS) {
  const { told } = job, begun = told.arrival_s;
  const ended = told.ended_s || job.endedS || null;
  const waits = told.state === "queued" && !job.admittedS;
  const claimed = told.queued_s === null || told.queued_s === undefined ? null : begun + told.queued_s;
  const admitted = waits ? null : (job.admittedS ?? claimed);
  return { begun, admitted, first: job.firstS ?? null, ended, until: ended ?? nowS, waits };
}

export function stateOf(job) {
  const told = job.told;
  const reasons = told.outputs?.map((output) => output.reason).filter(Boolean) ?? [];
  const reason = told.state === "ended" || job.endedS ? (reasons[0] ?? job.reason) : null;
  if (reason) return [reason, BAD.has(reason) ? "bad" : ""];
  const progress = [...job.progress.values()];
  if (told.state === "queued" && !job.admittedS) return ["queued", ""];
  if (progress.length && progress.every((each) => each.state === "waiting")) return ["waits at the worker", ""];
  return [job.firstS ? "decodes" : "runs", "on"];
}

export const tokensOf = (job) =>
  Math.max(sum(job.told.outputs ?? [], (output) => output.tokens), sum([...job.progress.values()], (each) => each.tokens));

export function drawLives(store, choose) {
  const body = $("lives").tBodies[0], jobs = store.lives().slice(0, MAX_ROWS), nowS = store.nowS();
  const spans = jobs.map((job) => lifeOf(job, nowS));
  const longest = Math.max(0.5, ...spans.map((life) => life.until - life.begun));
  const rows = new Map([...body.rows].map((row) => [row.dataset.job, row]));
  const wanted = jobs.map((job, at) => {
    const row = rows.get(job.id) ?? newRow(job, choose);
    fillRow(row, job, spans[at], longest);
    return row;
  });
  const isSame = wanted.length === body.rows.length && wanted.every((row, at) => body.rows[at] === row);
  if (!isSame) body.replaceChildren(...wanted);
  if (!wanted.length) body.replaceChildren(make("tr", {}, make("td", { colspan: "6", class: "empty" }, "No job is known yet. The playground below makes one.")));
}

function newRow(job, choose) {
  const row = make("tr", { "data-job": job.id });
  const button = make("button", { type: "button", title: job.id, onclick: () => choose(job.id) }, shortId(job.id));
  const bar = make("div", { class: "life", role: "img" }, make("span", { class: "queued" }), make("span", { class: "prefills" }), make("span", { class: "decodes" }));
  row.append(make("td", {}, button), make("td", {}, tenantName(job.told.tenant)), make("td", { class: "num" }, `${job.told.priority}`),
    make("td", {}, bar), make("td", { class: "num" }), make("td", { class: "reason" }));
  return row;
}

function fillRow(row, job, life, longest) {
  const [, , , barCell, tokens, now] = row.cells, bar = barCell.firstChild;
  const [queued, prefill, decode] = bar.children;
  const at = (seconds) => `${(100 * Math.max(0, seconds - life.begun)) / longest}%`;
  const part = (element, from, to) => {
    const isThere = from !== null && to !== null && to >= from;
    element.hidden = !isThere;
    if (!isThere) return;
    element.style.left = at(from);
    element.style.width = `${(100 * (to - from)) / longest}%`;
  };
  const runs = life.admitted ?? (life.waits ? null : life.begun);
  part(queued, life.begun, runs ?? life.until);
  // Who runs and was not seen to begin prefills still, or began before we looked.
  const isBegun = life.first !== null || !job.admittedS || life.ended !== null;
  part(prefill, runs, isBegun ? life.first : life.until);
  part(decode, isBegun ? (life.first ?? runs) : null, runs === null ? null : life.until);
  bar.setAttribute("aria-label", describe(life));
  bar.title = describe(life);
  const most = job.told.max_tokens ? ` / ${job.told.max_tokens}` : "";
  say(tokens, `${tokensOf(job)}${most}`);
  const [what, kind] = stateOf(job);
  say(now, what);
  now.className = `reason ${kind}`;
}

export function describe(life) {
  const parts = [];
  if (life.waits) return `queued for ${span(life.until - life.begun)} so far`;
  if (life.admitted !== null) parts.push(`queued ${span(Math.max(0, life.admitted - life.begun))}`);
  if (life.first !== null) parts.push(`first token after ${span(life.first - life.begun)}`);
  parts.push(`${life.ended ? "ended" : "goes on"} after ${span(life.until - life.begun)}`);
  return parts.join(", ");
}

export function drawLife(job, store) {
  const box = $("life");
  box.hidden = !job?.told;
  if (box.hidden) return;
  const { told } = job, life = lifeOf(job, store.nowS()), [what] = stateOf(job);
  const facts = [
    ["job", told.job], ["state", what], ["tenant", tenantName(told.tenant)], ["priority", `${told.priority}`],
    ["submitted", new Date(told.arrival_s * 1000).toLocaleTimeString()], ["life", describe(life)],
    ["prompt", `${told.prompt_tokens ?? "?"} tokens`], ["output", `${tokensOf(job)} of ${told.max_tokens ?? "?"} tokens at most`],
  ];
  const preemptions = Math.max(job.preemptions ?? 0, ...[...job.progress.values()].map((each) => each.preemptions ?? 0));
  if (preemptions) facts.push(["preempted", `${preemptions} times`]);
  if (job.worker) facts.push(["worker", job.worker]);
  if (told.note) facts.push(["note", told.note]);
  const list = make("dl");
  for (const [name, value] of facts) list.append(make("dt", {}, name), make("dd", {}, value));
  box.replaceChildren(make("strong", {}, "One life"), list);
}

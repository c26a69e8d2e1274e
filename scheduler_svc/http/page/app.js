// The page: what the feed tells goes into the store, and is drawn from there.

import { $, make, say } from "./dom.js";
import { follow } from "./feed.js";
import { drawLife, drawLives, drawQueue, drawTiles, drawWorkers } from "./panels.js";
import { Playground } from "./playground.js";
import { ask, useKey } from "./sse.js";
import { Steps, maxWaitingLines } from "./steps.js";
import { Store } from "./store.js";

const store = new Store();
const steps = new Steps($("steps"));
const playground = new Playground();
let chosenLane = null, chosenJob = null;

steps.isOver = (key) => {
  const job = store.jobs.get(key.slice(0, key.lastIndexOf(":")));
  return !job || job.endedS || job.told?.state === "ended";
};
steps.tenantOf = (jobId) => store.jobs.get(jobId)?.told?.tenant ?? "";

function chooseLane(worker) {
  if (chosenLane !== worker) steps.clear();
  chosenLane = worker;
  drawLanes();
}

function drawLanes() {
  const workers = [...new Set([...(store.state?.workers ?? []).map((each) => each.worker), ...store.liveLanes().map((lane) => lane.worker)])].sort();
  if (!workers.includes(chosenLane)) {
    chosenLane = workers[0] ?? null;
    steps.clear();
  }
  const box = $("lanes"), told = `${workers.join()}|${chosenLane}`;
  if (box.dataset.told === told) return;
  box.dataset.told = told;
  box.replaceChildren(...(workers.length > 1 ? workers : []).map((worker) =>
    make("button", { type: "button", "aria-pressed": `${worker === chosenLane}`, onclick: () => chooseLane(worker) }, worker)));
}

async function chooseJob(jobId) {
  chosenJob = jobId;
  drawLife(store.job(jobId), store);
  try {
    const answer = await ask(`/ui/jobs/${encodeURIComponent(jobId)}`);
    const job = store.job(jobId);
    job.told = { ...job.told, ...(await answer.json()) };
    drawLife(job, store);
  } catch {
    // What is known of it stands there already.
  }
}

let isDrawn = false;
function draw() {
  isDrawn = false;
  if (!store.state) return;
  drawTiles(store);
  drawQueue(store);
  drawWorkers(store);
  drawLives(store, chooseJob);
  if (chosenJob) drawLife(store.jobs.get(chosenJob), store);
}

// However much comes, it is drawn a few times a second.
function drawSoon() {
  if (isDrawn) return;
  isDrawn = true;
  setTimeout(draw, 200);
}

follow({
  hello: ({ model }) => {
    playground.model = model;
    say($("model"), model);
    document.title = `stepserve: ${model}`;
  },
  state: (state) => {
    store.takeState(state);
    drawLanes();
    say($("steps-text"), steps.summary());
    drawSoon();
  },
  lane: (frame) => {
    store.takeLane(frame);
    if (frame.worker) {
      drawLanes();
      if (frame.worker === chosenLane) {
        steps.maxRows = frame.places;
        steps.take(frame, store.waiting(maxWaitingLines));
        say($("steps-note"), frame.skipped ? `a column a step, ${frame.skipped} of the last tenth of a second left out` : "a column a step, the newest on the right");
      }
    }
    drawSoon();
  },
  link: (state, text) => {
    document.body.className = `is-${state}`;
    say($("link-text"), text);
    $("key-form").hidden = state !== "key";
  },
});

$("pause").addEventListener("click", () => {
  steps.isPaused = !steps.isPaused;
  $("pause").setAttribute("aria-pressed", `${steps.isPaused}`);
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
});
ask("/version").then((answer) => answer.json()).then(({ version }) => say($("version"), version)).catch(() => {});

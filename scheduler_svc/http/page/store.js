// What is known of the service, as the feed has told it so far.

const LANE_SILENCE_MS = 4000, WINDOW_MS = 30000, MAX_LIVES = 60, NUM_SAMPLES = 40;

export class Store {
  constructor() {
    this.state = null; // of the whole service, once a second
    this.lanes = new Map(); // by worker: its newest frame
    this.jobs = new Map(); // by id: what is known of a job, from either
    this.latencies = new Map(); // by scheduler: samples of its histograms
    this.rates = []; // tokens a second, of late
    this.firsts = [];
    this.betweens = [];
    this.offsetMs = null; // of the service's clock against ours
  }

  nowS() {
    return (Date.now() + (this.offsetMs ?? 0)) / 1000;
  }

  takeState(state) {
    this.state = state;
    const offset = state.now_s * 1000 - Date.now();
    this.offsetMs = this.offsetMs === null ? offset : this.offsetMs + (offset - this.offsetMs) / 8;
    for (const told of state.jobs) this.job(told.job).told = told;
    for (const told of state.queue.first) {
      const job = this.job(told.job);
      job.told = { ...job.told, ...told, state: "queued", outputs: job.told?.outputs ?? [] };
    }
    this.sample();
    this.forget();
  }

  takeLane(frame) {
    if (frame.first_token_s) return this.takeLatencies(frame);
    frame.heardMs = performance.now();
    const before = this.lanes.get(frame.worker);
    const members = frame.members ?? [];
    frame.members ??= before?.members ?? [];
    this.lanes.set(frame.worker, frame);
    for (const [what, atMs, jobId, index, ...rest] of frame.lives) this.happened(what, atMs / 1000, jobId, index, rest);
    for (const member of members) this.meet(member, frame.worker);
  }

  meet([jobId, index, tenant, priority, promptTokens, outputTokens, maxTokens, state, preemptions, arrivalS], worker) {
    const job = this.job(jobId);
    job.worker = worker;
    job.told = {
      ...{ job: jobId, tenant, priority, state: "running", arrival_s: arrivalS, prompt_tokens: promptTokens, max_tokens: maxTokens, outputs: [] },
      ...job.told,
    };
    job.progress.set(index, { tokens: outputTokens, state, preemptions });
  }

  happened(what, atS, jobId, index, rest) {
    const job = this.job(jobId);
    const progress = job.progress.get(index);
    if (progress && (what === "admitted" || what === "preempted")) progress.state = what === "admitted" ? "running" : "waiting";
    if (what === "admitted") job.admittedS ??= atS;
    else if (what === "first") job.firstS ??= atS;
    else if (what === "preempted") job.preemptions = (job.preemptions ?? 0) + 1;
    else if (what === "ended") {
      job.endedS = atS;
      if (rest[0]) job.reason = rest[0];
    }
  }

  job(jobId) {
    if (!this.jobs.has(jobId)) this.jobs.set(jobId, { id: jobId, told: null, progress: new Map() });
    return this.jobs.get(jobId);
  }

  takeLatencies(frame) {
    const samples = this.latencies.get(frame.holder) ?? [];
    samples.push(frame);
    while (samples.length > 2 && frame.at - samples[0].at > WINDOW_MS) samples.shift();
    this.latencies.set(frame.holder, samples);
  }

  // Of the last half minute: the share's quantile in seconds, null where there was nothing.
  quantile(name, share) {
    let counts = null, bounds = null;
    for (const samples of this.latencies.values()) {
      const first = samples[0][name], last = samples.at(-1)[name];
      bounds = last.bounds;
      counts ??= new Array(last.counts.length).fill(0);
      last.counts.forEach((count, at) => (counts[at] += Math.max(0, count - first.counts[at])));
    }
    const total = counts?.reduce((sum, count) => sum + count, 0) ?? 0;
    if (!total) return null;
    let left = share * total;
    for (let at = 0; at < counts.length; at++) {
      if (counts[at] >= left) {
        const low = at ? bounds[at - 1] : 0, high = bounds[at] ?? bounds.at(-1);
        return low + ((high - low) * left) / counts[at];
      }
      left -= counts[at];
    }
    return bounds.at(-1);
  }

  tokensPerS() {
    let rate = 0;
    for (const samples of this.latencies.values()) {
      const last = samples.at(-1);
      const from = samples.find((sample) => last.at - sample.at <= 3000) ?? samples[0];
      const before = from === last ? samples.at(-2) : from;
      if (before && last.at > before.at && Date.now() + this.offsetMs - last.at < LANE_SILENCE_MS)
        rate += (1000 * (last.output_tokens - before.output_tokens)) / (last.at - before.at);
    }
    return rate;
  }

  sample() {
    const push = (list, value) => {
      list.push(value);
      if (list.length > NUM_SAMPLES) list.shift();
    };
    push(this.rates, this.tokensPerS());
    push(this.firsts, this.quantile("first_token_s", 0.5));
    push(this.betweens, this.quantile("between_tokens_s", 0.5));
  }

  // Those that wait, in the line or at a lane, as the picture names them; first come first.
  waiting(most) {
    const found = [];
    for (const job of this.jobs.values()) {
      if (!job.told || job.told.state === "ended" || job.endedS) continue;
      const progress = [...job.progress.entries()];
      for (const [index, each] of progress) if (each.state === "waiting") found.push([job.told.arrival_s, `${job.id}:${index}`]);
      if (!progress.length && !job.admittedS) found.push([job.told.arrival_s, `${job.id}:0`]);
    }
    return found.sort((a, b) => a[0] - b[0]).slice(0, most).map(([, key]) => key);
  }

  // Lanes that were heard of late.
  liveLanes() {
    const now = performance.now();
    return [...this.lanes.values()].filter((lane) => now - lane.heardMs < LANE_SILENCE_MS);
  }

  forget() {
    const now = performance.now();
    for (const [worker, lane] of this.lanes) if (now - lane.heardMs > 10 * LANE_SILENCE_MS) this.lanes.delete(worker);
    for (const [holder, samples] of this.latencies) if (Date.now() + this.offsetMs - samples.at(-1).at > WINDOW_MS) this.latencies.delete(holder);
    const queued = new Set(this.state.queue.first.map((each) => each.job));
    const known = new Set(this.state.jobs.map((each) => each.job));
    for (const job of this.lives().slice(MAX_LIVES)) this.jobs.delete(job.id);
    for (const [id, job] of this.jobs) {
      // One that waited and is heard of no more was passed over by our short list, or is gone.
      if (job.told?.state === "queued" && !queued.has(id) && !job.admittedS) this.jobs.delete(id);
      else if (job.told?.state === "running" && !known.has(id) && job.endedS) job.told.state = "ended";
    }
  }

  // The jobs that something is known of, the newest first.
  lives() {
    return [...this.jobs.values()].filter((job) => job.told).sort((a, b) => b.told.arrival_s - a.told.arrival_s || (a.id < b.id ? -1 : 1));
  }
}

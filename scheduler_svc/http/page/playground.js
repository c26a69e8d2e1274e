// A completion or a chat, as a response in the background: it goes on whatever becomes of the page,
// which remembers its id and the number of the last event, and reads on after that.

import { $, say } from "./dom.js";
import { ask, events } from "./sse.js";

const KEPT = "stepserve.playground";
const PAUSE_MS = 700;

export class Playground {
  constructor() {
    this.model = "";
    this.work = null; // what is followed: {mode, prompt, text, ...where it goes on}
    $("play").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("p-stop").addEventListener("click", () => this.cancel());
    $("p-text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("play").requestSubmit();
    });
    this.work = this.kept();
    if (this.work) this.restore();
  }

  kept() {
    try {
      return JSON.parse(localStorage.getItem(KEPT));
    } catch {
      return null;
    }
  }

  keep() {
    localStorage.setItem(KEPT, JSON.stringify(this.work));
  }

  restore() {
    const { work } = this;
    $("p-mode").value = work.mode;
    $("p-text").value = work.prompt;
    $("p-max").value = work.maxTokens;
    $("p-temperature").value = work.temperature;
    this.show();
    if (!work.isOver) this.follow(true);
    else say($("p-note"), work.note ?? "");
  }

  async send() {
    if (this.isBusy()) return;
    this.work = {
      mode: $("p-mode").value, prompt: $("p-text").value, maxTokens: Number($("p-max").value),
      temperature: Number($("p-temperature").value), key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
      text: "", lastId: "", responseId: "", isOver: false,
    };
    this.keep();
    this.show();
    await this.follow(false);
  }

  isBusy = () => this.work !== null && !this.work.isOver;

  async follow(isAgain) {
    const { work } = this;
    this.stop = new AbortController();
    this.buttons();
    for (let attempt = 0; !work.isOver; attempt++) {
      const again = isAgain || attempt > 0;
      const from = work.lastId && again ? `, read on after event ${work.lastId.slice(-18)}` : "";
      say($("p-note"), again ? `attached again${from}` : "sent, waiting for the first token");
      try {
        await (work.mode === "chat" ? this.followChat() : this.followCompletion());
        if (work.isOver) break;
      } catch (error) {
        if (error.name === "AbortError" || work !== this.work) return;
        if (error.status && error.status < 500 && error.status !== 429) {
          this.over(error.message);
          break;
        }
        say($("p-note"), `${error.message}; trying again`);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.buttons();
  }

  // The same request again, with its key and the last id, goes on where it was.
  async followCompletion() {
    const { work } = this;
    const headers = { "content-type": "application/json", "idempotency-key": work.key };
    if (work.lastId) headers["last-event-id"] = work.lastId;
    const body = JSON.stringify({ prompt: work.prompt, max_tokens: work.maxTokens, temperature: work.temperature, stream: true });
    const answer = await ask("/v1/completions", { method: "POST", headers, body, signal: this.stop.signal });
    for await (const event of events(answer)) {
      if (event.data === "[DONE]") return;
      const told = JSON.parse(event.data);
      if (told.error) return this.over(told.error.message);
      const [choice] = told.choices;
      work.responseId = told.id;
      this.add(choice.text, event.id);
      if (choice.finish_reason) this.over(`ended: ${choice.finish_reason}`);
    }
  }

  async followChat() {
    const { work } = this;
    const answer = work.responseId
      ? await ask(`/v1/responses/${encodeURIComponent(work.responseId)}?stream=true${work.lastId ? `&starting_after=${work.lastId}` : ""}`, { signal: this.stop.signal })
      : await this.create();
    for await (const event of events(answer)) {
      const told = JSON.parse(event.data);
      if (told.response?.id) work.responseId = told.response.id;
      if (told.type === "error") throw new Error(told.message);
      this.add(told.type === "response.output_text.delta" ? told.delta : "", event.id);
      const end = /^response\.(completed|incomplete|failed|cancelled)$/.exec(told.type);
      if (end) this.over(`ended: ${told.response.incomplete_details?.reason ?? end[1]}`);
    }
  }

  create() {
    const { work } = this;
    const body = JSON.stringify({
      input: work.prompt, max_output_tokens: work.maxTokens, temperature: work.temperature, background: true, stream: true,
    });
    const headers = { "content-type": "application/json", "idempotency-key": work.key };
    return ask("/v1/responses", { method: "POST", headers, body, signal: this.stop.signal });
  }

  add(text, id) {
    const { work } = this;
    if (text && !work.text) say($("p-note"), `${work.mode === "chat" ? "response" : "completion"} ${work.responseId}`);
    work.text += text;
    if (id) work.lastId = id;
    this.keep();
    this.show();
  }

  over(note) {
    const { work } = this;
    work.isOver = true;
    work.note = work.responseId ? `${work.responseId}, ${note}` : note;
    this.keep();
    say($("p-note"), work.note);
    this.buttons();
  }

  async cancel() {
    const { work } = this;
    this.stop?.abort();
    if (work.mode === "chat" && work.responseId) {
      await ask(`/v1/responses/${encodeURIComponent(work.responseId)}/cancel`, { method: "POST" }).catch(() => {});
    }
    this.over(work.mode === "chat" ? "cancelled" : "left: it is cancelled in a moment");
  }

  buttons() {
    $("p-send").disabled = this.isBusy();
    $("p-stop").disabled = !this.isBusy();
    $("p-output").classList.toggle("is-open", this.isBusy());
  }

  show() {
    const output = $("p-output"), { work } = this;
    const isAtEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 8;
    const given = document.createElement("span");
    given.className = "given";
    given.textContent = work.mode === "complete" ? work.prompt : "";
    output.replaceChildren(given, work.text);
    if (isAtEnd) output.scrollTop = output.scrollHeight;
  }
}
